"""Runs jobs, one at a time, through the same line for the device as every request."""

import asyncio
import errno
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from anyio import to_thread

from models.errors import BadCheckpoint, FipError, RegistryUnavailable
from service.context import Context
from service.errors import NotReady, Overloaded, RateLimited, SpoolFull
from service.jobs.files import Files
from service.jobs.jobs import Running
from service.jobs.records import InputLost, Job, JobFailure, ModelChanged, Result
from service.pool import Live
from service.problems import FAILED, detail_of
from service.schemas import JobError, JobProgress
from service.segmentation import MEDIA_TYPES, ReadPoints, answer_headers, answered_name, in_parts, read_points, write_segmented
from service.telemetry import Timings
from service.uploads import NO_ROOM

LOG = logging.getLogger("fip.service")
ROOM_S = 0.1  # between two looks whether there is room for a cloud
LEFT_S = 1.0  # for a thread in the middle of a file, which cannot be stopped
AGAIN_S = 1.0
PASSING = (*NO_ROOM, errno.EIO, errno.ENOMEM)
LATER = (NotReady, Overloaded, RegistryUnavailable)  # models that others wait for, or that are out of reach


class Runner:
    def __init__(self, context: Context) -> None:
        self._context, self._jobs = context, context.jobs

    async def run(self) -> None:
        """Until the service stops."""
        while not self._jobs.stopping:
            try:
                await self._jobs.put_off()  # what an error below has left
                if (running := await self._jobs.next(self._debt_s)) is not None:
                    await self._run(running)
            except Exception:  # whatever it was, jobs go on
                LOG.exception("jobs are held up")
                await asyncio.sleep(AGAIN_S)

    async def _run(self, running: Running) -> None:
        outcome: Result | JobError | None = None
        with running.scope:
            outcome = await self._outcome(running)
            if outcome is None:
                await self._jobs.put_off()
                return
        await self._jobs.ended(outcome)

    async def _outcome(self, running: Running) -> Result | JobError | None:
        """None if the job could not be run, which is not its fault: of its disk, not for longer than results are kept."""
        job = running.job
        old = time.time() - job.created_s > self._context.settings.job_seconds
        try:
            return await self._result(running)
        except Exception as error:
            if isinstance(error, SpoolFull) and error.needs is not None:
                running.needs = error.needs
            if isinstance(error, LATER) or (_of_the_disk(error) and not old):
                LOG.warning("job cannot be run now", extra={"fields": {"job": job.id, "error": f"{type(error).__name__}: {error}"}})
                return None
            return _failure(job, error)

    async def _result(self, running: Running) -> Result:
        """Raises: FipError."""
        job, context = running.job, self._context
        asked, timings, done = job.asked, Timings(context.telemetry), Done()
        running.progress = lambda: JobProgress(stage=timings.now, done=done.parts, parts=done.of)

        def progress(parts: int, of: int) -> None:
            done.parts, done.of = parts, of
            self._jobs.moved(job.id)

        await to_thread.run_sync(self._jobs.check_room, running, limiter=context.encoders)
        model = await self._model(job)
        with ExitStack() as held:
            sent = KeptFile(held, self._jobs.rows.files, job)
            work = partial(read_points, held, sent, model, asked.options, asked.format, timings, context.settings)
            read = await to_thread.run_sync(work, limiter=context.readers_of(asked.bytes))
            await self._room(held, read)
            self._pay(running, len(read.cloud))
            try:
                found = await in_parts(read, model, context, timings, progress)
            except BadCheckpoint as error:
                if context.device.has(model.key):
                    raise
                raise NotReady("its worker died, and the next one could not load the model") from error  # whoever asks for it is told why
            write = partial(write_segmented, asked.format, model, read, found, timings)
            kept = await to_thread.run_sync(self._jobs.keep_result, job, write, limiter=context.encoders)
        return Result(
            bytes=kept.bytes,
            media_type=MEDIA_TYPES[read.fmt],
            name=answered_name(asked.name, read.fmt),
            sha256=kept.sha256,
            headers=answer_headers(asked.name, model, read, found, timings),
        )

    async def _model(self, job: Job) -> Live:
        """The version that the job was accepted for, under the name that it had then. Raises: ModelChanged, as `Context.model`."""
        pinned = job.asked.model
        model = await self._context.model(f"{pinned.name}:{pinned.version}", "segment")
        if model.ref.digest != pinned.digest:
            raise ModelChanged(f"{pinned.name}:{pinned.version} is another model than when the job was accepted", where="model")
        return replace(model, ref=pinned)

    async def _room(self, held: ExitStack, read: ReadPoints) -> None:
        """Wait until a cloud has its place among those of requests, for as long as `held`."""
        while True:
            try:
                held.enter_context(self._context.admission.hold_points(len(read.cloud)))
            except Overloaded:
                await asyncio.sleep(ROOM_S)
            else:
                return

    def _debt_s(self, owner: str) -> float:
        """How long an owner's allowance is in debt."""
        if (allowance := self._context.keys.allowance(owner)) is None:
            return 0.0
        try:
            allowance.check()
        except RateLimited as error:
            return max(error.retry_after_s, ROOM_S)
        return 0.0

    def _pay(self, running: Running, points: int) -> None:
        """Once, from what its key may send: the next requests and jobs wait for it."""
        if not running.paid and (allowance := self._context.keys.allowance(running.job.owner)) is not None:
            allowance.take(points)
        running.paid = True


@dataclass
class Done:
    """Forward passes."""

    parts: int = 0
    of: int | None = None


class KeptFile:
    """The file of a job in the place of an upload."""

    def __init__(self, held: ExitStack, files: Files, job: Job) -> None:
        self._held, self._files, self._job = held, files, job
        self.name, self.content_type = job.asked.name, job.asked.content_type

    def file(self) -> BinaryIO:
        """Raises: InputLost."""
        try:
            file = self._held.enter_context(self._files.open(self._job.id, "input"))
        except FileNotFoundError:
            raise InputLost("the file that was sent is gone from the disk of the service") from None
        if os.fstat(file.fileno()).st_size != self._job.asked.bytes:
            raise InputLost("the file that was sent has been changed on the disk of the service")
        return file


def _of_the_disk(error: BaseException) -> bool:
    """Whether the machine had no room, or failed to read or write, also where that looked like a damaged file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SpoolFull) or (isinstance(cause, OSError) and (cause is error or cause.errno in PASSING)):
            return True
        cause = cause.__cause__
    return False


def _failure(job: Job, error: Exception) -> JobError:
    if not isinstance(error, FipError):
        LOG.error("job failed", exc_info=error, extra={"fields": {"job": job.id}})
        return JobError(code="internal_error", detail=FAILED, where=None)
    LOG.warning("job cannot be done", extra={"fields": {"job": job.id, "code": error.code, "error": str(error)}})
    return JobError(code=error.code, detail=error.detail if isinstance(error, JobFailure) else detail_of(error), where=error.where)


@asynccontextmanager
async def jobs_run(context: Context) -> AsyncGenerator[None, None]:
    """Jobs are run, and let go when their time is over, as long as it holds. A run that is under way then is left where it is."""
    jobs = context.jobs
    if not jobs.rows.is_open:
        yield
        return
    runs, tidies = asyncio.create_task(Runner(context).run()), asyncio.create_task(jobs.tidy())
    try:
        yield
    finally:
        jobs.stop()
        tidies.cancel()
        await asyncio.wait({runs}, timeout=LEFT_S)
        jobs.left_behind = not runs.done()
