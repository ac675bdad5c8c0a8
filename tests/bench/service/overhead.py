"""`overhead_p50_ms`, `overhead_p99_ms`: what the service adds to parsing, voxelizing and the net, for one client on a real socket."""

import http.client
import json
import time

from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import Service, service
from tests.bench.service.rows import Row, at_most, percentile

POINTS = 100_000
REQUESTS, WARM_UPS = 500, 20
P50_MS, P99_MS = 3.0, 10.0
OWN = ("parse", "voxelize", "forward")


def rows() -> list[Row]:
    with service() as running:
        extra, stages = overhead_ms(running, POINTS, REQUESTS)
    detail = {"requests": REQUESTS, "points": POINTS}
    return [
        at_most("overhead_p50_ms", percentile(extra, 0.50), P50_MS, "ms", **detail, stages_p50_ms=stages),
        at_most("overhead_p99_ms", percentile(extra, 0.99), P99_MS, "ms", **detail, largest=round(max(extra), 3)),
    ]


def overhead_ms(running: Service, points: int, requests: int) -> tuple[list[float], dict[str, float]]:
    """Of each request total − parse − voxelize − forward, in ms, and the median of each stage.

    The client is the standard library's: it adds least of its own.
    """
    connection = http.client.HTTPConnection(*running.address, timeout=60)
    body, extra, stages = ply(ball(points)), [], dict[str, list[float]]()
    for turn in range(WARM_UPS + requests):
        started = time.perf_counter()
        connection.request("POST", "/v1/classify", body)
        answer = connection.getresponse()
        content = answer.read()
        total_ms = (time.perf_counter() - started) * 1000
        if answer.status != 200:
            raise RuntimeError(f"answered {answer.status}: {content[:300]!r}")
        if turn >= WARM_UPS:
            timings = json.loads(content)["timings_ms"]
            extra.append(total_ms - sum(timings[stage] for stage in OWN))
            for stage, value in timings.items():
                stages.setdefault(stage, []).append(value)
    connection.close()
    return extra, {stage: round(percentile(values, 0.5), 3) for stage, values in stages.items()}
