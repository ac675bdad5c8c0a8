"""Who uses the device, and when: requests wait in line, and go through the net together where they fit (see service.batching)."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from models.errors import FipError
from models.voxelize import Voxels
from service.batching import Line
from service.errors import NotReady, OutOfMemory, WorkerFailed
from service.settings import Settings
from service.telemetry import Telemetry, Timings
from service.worker.client import Lane, WorkerLost
from service.worker.device import Device
from service.worker.place import SMALL_VOXELS

LOG = logging.getLogger("fip.service")
DEATHS_ALONE = 2  # workers that a request may take down by itself
AFTER_MISTAKE_S = 0.1


@dataclass(eq=False)
class Job:
    """A cloud or a tile in line. points: that get their answer from it; per_voxel: its answer has a row for every voxel, else one."""

    model: str
    cloud: Voxels
    points: int
    per_voxel: bool
    timings: Timings
    answer: "asyncio.Future[npt.NDArray[np.float32]]"
    arrived_s: float
    most_voxels: int
    queued_s: float
    deaths: int = 0

    @property
    def voxels(self) -> int:
        return len(self.cloud)

    @property
    def rows(self) -> int:
        return self.voxels if self.per_voxel else 1


class Scheduler:
    """The line in front of the device. All public methods belong to the event loop."""

    def __init__(self, settings: Settings, telemetry: Telemetry, device: Device) -> None:
        self._settings, self._telemetry, self._device = settings, telemetry, device
        self._delay_s = settings.batch_delay_seconds
        self._line: Line[Job]
        self.begin()
        self._arrived = asyncio.Event()
        self._coming = 0
        self._under_way: dict[Lane, float] = {}  # when the passes should be over
        self._mixed: set[Lane] = set()  # those that were not alone on the device all the time
        self._runs: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="fip-device")

    def begin(self) -> None:
        """Once it is known where nets run, and before anybody waits: how much they are given at once hangs on it."""
        self._budget = self._device.batch_voxels
        self._line = Line(self._budget, None if self._settings.batch_voxels else SMALL_VOXELS)

    @property
    def seconds_left(self) -> float:
        """What the device should still need for all that it has and that waits for it."""
        now = time.perf_counter()
        return sum(max(until_s - now, 0.0) for until_s in self._under_way.values()) + self._line.seconds_waiting()

    @property
    def idle(self) -> bool:
        """Whether the device has nothing to do, and nobody is about to have it."""
        return not self._under_way and not self._coming and not len(self._line)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Around what a request does before it gets in line: a device that is free waits a moment for it."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def logits(self, model: str, cloud: Voxels, points: int, timings: Timings, *, per_voxel: bool) -> npt.NDArray[np.float32]:
        """Wait in line (stage `queue`), then for the net (stage `forward`): (M, L), or (L,) unless per_voxel.

        Cancelled while it waits, it leaves the line at once. Raises: OutOfMemory, WorkerFailed, BadCheckpoint, NotReady.
        """
        now, answer = time.perf_counter(), asyncio.get_running_loop().create_future()
        job = Job(model, cloud, points, per_voxel, timings, answer, now, self._budget, now)
        timings.begin("queue")
        timings.facts["num_voxels"] = timings.facts.get("num_voxels", 0) + len(cloud)
        self._count(1, points)
        try:
            self._line.add(job)
            self._arrived.set()
            if self._runs is None:
                self._runs = asyncio.create_task(self._run())
            return await job.answer
        finally:
            self._line.remove(job)
            self._count(-1, -points)

    async def close(self) -> None:
        """Stop; nobody waits any more once the server has drained."""
        if self._runs is not None:
            self._runs.cancel()
            with suppress(asyncio.CancelledError):
                await self._runs
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, requests: int, points: int) -> None:
        self._telemetry.queue_requests.inc(requests)
        self._telemetry.queue_points.inc(points)

    async def _run(self) -> None:
        while True:
            try:
                await self._next_pass()
            except Exception:  # a mistake in here costs a moment, and not all requests to come
                LOG.exception("line went wrong")
                await asyncio.sleep(AFTER_MISTAKE_S)

    async def _next_pass(self) -> None:
        await self._somebody()
        if not self._device.up:
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._device.wait)
            except NotReady as error:
                self._refuse_all(error)
                return
        await self._company()
        if batch := [job for job in self._line.take() if not job.answer.done()]:  # who has just left has not yet been taken out
            if self._line.is_long(batch):
                await self._long_pass(batch)
            else:
                await self._pass(batch)

    async def _somebody(self) -> None:
        while not len(self._line):
            self._arrived.clear()
            await self._arrived.wait()

    async def _company(self) -> None:
        """A moment for those who are about to get in line."""
        until = time.perf_counter() + self._delay_s
        while self._coming and not self._line.full() and (left := until - time.perf_counter()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return

    async def _long_pass(self, batch: list[Job]) -> None:
        """A pass that has others beside it, of small clouds."""
        passing = asyncio.create_task(self._pass(batch, "long"))
        try:
            while not passing.done():
                if small := [job for job in self._line.take(express=True) if not job.answer.done()]:
                    await self._pass(small, "express")
                    continue
                self._arrived.clear()
                arrival = asyncio.create_task(self._arrived.wait())
                await asyncio.wait({passing, arrival}, return_when=asyncio.FIRST_COMPLETED)
                arrival.cancel()
        except asyncio.CancelledError:
            passing.cancel()
            raise
        finally:  # also after a mistake: somebody waits for it
            with suppress(asyncio.CancelledError):
                await passing

    async def _pass(self, batch: list[Job], lane: Lane = "usual") -> None:
        """A pass, after which everyone in it is answered, is told why not, or is in line again. The line goes on, whatever happens."""
        try:
            await self._try_pass(batch, lane)
        except Exception as error:
            LOG.exception("pass went wrong")
            for job in batch:
                self._refuse(job, WorkerFailed(str(error)))

    async def _try_pass(self, batch: list[Job], lane: Lane) -> None:
        started = time.perf_counter()
        for job in batch:
            job.timings.ended("queue", started - job.queued_s)
            job.timings.begin("forward")
            job.timings.facts["batch_requests"] = len(batch)
        self._telemetry.batch_requests.observe(len(batch))
        self._telemetry.batch_points.observe(sum(job.points for job in batch))
        if self._under_way:
            self._mixed |= {lane, *self._under_way}
        self._under_way[lane] = started + self._line.seconds_of(batch)
        loads = self._device.loads
        try:
            logits = await self._forward(batch, lane)
        except WorkerLost as error:
            nothing_else = lane not in self._mixed and not loads.under_way and loads.begun == self._device.loads.begun
            self._again_after_death(batch, str(error), alone=len(batch) == 1 and nothing_else)
        except OutOfMemory as error:
            self._again_in_less_memory(batch, error, alone=lane not in self._mixed)
        except FipError as error:
            self._again_alone(batch, error)
        except Exception as error:  # the line goes on, whatever it was
            LOG.exception("forward pass failed")
            self._again_alone(batch, WorkerFailed(str(error)))
        else:
            seconds = time.perf_counter() - started
            if lane not in self._mixed:  # two share the processor
                self._line.measured(batch, seconds)
            for job in batch:
                job.timings.ended("forward", seconds)
            self._answer(batch, logits)
        finally:
            del self._under_way[lane]
            self._mixed.discard(lane)
            self._line.spent(batch, time.perf_counter() - started)

    async def _forward(self, batch: list[Job], lane: Lane) -> npt.NDArray[np.float32]:
        clouds = [job.cloud for job in batch]
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._device.forward, batch[0].model, clouds, lane)

    def _answer(self, batch: list[Job], logits: npt.NDArray[np.float32]) -> None:
        """logits: (S, L), or (B, L)."""
        ends = accumulate(job.rows for job in batch)
        for job, end in zip(batch, ends, strict=True):
            if not job.answer.done():  # whoever left meanwhile is not waiting for it
                rows = logits[end - job.rows : end]
                job.answer.set_result(rows if job.per_voxel else rows[0])

    def _again_after_death(self, batch: list[Job], why: str, *, alone: bool) -> None:
        """One of these may have killed the worker: they go on one by one, and one that kills another worker by itself was it."""
        for job in batch:
            job.deaths += alone
            if job.deaths >= DEATHS_ALONE:
                self._refuse(job, WorkerFailed(f"the worker was lost over this request, twice: {why}"))
            else:
                self._again(job, 0)

    def _again_in_less_memory(self, batch: list[Job], error: OutOfMemory, *, alone: bool) -> None:
        if not alone:  # another pass has the memory
            for job in batch:
                self._again(job, 0)
            return
        if len(batch) == 1:
            self._refuse(batch[0], error)
            return
        most = self._line.too_large(batch)
        for job in batch:
            self._again(job, most)

    def _again_alone(self, batch: list[Job], error: FipError) -> None:
        if len(batch) == 1:
            self._refuse(batch[0], error)
            return
        for job in batch:
            self._again(job, 0)

    def _again(self, job: Job, most_voxels: int) -> None:
        if not job.answer.done():
            job.most_voxels, job.queued_s = most_voxels, time.perf_counter()
            job.timings.begin("queue")
            self._line.add(job)

    def _refuse_all(self, error: FipError) -> None:
        while batch := self._line.take():
            for job in batch:
                self._refuse(job, error)

    def _refuse(self, job: Job, error: FipError) -> None:
        if not job.answer.done():
            job.answer.set_exception(error)
