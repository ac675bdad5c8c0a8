"""All that is asked of jobs: taken in, looked at, listened to, run, cancelled, let go."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import BinaryIO

from anyio import CancelScope, CapacityLimiter, move_on_after, to_thread

from service.errors import Expired, NotDone, SpoolFull, UnknownJob
from service.jobs.events import HEARTBEAT, Bells, Listeners, event_of
from service.jobs.files import Kept
from service.jobs.intake import Intake
from service.jobs.line import Line
from service.jobs.records import FINAL, Job, Result, info_of, is_id
from service.jobs.rows import Rows
from service.schemas import JobError, JobInfo, JobProgress
from service.settings import Settings
from service.telemetry import Telemetry

LOG = logging.getLogger("fip.service")
TIDY_S = 10.0  # between two looks at what is to go
LOOK_S = 5.0  # between two at what waits: an allowance may have changed, or who sent a job been cut off just after it was kept
REMEMBERED = 10  # times the jobs that may wait or run: those that have ended, of one owner
THREADS = 4  # that open and remove files


@dataclass
class Running:
    """The job that is being run. scope: cancelled to end its run; progress: how far it is; paid: its points have been;
    needs: bytes of a result of it that did not fit.
    """

    job: Job
    scope: CancelScope
    progress: Callable[[], JobProgress | None] = lambda: None
    paid: bool = False
    needs: int | None = None


class Jobs:
    """Event loop only, but for `rows.open`. Without a folder for jobs whatever is asked raises JobsOff."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self.rows = Rows(settings, telemetry)
        self._settings, self._telemetry = settings, telemetry
        self.listeners = Listeners(settings.max_listeners)
        self._bells = Bells()  # all ring when one job begins or ends: others have another place in line then
        self.intake = Intake(settings, self.rows, self._accepted)
        self._threads = CapacityLimiter(THREADS)
        self._queued = asyncio.Event()
        self._line = Line()
        self._gone: set[str] = set()  # jobs whose result was let go, and whose rows may not say so yet
        self.running: Running | None = None
        self.stopping = False
        self.left_behind = False  # whether a thread still works on a job that was left

    def _accepted(self, row: Job) -> None:
        self._tell("accepted", row)
        self._queued.set()

    async def info(self, job: str, owner: str) -> JobInfo:
        """Raises: UnknownJob."""
        return await self.info_of(await self._row(job, owner))

    async def info_of(self, row: Job) -> JobInfo:
        return self._told(row, await self.rows.do(self.rows.store.before, row) if row.state == "queued" else 0)

    async def newest(self, owner: str, limit: int) -> list[JobInfo]:
        return [self._told(*each) for each in await self.rows.do(self.rows.store.newest, owner, limit)]

    def _told(self, row: Job, before: int) -> JobInfo:
        runs = self.running is not None and self.running.job.id == row.id and row.state == "running"
        progress = self.running.progress() if self.running and runs else None
        return info_of(row, self._settings.job_seconds, before if row.state == "queued" else None, progress)

    async def listen(self, job: str, owner: str, may_listen: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """An event for what a job is now and one for every change, until it has ended, the service stops or nobody may listen any more."""
        number, said = 0, ""
        while may_listen():
            bell = self._bells.of(job)
            try:
                info = await self.info(job, owner)
            except UnknownJob:  # forgotten meanwhile
                return
            text = info.model_dump_json()
            if text != said:
                number, said = number + 1, text
                yield event_of(info, text, number)
            if info.state in FINAL or self.stopping:
                return
            with move_on_after(self._settings.event_seconds) as patience:
                await bell.wait()
            if patience.cancelled_caught:
                yield HEARTBEAT

    async def result(self, job: str, owner: str) -> tuple[Result, BinaryIO]:
        """The file of a job that is done, open. Raises: UnknownJob, NotDone, Expired."""
        row = await self._row(job, owner)
        if row.state == "expired":
            raise Expired("the result was kept for its time and is gone")
        if row.result is None or row.state != "done":
            why = "" if row.error is None else f": {row.error.detail}"
            raise NotDone(f"the job is {row.state}{why}")
        try:
            return row.result, await to_thread.run_sync(self.rows.files.open, job, "result", limiter=self._threads)
        except FileNotFoundError:
            raise Expired("the result is gone") from None

    async def delete(self, job: str, owner: str) -> JobInfo:
        """Cancel a job that has not ended; of one that is done, let the result go. Raises: UnknownJob, SpoolFull."""
        row = await self._row(job, owner)
        with CancelScope(shield=True):
            cancelled = None if row.state in FINAL else await self._cancelled(job)
            if cancelled is None:
                await self.expire(job)
            else:
                await self._cancel(cancelled)
        return await self.info(job, owner)

    async def _cancelled(self, job: str) -> Job | None:
        """The row of a job that had not ended; on a full disk its files, which nobody wants any more, make room for it.

        Raises: SpoolFull (it ends as `input_lost`, unless this is asked again), Overloaded.
        """
        try:
            return await self.rows.write(self.rows.store.cancelled, job, time.time())
        except SpoolFull:
            await self._drop(job)
            return await self.rows.write(self.rows.store.cancelled, job, time.time())

    async def _cancel(self, row: Job) -> None:
        self._tell("cancelled", row)
        if self.running is not None and self.running.job.id == row.id:
            self.running.job = row
            self.running.scope.cancel()
        else:
            self._line.ended(row.id)
            await self._drop(row.id)
        self._bells.ring_all()

    async def expire(self, job: str) -> None:
        """Let the result of a job that has ended go, if it has one: its file first, which may be what fills the disk that the row needs.

        Raises: SpoolFull, Overloaded (the file is gone, and the row follows: see `tidy`).
        """
        self._gone.add(job)
        await self._drop(job)
        row = await self.rows.write(self.rows.store.expired, job)
        self._gone.discard(job)
        if row is not None:
            self._tell("expired", row)

    async def next(self, debt_s: Callable[[str], float]) -> Running | None:
        """The one whose turn it is, once there is one: it is being run from now on. None if the service stops.

        debt_s: how long an owner's allowance is in debt.
        """
        store = self.rows.store
        while not self.stopping:
            self._queued.clear()
            job, wait_s = self._line.next(await self.rows.do(store.waiting), debt_s)
            if job is None:
                with move_on_after(LOOK_S if wait_s is None else min(wait_s, LOOK_S)):
                    await self._queued.wait()
            elif (row := await self.rows.surely(store.claim, job, time.time())) is not None:  # else it was cancelled just now
                self.running = Running(row, CancelScope(), paid=self._line.paid(job), needs=self._line.needs(job))
                if self.stopping:
                    self.running.scope.cancel()
                self._bells.ring_all()
                return self.running
        return None

    async def put_off(self) -> None:
        """The job that is run goes back into the line, unless it has ended: it is tried again after a pause, and others go meanwhile."""
        if (running := self.running) is None:
            return
        row = await self.rows.surely(self.rows.store.put_off, running.job.id)
        if self.running is running:
            self.running = None
        if row is not None:
            pause_s = self._line.put_off(row.id, paid=running.paid, needs=running.needs)
            LOG.warning("job put off", extra={"fields": {"job": row.id, "seconds": pause_s}})
        self._bells.ring_all()

    def moved(self, job: str) -> None:
        """There is progress."""
        self._bells.ring(job)

    def keep_result(self, job: Job, write: Callable[[BinaryIO], None]) -> Kept:
        """Its own file makes room for it. In a thread. Raises: SpoolFull, as `write`."""
        room, ever = self.intake.room(job.owner)
        return self.rows.files.keep_result(job.id, write, room + job.bytes, ever)

    def check_room(self, running: Running) -> None:
        """Whether there may be room now for a result that did not fit. In a thread. Raises: SpoolFull, OSError."""
        if running.needs is not None:
            self.rows.files.check_room(running.needs, self.intake.room(running.job.owner)[0] + running.job.bytes)

    async def ended(self, outcome: Result | JobError | None) -> None:
        """The run of a job is over; None if it was cancelled, or if the service stops, which leaves it to the next one."""
        assert self.running is not None
        job = self.running.job
        row: Job | None = None
        if isinstance(outcome, Result):
            row = await self.rows.surely(self.rows.store.done, job.id, outcome, time.time())
        elif outcome is not None:
            row = await self.rows.surely(self.rows.store.failed, job.id, outcome, time.time())
        elif self.stopping and job.state == "running":
            return
        self.running = None
        self._line.ended(job.id)
        if row is not None and row.state == "done":
            await self._drop_input(job.id)
        else:
            await self._drop(job.id)
        if row is not None:
            self._tell(row.state, row)
        self._bells.ring_all()

    def stop(self) -> None:
        """Nobody is told of anything any more, and nothing is run."""
        self.stopping = True
        self._queued.set()
        self._bells.ring_all()
        if self.running is not None:
            self.running.scope.cancel()

    async def close(self) -> None:
        left_behind = self.left_behind or self.intake.busy
        await self.rows.close(None if self.running is None else self.running.job.id, left_behind=left_behind)

    async def tidy(self) -> None:
        """Let results go when their time is over, and rows after as long again; the oldest of an owner who has too many, sooner."""
        kept_s, most = self._settings.job_seconds, REMEMBERED * self._settings.max_jobs
        while True:
            await asyncio.sleep(min(kept_s / 4, TIDY_S))
            try:
                due = await self.rows.do(self.rows.store.due, time.time() - kept_s, most)
                for job in due:  # all files before any row, for which a full disk may have no room yet
                    await self._drop(job)
                for job in (*due, *self._gone):
                    await self.expire(job)
                await self.rows.write(self.rows.store.forget, time.time() - 2 * kept_s, most)
            except Exception:
                LOG.exception("expired jobs are not removed")

    async def _row(self, job: str, owner: str) -> Job:
        """Raises: UnknownJob."""
        store, row = self.rows.store, None
        if is_id(job):
            here = self.running is not None and self.running.job.id == job
            row = self.running.job if here and self.running else await self.rows.do(store.get, job)
        if row is None or row.owner != owner:
            raise UnknownJob("there is no such job, or not any more", where="id")
        return row

    async def _drop_input(self, job: str) -> None:
        """One that cannot be removed goes with the result, or at the next start."""
        try:
            await to_thread.run_sync(self.rows.files.drop_input, job, limiter=self._threads)
        except OSError:
            LOG.exception("the input of a job is not removed")

    async def _drop(self, job: str) -> None:
        with CancelScope(shield=True):
            await to_thread.run_sync(self.rows.files.drop, job, limiter=self._threads)

    def _tell(self, what: str, row: Job) -> None:
        self._bells.ring(row.id)
        seconds = None if row.started_s is None or row.finished_s is None else row.finished_s - row.started_s
        if seconds is not None and what in ("done", "failed", "cancelled"):
            self._telemetry.job_duration.labels(what).observe(seconds)
        fields = {"job": row.id, "model": f"{row.asked.model.name}:{row.asked.model.version}", "bytes": row.asked.bytes}
        fields |= {"seconds": seconds, "runs": row.runs, "code": None if row.error is None else row.error.code}
        LOG.info(f"job {what}", extra={"fields": {name: value for name, value in fields.items() if value is not None}})
