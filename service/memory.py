"""What was freed goes back to the system: malloc keeps the pages between those in use, and with each burst there are more of them."""

import ctypes
import sys
from functools import cache

M_ARENA_MAX = -8  # of mallopt(3)
EVERY_S = 2.0


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def one_heap() -> None:
    """Threads allocate from one heap: with one each, what one has freed is of no use to the others, and memory grows for hours."""
    if (mallopt := getattr(_libc(), "mallopt", None)) is not None:
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Takes milliseconds, in which other threads that allocate wait."""
    if (malloc_trim := getattr(_libc(), "malloc_trim", None)) is not None:
        malloc_trim(0)
