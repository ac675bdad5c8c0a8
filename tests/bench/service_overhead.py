"""What bench-io tells of the service: what it adds to reading, and how fast it refuses bad input."""

import json

from tests.bench.service import refusals
from tests.bench.service.overhead import overhead_ms
from tests.bench.service.process import service
from tests.bench.service.rows import Row, at_most, percentile

BAR_MS = 5.0
REQUESTS = 50


def rows() -> list[Row]:
    """Benchmark rows {name, value, unit, bar, holds}."""
    found = []
    with service() as running:
        for points, suffix in ((1_024, "_1024_points"), (100_000, "")):
            extra, _ = overhead_ms(running, points, REQUESTS)
            found.append(at_most(f"service_overhead_p50_ms{suffix}", percentile(extra, 0.5), BAR_MS, "ms"))
    return found + refusals.rows()


if __name__ == "__main__":
    print(json.dumps(rows(), indent=2))
