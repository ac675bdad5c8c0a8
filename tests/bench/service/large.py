"""`large_small_p99_ratio`, `large_small_failures`: small clouds that come steadily, alone and beside one of 20 million points.

The large one is segmented. It is made up: streets side by side, 320 MB as KITTI has them, within what the service takes by default. It goes
from the disk into the socket, which costs its client next to nothing; that leaves with its answer, or a minute after it began to send.
"""

import asyncio
import contextlib
import http.client
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.service.clouds import ball, kitti, ply, street
from tests.bench.service.process import Event, Service, service
from tests.bench.service.rows import Row, at_most, exactly, percentile, told
from tests.published import Answer, steadily

SMALL, RATE = 1024, 10.0
WARM_UP_S, ALONE_S, PATIENCE_S = 3.0, 20.0, 60.0
STREETS, POINTS, HALF_M = 160, 125_000, 35.0
BAR = 8.0
LOGGED_S = 60.0  # what a thread is at when the client leaves is finished first
NAME = "town"


@dataclass(frozen=True)
class Large:
    """What its client saw, on the monotonic clock. sent_s: when the last byte had gone; status: 0 if it left without an answer."""

    began_s: float
    sent_s: float
    ended_s: float
    status: int = 0
    tiles: str = ""


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_town(Path(folder) / f"{NAME}.bin")
        size = path.stat().st_size
        with service() as running:
            answers, large = asyncio.run(small_and_large(running, path))
            event = logged(running)
    first_s = answers[0].began_s + WARM_UP_S
    alone = [answer for answer in answers if first_s <= answer.began_s < large.began_s]
    beside = [answer for answer in answers if large.began_s <= answer.began_s < large.ended_s]
    failed = [answer for answer in answers if answer.status != 200]
    p99 = ms(beside, 0.99)
    times = {"p50_ms": ms(beside, 0.5), "slowest_ms": ms(beside, 1), "p50_ms_alone": ms(alone, 0.5), "p99_ms_alone": ms(alone, 0.99)}
    became = {
        "large_points": STREETS * POINTS,
        "large_bytes": size,
        "large_sent_s": round(large.sent_s - large.began_s, 1),
        "large_seconds": round(large.ended_s - large.began_s, 1),
        "large_reached": event.get("stage") or f"status {large.status}",
        "large_voxels_begun": event.get("num_voxels", 0),
        "large_tiles": large.tiles or "not told",
    }
    return [
        told("large_small_p99_ms", p99, "ms", **times, **became),
        at_most("large_small_p99_ratio", p99 / ms(alone, 0.99), BAR, "x", per_s=RATE, alone=len(alone), beside=len(beside)),
        exactly("large_small_failures", len(failed), 0, requests=len(answers), statuses=sorted({answer.status for answer in failed})),
    ]


def write_town(path: Path) -> Path:
    """Streets side by side in a square, every one another."""
    side = math.isqrt(STREETS - 1) + 1
    with path.open("wb") as file:
        for number in range(STREETS):
            place = 2 * HALF_M * np.array([number % side, number // side, 0], np.float32)
            file.write(kitti(street(POINTS, seed=number, half_m=HALF_M) + place))
    return path


async def small_and_large(running: Service, path: Path) -> tuple[list[Answer], Large]:
    """The small ones all the time, and after a while the large one."""
    stop = asyncio.Event()
    small = asyncio.create_task(steadily(running.url, ply(ball(SMALL)), None, RATE, stop))
    await asyncio.sleep(WARM_UP_S + ALONE_S)
    large = await asyncio.to_thread(segment, running.address, path)
    stop.set()
    return await small, large


def segment(address: tuple[str, int], path: Path) -> Large:
    """Send the file and wait for its answer, as long as patience lasts."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
    with contextlib.closing(connection), path.open("rb") as file:
        connection.connect()
        began_s = time.monotonic()
        connection.putrequest("POST", "/v1/segment?format=raw&input_format=bin")
        connection.putheader("Content-Length", str(path.stat().st_size))
        connection.putheader("X-Request-ID", NAME)
        connection.endheaders()
        connection.sock.sendfile(file)
        sent_s = time.monotonic()
        connection.sock.settimeout(max(began_s + PATIENCE_S - sent_s, 0.001))
        try:
            answer = connection.getresponse()
        except TimeoutError:
            return Large(began_s, sent_s, time.monotonic())
        while answer.read(1 << 20):
            pass
        return Large(began_s, sent_s, time.monotonic(), answer.status, answer.headers.get("X-Tiles", "1"))


def logged(running: Service) -> Event:
    """What the log says of the large one. Raises: TimeoutError."""
    deadline = time.monotonic() + LOGGED_S
    while not (found := [event for event in running.events("request") if event.get("request_id") == NAME]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing in the log of request {NAME} {LOGGED_S} s after its client left")
        time.sleep(0.1)
    return found[0]


def ms(answers: list[Answer], share: float) -> float:
    """Percentile of the times they took."""
    return round(1000 * percentile([answer.ended_s - answer.began_s for answer in answers], share), 2)
