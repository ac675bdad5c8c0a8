"""Whose job runs next: owners in turn, of each the oldest; nobody's backlog, debt or bad luck keeps another's waiting."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 32.0  # before a job that was put off is tried again; each pause is twice the one before


@dataclass
class PutOff:
    """A job that could not be run, through no fault of its own. paid: its points have been; needs: bytes of a result that did not fit."""

    paid: bool
    needs: int | None
    pause_s: float
    due_s: float


class Line:
    """Event loop only. What it remembers ends with the process: another one tries every job at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._put_off: dict[str, PutOff] = {}
        self._turns = count(1)
        self._served: dict[str, int] = {}  # owner -> the last turn of theirs

    def next(self, waiting: Iterable[tuple[str, str]], debt_s: Callable[[str], float]) -> tuple[str | None, float | None]:
        """The job that may run now, or None and in how many seconds one may, None if none waits.

        waiting: (job, owner), the oldest first. debt_s: how long an owner's allowance is in debt.
        """
        able: dict[str, str] = {}  # owner -> their oldest
        soonest_s: float | None = None
        for job, owner in waiting:
            if owner in able:
                continue
            wait_s = self._wait_s(job, owner, debt_s)
            if wait_s <= 0:
                able[owner] = job
            else:
                soonest_s = wait_s if soonest_s is None else min(wait_s, soonest_s)
        if not able:
            return None, soonest_s
        owner = min(able, key=lambda each: self._served.get(each, 0))  # of equals the one with the oldest job
        self._served[owner] = next(self._turns)
        return able[owner], None

    def _wait_s(self, job: str, owner: str, debt_s: Callable[[str], float]) -> float:
        """Who has paid for a job waits for no debt, which may be that very job's."""
        if (put_off := self._put_off.get(job)) is None:
            return debt_s(owner)
        return max(put_off.due_s - self._clock(), 0.0 if put_off.paid else debt_s(owner))

    def put_off(self, job: str, *, paid: bool, needs: int | None = None) -> float:
        """Others may go; the pause in seconds before it is tried again."""
        before = self._put_off.get(job)
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, LONGEST_PAUSE_S)
        self._put_off[job] = PutOff(paid, needs, pause_s, self._clock() + pause_s)
        return pause_s

    def paid(self, job: str) -> bool:
        return job in self._put_off and self._put_off[job].paid

    def needs(self, job: str) -> int | None:
        return self._put_off[job].needs if job in self._put_off else None

    def ended(self, job: str) -> None:
        self._put_off.pop(job, None)
