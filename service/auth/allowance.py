"""How many points a second the holder of a key may send."""

import time
from collections.abc import Callable

from service.errors import RateLimited

BURST_S = 10.0  # of the rate, for who has sent nothing for a while


class Allowance:
    """Points that may still be sent. How many a cloud has is known when it has been read, so it may go into debt: until that is paid off,
    whoever asks is refused. Shared by all requests with a key; event loop only.
    """

    def __init__(self, points_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = points_per_second, clock
        self._points, self._as_of = points_per_second * BURST_S, clock()

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, points_per_second: float) -> None:
        """Another one from now on; what has been sent stays sent."""
        self._refill()
        self._rate = points_per_second
        self._points = min(self._points, points_per_second * BURST_S)

    def check(self) -> None:
        """Raises: RateLimited (nothing is left; says when something will be)."""
        self._refill()
        if self._points <= 0:
            raise RateLimited(
                f"this key may send {self._rate:g} points a second; try again after the time in Retry-After",
                retry_after_s=-self._points / self._rate,
            )

    def take(self, points: int) -> None:
        """A cloud has so many."""
        self._refill()
        self._points -= points

    def _refill(self) -> None:
        now = self._clock()
        self._points = min(self._points + (now - self._as_of) * self._rate, self._rate * BURST_S)
        self._as_of = now
