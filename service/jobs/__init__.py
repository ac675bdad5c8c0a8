"""Clouds too large to wait for on a connection: jobs that survive the end of the process, however it comes."""
