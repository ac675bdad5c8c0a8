"""Keeps freed memory in the process, so that a net does not ask the kernel for the same pages at every layer.

glibc hands blocks of more than 32 MB back as soon as they are freed, and takes new, empty pages for the next layer: on a LiDAR scan
47,000 page faults a forward pass. With these settings there are none. The user sets nothing; a variable of glibc that he did set
(MALLOC_…, GLIBC_TUNABLES) is left as it is.
"""

import ctypes
import functools
import os
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8  # names of mallopt's parameters, from malloc.h
KEPT_BYTES = 1 << 30  # free memory at the end of the heap beyond this goes back to the system
STEP_BYTES = 32 << 20
OVERRIDES = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
)


@functools.cache
def keep_freed_memory() -> str:
    """Set it once for the process. Returns what was done, in a word or two for `fip doctor`."""
    if not sys.platform.startswith("linux"):
        return "not glibc"
    if chosen := [name for name in OVERRIDES if name in os.environ]:
        return f"left to {chosen[0]}"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return "not glibc"
    # one arena: those of other threads cannot hold a block of more than 64 MB and would map it anew each time
    settings = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TOP_PAD, STEP_BYTES), (TRIM_THRESHOLD, KEPT_BYTES))
    return "keeps up to 1 GiB" if all(mallopt(parameter, value) for parameter, value in settings) else "not glibc"
