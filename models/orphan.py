"""For a process that is of no use without the one that started it."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process killed as soon as its parent, or the thread of it that started this one, is no more, also where this one is stuck.

    On Linux; elsewhere only where the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def obey() -> None:
    """Ctrl-C and SIGTERM end this process, although the one that started it may have ignored them: that is inherited."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
