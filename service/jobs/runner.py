"""Runs jobs, one at a time, through the same line for the device as every request."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from anyio import to_thread

from models.errors import FipError, RegistryUnavailable
from service.context import Context
from service.jobs.files import Files
from service.jobs.jobs import Running
from service.jobs.records import InputLost, Job, JobFailure, ModelChanged, Result
from service.pool import Live
from service.problems import FAILED, NotReady, Overloaded, detail_of
from service.schemas import JobError, JobProgress
from service.segmentation import MEDIA_TYPES, ReadPoints, answer_headers, answered_name, in_parts, read_points, write_segmented
from service.telemetry import Timings

LOG = logging.getLogger("fip.service")
ROOM_S = 0.1  # between two looks whether there is room for a cloud
LEFT_S = 1.0  # for a thread in the middle of a file, which cannot be stopped
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # before it is tried again to have a worker, or a registry


class Runner:
    def __init__(self, context: Context) -> None:
        self._context, self._jobs = context, context.jobs

    async def run(self) -> None:
        """Until the service stops."""
        while (running := await self._jobs.next()) is not None:
            outcome: Result | JobError | None = None
            with running.scope:
                outcome = await self._outcome(running)
            await self._jobs.ended(outcome)

    async def _outcome(self, running: Running) -> Result | JobError:
        for pause_s in (*PAUSES_S, None):
            try:
                return await self._result(running)
            except (NotReady, RegistryUnavailable) as error:
                if pause_s is None:
                    return _failure(running.job, error)
                await asyncio.sleep(pause_s)
            except FipError as error:
                return _failure(running.job, error)
            except Exception:
                LOG.exception("job failed", extra={"fields": {"job": running.job.id}})
                return JobError(code="internal_error", detail=FAILED, where=None)
        raise AssertionError  # the last time returns

    async def _result(self, running: Running) -> Result:
        """Raises: FipError."""
        job, context = running.job, self._context
        asked, timings, done = job.asked, Timings(context.telemetry), Done()
        running.progress = lambda: JobProgress(stage=timings.now, done=done.parts, parts=done.of)

        def progress(parts: int, of: int) -> None:
            done.parts, done.of = parts, of
            self._jobs.moved(job.id)

        model = await self._model(job)
        with ExitStack() as held:
            sent = KeptFile(held, self._jobs.rows.files, job)
            work = partial(read_points, held, sent, model, asked.options, asked.format, timings, context.settings)
            read = await to_thread.run_sync(work, limiter=context.readers_of(asked.bytes))
            if (allowance := context.keys.allowance(job.owner)) is not None:
                allowance.take(len(read.cloud))
            await self._room(held, read)
            found = await in_parts(read, model, context, timings, progress)
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


def _failure(job: Job, error: FipError) -> JobError:
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
