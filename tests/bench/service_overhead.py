"""What the service adds to parsing, voxelizing and the net, and how fast it refuses bad input; over real sockets, one client.

`rows()` starts `fip serve` with the bundled model in a process of its own. Or: python -m tests.bench.service_overhead
"""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from tests.contract.test_bad_input import BODY_LIMIT, CASES, Case, read_answer

ROOT = Path(__file__).resolve().parents[2]

OVERHEAD_BAR_MS = 5.0
REFUSAL_BAR_MS = 50.0
WARM_UPS, REPEATS = 5, 50
READY_S = 60.0


def rows() -> list[dict[str, object]]:
    """Benchmark rows {name, value, unit, bar, holds}."""
    with serving() as url:
        found = [overhead_row(url, points) for points in (1_024, 100_000)]
    with serving(FIP_MAX_BODY_BYTES=str(BODY_LIMIT)) as url, httpx.Client(base_url=url, timeout=60) as client:
        found += [*(refusal_row(client, case) for case in CASES), too_large_row(url)]
    return found


def overhead_row(url: str, points: int) -> dict[str, object]:
    """Median of total − parse − voxelize − forward, ms. The client is the standard library's: it adds least of its own."""
    address = httpx.URL(url)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    body = binary_ply(points)
    extra = []
    for _ in range(WARM_UPS + REPEATS):
        started = time.perf_counter()
        connection.request("POST", "/v1/classify", body)
        answer = connection.getresponse().read()
        total_ms = (time.perf_counter() - started) * 1000
        timings = json.loads(answer)["timings_ms"]
        extra.append(total_ms - timings["parse"] - timings["voxelize"] - timings["forward"])
    connection.close()
    suffix = "" if points == 100_000 else f"_{points}_points"
    return row(f"service_overhead_p50_ms{suffix}", statistics.median(extra[WARM_UPS:]), OVERHEAD_BAR_MS)


def refusal_row(client: httpx.Client, case: Case) -> dict[str, object]:
    """Median time until the answer to one bad input is read, ms; `holds` asks for the right answer too."""
    times, right = [], True
    for _ in range(5):
        started = time.perf_counter()
        response = client.post("/v1/classify", params=case.query, headers=case.headers, content=case.body)
        times.append((time.perf_counter() - started) * 1000)
        right &= response.status_code == case.status and response.json().get("code") == case.code
    right &= client.get("/health/ready").status_code == 200
    result = row(f"bad_input_{case.name}_ms", statistics.median(times), REFUSAL_BAR_MS)
    return {**result, "holds": bool(result["holds"]) and right}


def too_large_row(url: str) -> dict[str, object]:
    """Median time until the answer to the announcement of a body over the limit, ms: none of it is sent, none is waited for."""
    address = httpx.URL(url)
    times, right = [], True
    for _ in range(5):
        with socket.create_connection((address.host, address.port or 0), timeout=5) as connection:
            started = time.perf_counter()
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1))
            right &= read_answer(connection) == (413, "body_too_large")
            times.append((time.perf_counter() - started) * 1000)
    result = row("bad_input_body_over_the_limit_ms", statistics.median(times), REFUSAL_BAR_MS)
    return {**result, "holds": bool(result["holds"]) and right}


def row(name: str, value_ms: float, bar_ms: float) -> dict[str, object]:
    return {"name": name, "value": round(value_ms, 3), "unit": "ms", "bar": f"<= {bar_ms:g}", "holds": value_ms <= bar_ms}


def binary_ply(points: int) -> bytes:
    xyz = np.random.default_rng(0).normal(size=(points, 3)).astype("<f4")
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {points}\n"
    return (header + "property float x\nproperty float y\nproperty float z\nend_header\n").encode() + xyz.tobytes()


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """`fip serve` on a free port; its address. Stopped on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from service.cli import serve; serve()", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        wait_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the service did not become ready (exit status {process.poll()})")


if __name__ == "__main__":
    print(json.dumps(rows(), indent=2))
