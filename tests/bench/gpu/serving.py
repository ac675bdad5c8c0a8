"""A LiDAR scan through the service with its nets on a device: one after the other, and ten a second for a while."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.bench.engine.timing import row, say
from tests.bench.report import Row
from tests.bench.service.process import service

SCAN = Path("semantickitti/sequences/00/velodyne/000000.bin")
MODEL = "lidar19"
ALONE, PER_SECOND, SECONDS = 30, 10, 30
START_S = 300.0
END_TO_END_MS = 60.0


def rows(data: Path, precision: str = "fp16") -> list[Row]:
    """Raises: RuntimeError (an answer that is not 200, or a service that does not start)."""
    scan = (data / SCAN).read_bytes()
    with (
        service(wait=False, FIP_DEVICE="cuda", FIP_PRECISION=precision) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        say("the service starts")
        began = time.monotonic()
        while not _ready(client):
            if running.process.poll() is not None or time.monotonic() - began > START_S:
                raise RuntimeError("the service does not start")
            time.sleep(0.1)
        started_s = time.monotonic() - began
        for _ in range(5):
            _segment(client, scan)
        say("scans, one after the other")
        alone = [_segment(client, scan) for _ in range(ALONE)]
        say(f"{PER_SECOND} scans a second")
        taken, answered = _sustained(client, scan)
    name = f"service_scan_{precision}"
    return [
        row(f"{name}_ms", 1e3 * statistics.median(alone), "ms", most=END_TO_END_MS),
        row(f"{name}_p95_ms", 1e3 * statistics.quantiles(alone, n=20)[-1], "ms"),
        row(f"{name}_sustained_per_s", answered, "/s", least=PER_SECOND * 0.99),  # the last ones are still on the way
        row(f"{name}_sustained_p95_ms", 1e3 * statistics.quantiles(taken, n=20)[-1], "ms"),
        row("service_start_s", started_s, "s"),
    ]


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _segment(client: httpx.Client, scan: bytes) -> float:
    """Seconds from the first byte sent to the last one received."""
    began = time.perf_counter()
    answer = client.post("/v1/segment", params={"input_format": "bin", "model": MODEL, "format": "label"}, content=scan)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")
    return time.perf_counter() - began


def _sustained(client: httpx.Client, scan: bytes) -> tuple[list[float], float]:
    """Seconds of each scan, sent at its time whether or not those before were answered; and how many were answered a second."""
    count, began = PER_SECOND * SECONDS, time.perf_counter()
    with ThreadPoolExecutor(64) as threads:
        pending = []
        for number in range(count):
            time.sleep(max(0.0, began + number / PER_SECOND - time.perf_counter()))
            pending.append(threads.submit(_segment, client, scan))
        taken = [each.result() for each in pending]
    return taken, count / max(time.perf_counter() - began, SECONDS)
