"""`cancel_ms_p99`, `cancel_forwards`: clients that close their sockets while their requests wait for the device.

A wave: the worker is stopped (SIGSTOP) with a request, others queue up behind it, all their clients leave at once, and it goes on. A wave
stays below the number of requests that the service lets wait; there are as many as it takes. Measured from `close` to the line in the log.
"""

import contextlib
import http.client
import math
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import Event, Service, paused, service
from tests.bench.service.rows import Row, at_most, exactly, percentile

LEAVERS = 250
WAVE = 50
SMALL = 1024
BAR_MS = 100.0
QUEUED_S, LOGGED_S = 20.0, 60.0
CLIENT_LEFT = 499
FORWARDS = "fip_batch_requests_sum"  # requests in forward passes


@dataclass
class Stayed:
    """A client that waits for its answer."""

    status: int = 0


def rows() -> list[Row]:
    with service() as running:
        before = running.metric(FORWARDS)
        left, living, events = dict[str, float](), list[Stayed](), list[Event]()
        while len(left) < LEAVERS:
            since = running.log_size()
            gone, stayed = wave(running, len(left))
            left |= gone
            living.append(stayed)
            events += await_left(running, gone, since)
        ran = running.metric(FORWARDS) - before - len(living)
    stages = Counter(str(each.get("stage")) for each in events)
    queued = [each for each in events if each.get("stage") == "queue"]
    ms = [1000 * (logged(each) - left[str(each["request_id"])]) for each in queued]
    detail = {"left": len(left), "stages": dict(stages), "living_answered": sum(each.status == 200 for each in living)}
    enough = len(queued) >= 200 and all(each.status == 200 for each in living)
    latency = at_most("cancel_ms_p99", percentile(ms, 0.99), BAR_MS, "ms", **detail, p50_ms=round(percentile(ms, 0.5), 2))
    return [row if enough else {**row, "holds": False} for row in (latency, exactly("cancel_forwards", ran, 0, waves=len(living)))]


def wave(running: Service, first: int) -> tuple[dict[str, float], Stayed]:
    """Small requests behind another; when each of their clients left (seconds of the clock), by request id."""
    stayed = Stayed()
    living = threading.Thread(target=ask, args=(running, stayed))
    with paused(running.worker_pid()):
        living.start()
        await_queue(running, 1)
        waiting = {f"leaver-{number}": send(running.address, f"leaver-{number}") for number in range(first, first + WAVE)}
        await_queue(running, 1 + WAVE)
        gone = {}
        for name, connection in waiting.items():
            gone[name] = time.time()
            connection.close()
        await_queue(running, 1, most=1)
    living.join()
    return gone, stayed


def ask(running: Service, stayed: Stayed) -> None:
    """Classify a cloud, and wait for the answer."""
    connection = http.client.HTTPConnection(*running.address, timeout=300)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/classify", ply(ball(SMALL)))
        answer = connection.getresponse()
        answer.read()
        stayed.status = answer.status


def send(address: tuple[str, int], name: str) -> socket.socket:
    """Send a whole request and read nothing."""
    body = ply(ball(SMALL))
    connection = socket.create_connection(address, timeout=30)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def await_queue(running: Service, requests: int, most: float = math.inf) -> None:
    """Until so many wait for the device or hold it. Raises: TimeoutError."""
    deadline = time.monotonic() + QUEUED_S
    while not requests <= (found := running.metric("fip_queue_requests")) <= most:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} requests in the queue after {QUEUED_S} s, not {requests}")
        time.sleep(0.01)


def await_left(running: Service, gone: dict[str, float], since: int) -> list[Event]:
    """The line of each that left. Raises: TimeoutError, RuntimeError (one was answered, or is said to have stayed)."""
    deadline = time.monotonic() + LOGGED_S
    while len(found := [each for each in running.events("request", since) if each.get("request_id") in gone]) < len(gone):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(found)} of {len(gone)} requests whose clients left are in the log after {LOGGED_S} s")
        time.sleep(0.05)
    if wrong := [each for each in found if each["status"] != CLIENT_LEFT]:
        raise RuntimeError(f"{len(wrong)} of {len(found)} requests whose clients left have another status: {wrong[0]}")
    return found


def logged(event: Event) -> float:
    """When it was written, seconds of the clock."""
    return datetime.fromisoformat(str(event["time"])).timestamp()
