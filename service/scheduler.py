"""Who may use the device, and when: one worker thread, a bounded queue, one forward pass at a time in order of arrival.

Batching requests together belongs in `Scheduler.classify`; callers would not notice.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from models.predictor import Classification, Predictor
from models.voxelize import Voxels
from service.problems import Overloaded
from service.telemetry import Telemetry, Timings


class Scheduler:
    """The device's queue. All public methods belong to the event loop; nets run in the worker thread only."""

    def __init__(self, telemetry: Telemetry, max_waiting: int) -> None:
        self._telemetry = telemetry
        self._max_waiting = max_waiting
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fip-device")

    async def warm_up(self, predictor: Predictor, voxels: Voxels) -> None:
        """A forward pass that no metric counts."""
        await asyncio.get_running_loop().run_in_executor(self._worker, predictor.classify, [voxels])

    async def classify(self, predictor: Predictor, voxels: Voxels, timings: Timings) -> Classification:
        """Wait for the device (stage `queue`), then for the answer (stage `forward`). Raises: Overloaded, WrongTask."""
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait already; try again")
        loop = asyncio.get_running_loop()
        points = len(voxels.inverse)
        self._count(1, points)
        try:
            return await loop.run_in_executor(self._worker, partial(self._forward, predictor, voxels, timings, time.perf_counter()))
        finally:
            self._count(-1, -points)

    def close(self) -> None:
        """Wait for the forward pass in progress; the queue is empty once the server has drained."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _count(self, requests: int, points: int) -> None:
        self._waiting += requests
        self._telemetry.queue_requests.inc(requests)
        self._telemetry.queue_points.inc(points)

    def _forward(self, predictor: Predictor, voxels: Voxels, timings: Timings, arrived: float) -> Classification:
        timings.ended("queue", time.perf_counter() - arrived)
        self._telemetry.batch_requests.observe(1)
        self._telemetry.batch_points.observe(len(voxels.inverse))
        with timings.stage("forward"):
            [classification] = predictor.classify([voxels])
        return classification
