"""Ctrl-C and SIGTERM as a request: the run ends at the next optimiser step, once everything is saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal has asked for the end."""

    asked = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block; the second one of a kind acts as it did before the block.

    Outside the main thread, where Python hears no signals, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: FrameType | None) -> None:
        request.asked = True
        signal.signal(number, before[signal.Signals(number)])

    for kind in before:
        signal.signal(kind, on_signal)
    try:
        yield request
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
