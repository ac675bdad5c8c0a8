"""`fip bench`: load for a running service, and what came of it. `LoadPlan` in, `LoadResult` out; nothing of torch is imported here."""
