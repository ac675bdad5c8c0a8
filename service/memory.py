"""What was freed stays for a moment, then goes back to the system: malloc would keep it, and with each burst there would be more of it."""

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
LARGEST_KEPT, MOST_KEPT = 16 << 20, 64 << 20  # bytes: of one allocation, and of all that is free at the end of the heap
EVERY_S = 2.0


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def one_heap() -> None:
    """Threads allocate from one heap: with one each, what one has freed is of no use to the others, and memory grows for hours. What is
    freed stays for the next request until `give_back`: to take it anew from the system each time costs more than to copy a body.
    """
    if (mallopt := getattr(_libc(), "mallopt", None)) is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def give_back() -> None:
    """Takes milliseconds, in which other threads that allocate wait."""
    if (malloc_trim := getattr(_libc(), "malloc_trim", None)) is not None:
        malloc_trim(0)
