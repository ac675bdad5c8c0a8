"""How a job is taken in: its file on the disk first, then its row; what was accepted is done, whatever happens."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from anyio import CancelScope, CapacityLimiter, to_thread

from service.errors import BodyTooLarge, KeyInUse, TooManyJobs
from service.jobs.files import Kept
from service.jobs.records import NOTHING, Asked, Held, Job, new_id
from service.jobs.rows import Rows
from service.settings import Settings

COPIES = 2  # files kept at the same time
RETRY_AFTER_S = 30.0  # jobs take their time


class Intake:
    """Event loop only."""

    def __init__(self, settings: Settings, rows: Rows, accepted: Callable[[Job], None]) -> None:
        """accepted: called with every new job."""
        self._settings, self._rows, self._accepted = settings, rows, accepted
        self._threads = CapacityLimiter(COPIES)
        self._coming: dict[str, Held] = {}  # owner -> of files that are being kept
        self._keys: set[tuple[str, str]] = set()  # those of requests on their way

    @property
    def busy(self) -> bool:
        """Whether files are being kept."""
        return bool(self._coming)

    def check_room(self, owner: str, size: int) -> None:
        """Raises: TooManyJobs, BodyTooLarge (there is room for a job with such a file, or never will be), JobsOff."""
        limits = self._limits(owner)
        for who, most, _ in limits:
            if size > most.bytes:
                raise BodyTooLarge(f"all jobs{who} together may have {most.bytes} bytes", where="body")
        for who, most, held in limits:
            if held.active >= most.active:
                raise TooManyJobs(f"{held.active} jobs{who} wait or run; try again later", retry_after_s=RETRY_AFTER_S)
            if held.bytes + size > most.bytes:
                detail = f"the files of jobs{who} are at their limit of {most.bytes} bytes; try again later"
                raise TooManyJobs(detail, retry_after_s=RETRY_AFTER_S)

    def room(self, owner: str) -> tuple[int, int]:
        """Bytes that there is room for just now, and that there could ever be."""
        limits = self._limits(owner)
        return min(most.bytes - held.bytes for _, most, held in limits), min(most.bytes for _, most, _ in limits)

    def _limits(self, owner: str) -> list[tuple[str, Held, Held]]:
        """Of all jobs and, where there are keys, of those of this one, which may have half: whose, what they may hold, what they do.

        Also in a thread. Raises: JobsOff.
        """
        totals, most = self._rows.totals, Held(self._settings.max_jobs, self._settings.max_jobs_bytes)
        limits = [("", most, sum(tuple(self._coming.values()), totals.held))]
        if owner:
            half = Held(max(1, most.active // 2), most.bytes // 2)
            limits.append((" of this key", half, totals.owners.get(owner, NOTHING) + self._coming.get(owner, NOTHING)))
        return limits

    @contextmanager
    def key_held(self, owner: str, key: str | None) -> Iterator[None]:
        """Around a request with an Idempotency-Key. Raises: KeyInUse."""
        if key is None:
            yield
            return
        if (owner, key) in self._keys:
            raise KeyInUse("another request with this key is being received", where="Idempotency-Key")
        self._keys.add((owner, key))
        try:
            yield
        finally:
            self._keys.discard((owner, key))

    async def of_key(self, owner: str, key: str | None) -> Job | None:
        return None if key is None else await self._rows.do(self._rows.store.by_key, owner, key)

    async def accept(self, owner: str, key: str | None, file: BinaryIO, size: int, asked: Callable[[Kept], Asked]) -> Job:
        """Keep a file, of so many bytes or less, then the job; after that it is done, whatever happens.

        Raises: TooManyJobs, BodyTooLarge, SpoolFull, Overloaded.
        """
        self.check_room(owner, size)
        coming = Held(1, size)
        self._coming[owner] = self._coming.get(owner, NOTHING) + coming
        job = new_id()
        try:
            try:
                kept = await to_thread.run_sync(self._rows.files.keep_input, job, file, limiter=self._threads)
            except BaseException:  # the client left, most likely; the thread is through with it by now
                await self._drop(job)
                raise
            with CancelScope(shield=True):  # a row without a file would be a job that cannot be done
                row = await self._insert(job, owner, key, asked(kept))
        finally:
            self._coming[owner] -= coming
            if self._coming[owner] == NOTHING:
                del self._coming[owner]
        self._accepted(row)
        return row

    async def _insert(self, job: str, owner: str, key: str | None, asked: Asked) -> Job:
        try:
            return await self._rows.write(self._rows.store.insert, job, owner, key, asked, time.time())
        except Exception:  # there is no row, and will be none; who is cut off leaves a thread that may keep one yet
            await self._drop(job)
            raise

    async def _drop(self, job: str) -> None:
        with CancelScope(shield=True):
            await to_thread.run_sync(self._rows.files.drop, job, limiter=self._threads)
