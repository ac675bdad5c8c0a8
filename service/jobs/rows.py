"""The rows and files of jobs while a service runs: one process a folder, one thread for the rows."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from anyio import to_thread

from models.durable import locked, sync_path
from models.errors import BadOption
from service.errors import JobsOff, Overloaded, SpoolFull
from service.jobs.files import Files
from service.jobs.records import GaveUp, Totals
from service.jobs.store import Store
from service.schemas import JOB_STATES, JobError
from service.settings import Settings
from service.telemetry import Telemetry

LOG = logging.getLogger("fip.service")
MOST_RUNS = 10  # of a job over which the process dies
AGAIN_S = 1.0
GAVE_UP = f"the service ended {MOST_RUNS} times while it ran this job, which may be too large for the machine"

LOCKS_KEPT: list[ExitStack] = []  # of folders in which threads still write

P = ParamSpec("P")
T = TypeVar("T")


class Rows:
    """Event loop only, but for `open`. totals: as of the last change."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._folder, self._telemetry = settings.jobs_dir, telemetry
        self._held = ExitStack()
        self._thread: ThreadPoolExecutor | None = None
        self._store: Store | None = None
        self._files: Files | None = None
        self._totals = Totals(Counter(), 0, {})

    @property
    def is_open(self) -> bool:
        return self._store is not None

    @property
    def store(self) -> Store:
        """For `do`, `write` and `surely`. Raises: JobsOff."""
        if self._store is None:
            raise _off()
        return self._store

    @property
    def files(self) -> Files:
        """Raises: JobsOff."""
        if self._files is None:
            raise _off()
        return self._files

    @property
    def totals(self) -> Totals:
        """Raises: JobsOff."""
        if self._store is None:
            raise _off()
        return self._totals

    def open(self) -> None:
        """Take the folder and put in order what a process that died has left, unless that is done. Raises: BadOption."""
        if self._folder is None or self._store is not None:
            return
        folder = self._folder.absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_path(folder.parent)
            self._held.enter_context(locked(folder / "lock", wait=False))
        except BlockingIOError:
            raise BadOption(f"another service keeps its jobs in {folder}: give each its own", where="jobs_dir") from None
        except OSError as error:
            raise BadOption(f"{folder} cannot be used: {error.strerror}", where="jobs_dir") from error
        try:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fip-jobs")
            self._store, self._files = self._thread.submit(self._open_in_thread, folder).result()
        except BaseException:
            self._let_go()
            raise

    def _open_in_thread(self, folder: Path) -> tuple[Store, Files]:
        store, files = Store(folder / "jobs.sqlite3"), Files(folder)
        sync_path(folder)
        given_up = store.recover(MOST_RUNS, JobError(code=GaveUp.code, detail=GAVE_UP, where=None), time.time())
        kept = store.files()
        swept = files.sweep(kept)
        with contextlib.suppress(SpoolFull, Overloaded):  # they are said to be gone by whoever asks for them
            for job in files.lost(kept):  # let go on a full disk
                store.expired(job)
        for job in given_up:
            LOG.error("job failed", extra={"fields": {"job": job, "code": GaveUp.code}})
        self._count(store)
        fields = {"queued": self._totals.active, "given_up": len(given_up), "swept": swept}
        LOG.info("jobs opened", extra={"fields": fields})
        return store, files

    async def do(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Have the thread do something with the store."""
        assert self._thread is not None  # there is a store
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **named))

    async def write(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """The same for what changes something; `totals` follow. Raises: as `work`."""

        def change() -> T:
            changed = work(*args, **named)
            try:
                self._count(self.store)
            except sqlite3.Error:  # what was changed is
                LOG.exception("jobs are not counted")
            return changed

        return await self.do(change)

    async def surely(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """The same for what has to be: as often as it takes."""
        while True:
            try:
                return await self.write(work, *args, **named)
            except Exception:  # a full disk, say
                LOG.exception("the state of a job is not kept")
                await asyncio.sleep(AGAIN_S)

    def _count(self, store: Store) -> None:
        self._totals = totals = store.totals()
        for state in JOB_STATES:
            self._telemetry.jobs.labels(state).set(totals.states[state])

    async def close(self, running: str | None, *, left_behind: bool) -> None:
        """Let the folder go. running: a job that goes back into the line; left_behind: threads still write in the folder, which is let go
        only when the process ends then.
        """
        if self._store is None:
            return
        if running is not None:
            with contextlib.suppress(Exception):  # the next start does it too
                await self.write(self._store.put_off, running)
        await self.do(self._store.close)
        if left_behind:
            LOCKS_KEPT.append(self._held.pop_all())
        await to_thread.run_sync(self._let_go)

    def _let_go(self) -> None:
        self._store = self._files = None
        if self._thread is not None:
            self._thread.shutdown()
        self._held.close()


def _off() -> JobsOff:
    return JobsOff("this service keeps no jobs: its operator has to set FIP_JOBS_DIR")
