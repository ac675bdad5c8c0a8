"""Who may use the device, and when: one worker thread, a bounded queue, one forward pass at a time in order of arrival.

Batching requests together belongs in `Scheduler.classify`; callers would not notice.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from models.predictor import Classification, Predictor
from models.voxelize import Voxels
from service.problems import Overloaded
from service.telemetry import Telemetry


@dataclass(frozen=True)
class Answer:
    """A classification, and how long it waited for the device and held it."""

    classification: Classification
    queue_ms: float
    forward_ms: float


class Scheduler:
    """The device's queue. All methods belong to the event loop; nets run in the worker thread only."""

    def __init__(self, telemetry: Telemetry, max_waiting: int) -> None:
        self._telemetry = telemetry
        self._max_waiting = max_waiting
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fip-device")

    async def classify(self, predictor: Predictor, voxels: Voxels) -> Answer:
        """Wait for the device, then for the answer. Raises: Overloaded, WrongTask."""
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait already; try again")
        loop = asyncio.get_running_loop()
        points = len(voxels.inverse)
        self._count(1, points)
        try:
            return await loop.run_in_executor(self._worker, partial(_forward, predictor, voxels, time.perf_counter()))
        finally:
            self._count(-1, -points)

    def close(self) -> None:
        """Wait for the forward pass in progress; the queue is empty once the server has drained."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _count(self, requests: int, points: int) -> None:
        self._waiting += requests
        self._telemetry.queue_requests.inc(requests)
        self._telemetry.queue_points.inc(points)


def _forward(predictor: Predictor, voxels: Voxels, arrived: float) -> Answer:
    started = time.perf_counter()
    [classification] = predictor.classify([voxels])
    ended = time.perf_counter()
    return Answer(classification, (started - arrived) * 1000, (ended - started) * 1000)
