"""`ready_s`: from starting the process to /health/ready 200 with the bundled models, in a warm environment."""

import statistics
import time

from tests.bench.service.process import service, wait_ready
from tests.bench.service.rows import Row, at_most

STARTS = 5
BAR_S = 5.0
POLL_S = 0.005


def rows() -> list[Row]:
    """The first start fills the caches of the system and is not counted."""
    times = [start_s() for _ in range(1 + STARTS)]
    counted = times[1:]
    return [at_most("ready_s", statistics.median(counted), BAR_S, "s", starts=[round(each, 3) for each in counted])]


def start_s() -> float:
    began = time.perf_counter()
    with service(wait=False) as running:
        wait_ready(running.url, running.process, pause_s=POLL_S)
        return time.perf_counter() - began
