"""Nets in a process of their own: what a failing device, a full memory or a crash takes down is a worker, never the service."""
