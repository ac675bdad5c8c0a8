"""What tests of a service under fire do to it: stop and kill its worker, look at its metrics, wait until it has got somewhere."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

GIVE_UP_S = 30.0
PROMPT_S = 10.0  # what is done at once takes no longer on the busiest machine, and what hangs or is quadratic does


def worker_pid(app: FastAPI) -> int:
    pid: int = app.state.context.device.wait().pid
    return pid


@contextmanager
def paused(app: FastAPI) -> Iterator[int]:
    """The worker is stopped meanwhile: the device is busy for as long as it takes."""
    pid = worker_pid(app)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(pid, signal.SIGCONT)


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The sum of all values of a metric with these labels."""
    found = 0.0
    for line in client.get("/metrics").text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            found += float(match[2])
    return found


def until(condition: Callable[[], bool], what: str, give_up_s: float = GIVE_UP_S) -> float:
    """Wait for it; the seconds that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + give_up_s:
            raise AssertionError(f"not within {give_up_s} s: {what}")
        time.sleep(0.005)
    return time.monotonic() - began


def waiting(client: httpx.Client, requests: int) -> None:
    """Until so many wait for the device or hold it."""
    until(lambda: metric(client, "fip_queue_requests") == requests, f"{requests} requests in line")


def request_lines(caplog: pytest.LogCaptureFixture, many: int = 1) -> list[dict[str, Any]]:
    """The fields of so many requests' lines in the log: the last one comes after the answer has been sent."""

    def logged() -> list[dict[str, Any]]:
        records = list(caplog.records)  # another thread goes on writing
        return [record.__dict__["fields"] for record in records if (record.name, record.getMessage()) == ("fip.service", "request")]

    until(lambda: len(logged()) >= many, f"{many} lines of requests in the log")
    return logged()
