"""`worker_kill_recovery_s`, `worker_kill_lost`, `not_ready_s`: the worker process is killed under steady load, again and again.

Recovery: from the kill until /health/ready is 200 again and a request sent after the kill was answered. Lost: requests of the load
that were answered with anything but 200, or not at all.
"""

import http.client
import math
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass

from service.load.client import load
from service.load.plan import Body, LoadPlan
from service.load.records import LoadResult
from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import Service, service
from tests.bench.service.rows import Row, at_most, exactly

KILLS = 6
STEADY_S, PAUSE_S = 4.0, 6.0
RATE = 15.0  # requests a second; what comes while there is no worker must find room in the queue
POINTS = (1_024, 4_096, 20_000)
RECOVERY_S, NOT_READY_S, GIVE_UP_S = 15.0, 2.0, 60.0
POLL_S = 0.010


@dataclass(frozen=True)
class Kill:
    """Seconds after the kill. not_ready: when that was first seen, nan if it never was; answered: a request sent right after the kill."""

    not_ready: float
    ready: float
    answered: float

    @property
    def recovery(self) -> float:
        return max(self.ready, self.answered)


def rows() -> list[Row]:
    bodies = tuple(Body(f"{points}.ply", ply(ball(points))) for points in POINTS)
    with service() as running:
        plan = LoadPlan(running.url, bodies, rate=RATE, duration_s=STEADY_S + KILLS * PAUSE_S)
        found: list[LoadResult] = []
        loading = threading.Thread(target=lambda: found.append(load(plan)))
        loading.start()
        time.sleep(STEADY_S)
        kills = [kill(running, bodies[0].data) for _ in range(KILLS)]
        loading.join()
        started = len(running.events("worker ready"))
    [result] = found
    lost = [record for record in result.records if record.status != 200]
    seen = [each.not_ready for each in kills if not math.isnan(each.not_ready)]
    latest = round(max(record.latency_s for record in result.records), 3)
    detail = {"kills": KILLS, "workers_started": started, "each": [round(each.recovery, 3) for each in kills]}
    statuses = Counter(str(record.status) for record in result.records)
    return [
        at_most("worker_kill_recovery_s", max(each.recovery for each in kills), RECOVERY_S, "s", **detail),
        exactly("worker_kill_lost", len(lost), 0, requests=len(result.records), statuses=dict(statuses), slowest_s=latest, rate_per_s=RATE),
        at_most("not_ready_s", max(seen, default=math.nan), NOT_READY_S, "s", seen=f"{len(seen)} of {KILLS}", polled_every_s=POLL_S),
    ]


def kill(running: Service, body: bytes) -> Kill:
    """Kill the worker of now, and watch until the service is whole again; then let it be for a while."""
    pid = running.worker_pid()
    answered: list[float] = []
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    asking = threading.Thread(target=lambda: answered.append(ask(running, body) - began))
    asking.start()
    not_ready, ready = watch(running, began, asking)
    asking.join()
    time.sleep(max(0.0, PAUSE_S - (time.perf_counter() - began)))
    return Kill(not_ready, ready, answered[0] if answered else math.inf)


def watch(running: Service, began: float, asking: threading.Thread) -> tuple[float, float]:
    """When the service first said that it is not ready (nan: never), and when it last became ready; seconds after `began`.

    Until the request is answered and the service is ready. Raises: TimeoutError.
    """
    not_ready, ready = math.nan, math.nan
    connection = http.client.HTTPConnection(*running.address, timeout=10)
    while math.isnan(ready) or asking.is_alive():
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        answer.read()
        now = time.perf_counter() - began
        if answer.status != 200:
            not_ready, ready = (now if math.isnan(not_ready) else not_ready), math.nan
        elif math.isnan(ready):
            ready = now
        if now > GIVE_UP_S:
            raise TimeoutError(f"not whole again {GIVE_UP_S} s after its worker was killed")
        time.sleep(POLL_S)
    connection.close()
    return not_ready, ready


def ask(running: Service, body: bytes) -> float:
    """When a request that is sent now is answered with 200. Raises: RuntimeError."""
    connection = http.client.HTTPConnection(*running.address, timeout=GIVE_UP_S)
    connection.request("POST", "/v1/classify", body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"answered {answer.status} after the kill: {content[:300]!r}")
    return time.perf_counter()
