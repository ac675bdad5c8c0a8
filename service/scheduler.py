"""Who may use the device, and when: one worker thread, a bounded queue, one forward pass at a time in order of arrival.

Batching requests together belongs in `Scheduler._run`; callers would not notice.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.processor import Classification
from models.voxelize import Voxels
from service.problems import Overloaded
from service.telemetry import Telemetry, Timings

WARM_UP_POINTS = 1024

Answer = TypeVar("Answer")


class Scheduler:
    """The device's queue. All public methods belong to the event loop; nets run in the worker thread only."""

    def __init__(self, telemetry: Telemetry, max_waiting: int) -> None:
        self._telemetry = telemetry
        self._max_waiting = max_waiting
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fip-device")

    async def warm_up(self, predictor: Predictor) -> None:
        """A forward pass that no metric counts: the first through a net is several times slower than the next."""
        voxels = predictor.voxelize(warm_up_cloud())
        await asyncio.get_running_loop().run_in_executor(self._worker, predictor.forward, [voxels])

    async def classify(self, predictor: Predictor, voxels: Voxels, timings: Timings) -> Classification:
        """Wait for the device (stage `queue`), then for the answer (stage `forward`). Raises: Overloaded, WrongTask."""
        [found] = await self._run(partial(predictor.classify, [voxels]), len(voxels.inverse), timings)
        return found

    async def logits(self, predictor: Predictor, voxels: Voxels, points: int, timings: Timings) -> torch.Tensor:
        """As `classify`, in the same queue, for the logits (M, L) of the voxels of so many points. Raises: Overloaded."""
        return await self._run(partial(predictor.logits, voxels), points, timings)

    async def _run(self, forward: Callable[[], Answer], points: int, timings: Timings) -> Answer:
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} requests wait already; try again")
        loop = asyncio.get_running_loop()
        self._count(1, points)
        try:
            return await loop.run_in_executor(self._worker, partial(self._forward, forward, points, timings, time.perf_counter()))
        finally:
            self._count(-1, -points)

    def close(self) -> None:
        """Wait for the forward pass in progress; the queue is empty once the server has drained."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _count(self, requests: int, points: int) -> None:
        self._waiting += requests
        self._telemetry.queue_requests.inc(requests)
        self._telemetry.queue_points.inc(points)

    def _forward(self, forward: Callable[[], Answer], points: int, timings: Timings, arrived: float) -> Answer:
        timings.ended("queue", time.perf_counter() - arrived)
        self._telemetry.batch_requests.observe(1)
        self._telemetry.batch_points.observe(points)
        with timings.stage("forward"):
            return forward()


def warm_up_cloud() -> PointCloud:
    """A ball of points with every column a model may ask for."""
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(WARM_UP_POINTS, 3)).astype(np.float32)
    rgb = np.full((WARM_UP_POINTS, 3), 128, np.uint8)
    return PointCloud(xyz, rgb=rgb, intensity=np.zeros(WARM_UP_POINTS, np.float32))
