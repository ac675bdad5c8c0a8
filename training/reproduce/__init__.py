"""Reruns of the paper's tables and figures: trials that are trained once, and pages that are made of their records.

tables (what is compared) -> search (which trials are missing) -> runner (processes) -> trial (one training) -> a record on disk
records -> pages (tables and plots)
"""
