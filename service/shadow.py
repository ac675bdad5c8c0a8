"""A candidate beside the champion: it runs on a share of what that answers, nobody sees what it says, and how often they agree is counted.

It never makes anybody wait: it runs when the device has nothing else to do, one cloud at a time, and what comes meanwhile is passed over.
Its runs do not keep the candidate in memory, and where there is no room beside the champion it does not run.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
from anyio import to_thread
from fastapi import Request

from models.errors import FipError
from models.manifest import Axis, Task
from models.pointcloud import PointCloud
from models.registry import parse_reference
from models.segmenting import segmenting
from models.tiling import TileSize
from service.context import Context
from service.errors import Overloaded
from service.pool import Live
from service.segmentation import through_the_net
from service.telemetry import Timings

LOG = logging.getLogger("fip.service")
REST_S = 10.0  # after a failure: there may be no candidate at the moment
PATIENCE_S, LOOK_S = 5.0, 0.005  # how long it waits for the device to be free, and how often it looks

Outcome = Literal["compared", "busy", "failed"]
Answers = npt.NDArray[np.integer]


class NoTime(Exception):
    """The device has other things to do."""


class Said(Protocol):
    """What only the caller knows of a cloud."""

    @property
    def up(self) -> str | None: ...

    @property
    def unit(self) -> str | None: ...


class Shadow:
    """Event loop only."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wanted = context.settings.shadow
        self._name = None if self._wanted is None else parse_reference(self._wanted).name
        self._share = context.settings.shadow_share
        self._chance = random.Random()
        self._running: asyncio.Task[None] | None = None
        self._rests_until_s = 0.0

    def chosen(self, champion: Live) -> bool:
        """Whether what this model answers now is one for the candidate too."""
        if champion.ref.name != self._name or self._chance.random() >= self._share:
            return False
        if time.monotonic() < self._rests_until_s:
            return False
        return self._has_time(champion)

    def classify(self, champion: Live, cloud: PointCloud, said: Said, index: int) -> None:
        """Compare the class that the champion gave a cloud. Returns at once."""
        self._start(champion, "classify", len(cloud), partial(self._classified, cloud, said), np.array([index]))

    def segment(self, champion: Live, cloud: PointCloud, said: Said, labels: Answers) -> None:
        """The same with the classes (N,) of its points."""
        self._start(champion, "segment", len(cloud), partial(self._segmented, cloud, said), labels)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    def _has_time(self, champion: Live) -> bool:
        if self._running is not None and not self._running.done():
            self._count(champion, "busy")
            return False
        return True

    def _start(self, champion: Live, task: Task, points: int, answer: Callable[[Live], Awaitable[Answers]], answers: Answers) -> None:
        if self._has_time(champion):  # it may have begun with another since this one was chosen
            self._running = asyncio.create_task(self._compare(champion, task, points, answer, answers))

    async def _compare(
        self, champion: Live, task: Task, points: int, answer: Callable[[Live], Awaitable[Answers]], answers: Answers
    ) -> None:
        assert self._wanted is not None
        try:
            with self._context.admission.hold_points(points):
                candidate = await self._context.model(self._wanted, task, asked=False)
                if candidate.ref.digest == champion.ref.digest:  # promoted already, or never different
                    return
                if not await self._device_is_free():
                    raise NoTime
                found = await answer(candidate)
                names, known = candidate.processor.manifest.labels, champion.processor.manifest.labels
                agreed = await to_thread.run_sync(same_classes, names, found, known, answers, limiter=self._context.encoders)
        except (Overloaded, NoTime):
            self._count(champion, "busy")
        except FipError as error:
            self._failed(champion, error)
        except Exception as error:
            LOG.exception("shadow failed")
            self._failed(champion, error)
        else:
            self._count(champion, "compared", candidate)
            labels = (champion.ref.name, champion.ref.version, candidate.ref.version)
            self._context.telemetry.shadow_answers.labels(*labels).inc(len(answers))
            self._context.telemetry.shadow_agreed.labels(*labels).inc(agreed)

    def _failed(self, champion: Live, error: Exception) -> None:
        self._rests_until_s = time.monotonic() + REST_S
        LOG.warning("shadow failed", extra={"fields": {"shadow": self._wanted, "error": str(error), "again_s": REST_S}})
        self._count(champion, "failed")

    def _count(self, champion: Live, outcome: Outcome, candidate: Live | None = None) -> None:
        version = "" if candidate is None else candidate.ref.version
        self._context.telemetry.shadow_requests.labels(champion.ref.name, champion.ref.version, version, outcome).inc()

    async def _device_is_free(self) -> bool:
        """Whether it became so in good time."""
        for _ in range(int(PATIENCE_S / LOOK_S)):
            if self._context.scheduler.idle:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def _classified(self, cloud: PointCloud, said: Said, candidate: Live) -> Answers:
        voxelize = partial(candidate.processor.voxelize, cloud, up=cast(Axis | None, said.up), unit=said.unit)
        voxels = await to_thread.run_sync(voxelize, limiter=self._context.readers)
        timings = Timings(self._context.telemetry)
        logits = await self._context.scheduler.logits(candidate.key, voxels, len(voxels.inverse), timings, per_voxel=False)
        return np.array([candidate.processor.answer_of_cloud(voxels, logits).index])

    async def _segmented(self, cloud: PointCloud, said: Said, candidate: Live) -> Answers:
        """Raises: NoTime (it would be several passes, and others would wait for them)."""
        settings = self._context.settings
        cut = partial(segmenting, candidate.processor, cloud, up=cast(Axis | None, said.up), unit=said.unit)
        tile = TileSize(settings.tile_voxels, settings.tile_halo)
        work = await to_thread.run_sync(partial(cut, tile=tile), limiter=self._context.tilers)
        if work.parts > 1:
            raise NoTime
        return (await through_the_net(work, candidate, self._context, Timings(self._context.telemetry), [])).labels


def shadow_of(request: Request) -> Shadow:
    """That of the app."""
    return cast(Shadow, request.app.state.shadow)


def same_classes(names: tuple[str, ...], found: Answers, known: tuple[str, ...], answers: Answers) -> int:
    """How many of the classes found (N,), indices of `names`, are called as those answered (N,), indices of `known`."""
    index = {name: place for place, name in enumerate(known)}
    return int((np.array([index.get(name, -1) for name in names])[found] == answers).sum())
