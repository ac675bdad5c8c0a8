"""Who has the device: passes that somebody waits for, side by side, or one measurement, alone.

Two that run at once say of neither how long it takes, and whoever waits for an answer should not wait for a measurement as well. So a
pass that is waited for takes the way to run a kernel that is known, and a measurement runs where there is no such pass.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Thread-safe. A thread that is in a pass measures nothing: it would wait for itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._passes, self._measured = 0, False
        self._thread = threading.local()

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for what this thread does."""
        return bool(getattr(self._thread, "waited_for", False))

    @property
    def untuned(self) -> bool:
        """Whether this thread compiles no more than it needs."""
        return bool(getattr(self._thread, "untuned", False))

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """This thread compiles no more than it needs."""
        before, self._thread.untuned = self.untuned, True
        try:
            yield
        finally:
            self._thread.untuned = before

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Beside other passes, and no measurement."""
        with self._changed:
            self._changed.wait_for(lambda: not self._measured)
            self._passes += 1
        self._thread.waited_for = True
        try:
            yield
        finally:
            self._thread.waited_for = False
            with self._changed:
                self._passes -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Once the passes that have begun are over; others wait until this is."""
        with self._changed:
            self._changed.wait_for(lambda: not self._measured)
            self._measured = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._passes)
            yield
        finally:
            with self._changed:
                self._measured = False
                self._changed.notify_all()


TURNS = Turns()  # of the devices of this process


@contextmanager
def untuned() -> Iterator[None]:
    """While it lasts, this thread runs a kernel in the way that is known to be the quickest, else in the first one that works: that is
    compiled alone, where tuning compiles all. Ways that are built already are tuned.
    """
    with TURNS.sparing():
        yield


@contextmanager
def waited_for() -> Iterator[None]:
    """Around a pass that somebody waits for, to where the device is done with it. It measures nothing. Not within another one."""
    with TURNS.passing():
        yield
