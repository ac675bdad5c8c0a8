"""How fast bad input is refused, and whether rightly: rows of bench-io."""

import socket
import statistics
import time

import httpx

from tests.bench.service.process import service
from tests.bench.service.rows import Row, at_most
from tests.contract.test_bad_input import BODY_LIMIT, CASES, Case, read_answer

BAR_MS = 50.0
REPEATS = 5


def rows() -> list[Row]:
    with service(FIP_MAX_BODY_BYTES=str(BODY_LIMIT)) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        return [*(refusal_row(client, case) for case in CASES), too_large_row(running.address)]


def refusal_row(client: httpx.Client, case: Case) -> Row:
    """Median time until the answer to one bad input is read, ms; `holds` asks for the right answer too."""
    times, right = [], True
    for _ in range(REPEATS):
        started = time.perf_counter()
        response = client.post("/v1/classify", params=case.query, headers=case.headers, content=case.body)
        times.append((time.perf_counter() - started) * 1000)
        right &= response.status_code == case.status and response.json().get("code") == case.code
    right &= client.get("/health/ready").status_code == 200
    return _row(f"bad_input_{case.name}_ms", times, right)


def too_large_row(address: tuple[str, int]) -> Row:
    """Median time until the answer to the announcement of a body over the limit, ms: none of it is sent, none is waited for."""
    times, right = [], True
    for _ in range(REPEATS):
        with socket.create_connection(address, timeout=5) as connection:
            started = time.perf_counter()
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1))
            right &= read_answer(connection) == (413, "body_too_large")
            times.append((time.perf_counter() - started) * 1000)
    return _row("bad_input_body_over_the_limit_ms", times, right)


def _row(name: str, times: list[float], right: bool) -> Row:
    row = at_most(name, statistics.median(times), BAR_MS, "ms")
    return row if right else {**row, "holds": False}
