"""The log: one JSON object a line on stderr, written by a thread, so that a reader who is slow never holds up a request."""

import contextlib
import copy
import json
import logging
import math
import os
import queue
import select
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener

STDERR = 2
CHARACTERS = 2000  # of one value
TRACEBACK_CHARACTERS = 8000
DEPTH, ITEMS = 4, 100  # of lists and mappings within a field
WAITING = 4096  # lines
FLUSH_SECONDS = 2.0
GATHER_S = 0.01
INT64 = range(-(1 << 63), 1 << 64)  # what readers of JSON can be expected to read


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, the fields given as `extra={"fields": {...}}`, and a traceback.

    Printable ASCII only, whatever a field holds. A field cannot replace time, level or event; `trace_id` stands there if there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": _text(_message(record)),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            own = frozenset(event)
            given = {_text(str(name)): value for name, value in fields.items() if not (name == "trace_id" and value is None)}
            event.update({name: _plain(value) for name, value in given.items() if name not in own})
        if dropped := getattr(record, "dropped", 0):
            event["dropped"] = dropped
        if record.exc_info and record.exc_info[0]:
            event["traceback"] = _ends(self.formatException(record.exc_info))
        return json.dumps(event)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit, or cannot be printed: the line is worth more than an error about it
        return str(record.msg)


def _plain(value: object, depth: int = DEPTH) -> object:
    """What every reader of JSON takes: no NaN, no integer of 5,000 digits, nothing endless."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in INT64 else _text(hex(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    try:
        if depth and isinstance(value, Mapping):
            return {_text(str(name)): _plain(item, depth - 1) for name, item in list(value.items())[:ITEMS]}
        if depth and isinstance(value, list | tuple):
            return [_plain(item, depth - 1) for item in value[:ITEMS]]
        return _text(str(value))
    except Exception:
        return f"({type(value).__name__} that cannot be printed)"


def _text(text: str) -> str:
    """At most 2,000 characters; surrogates, which are no text, as backslashes and digits."""
    cut = text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}… ({len(text)} characters)"
    return cut if cut.isascii() else cut.encode("utf-8", "backslashreplace").decode()


def _ends(traceback: str) -> str:
    """The last lines say most, the first where it began."""
    text = traceback.encode("utf-8", "backslashreplace").decode()
    half = TRACEBACK_CHARACTERS // 2
    return text if len(text) <= TRACEBACK_CHARACTERS else f"{text[:half]}\n… ({len(text)} characters)\n{text[-half:]}"


class Descriptor(logging.Handler):
    """Writes finished lines past sys.stderr: a thread that waits within Python's own buffer cannot be left behind when the process ends."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def createLock(self) -> None:  # noqa: N802
        """None: logging.shutdown would wait for a thread that waits for the reader."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        rest = memoryview(f"{record.msg}\n".encode("ascii"))
        with contextlib.suppress(OSError):  # the reader is gone: nobody to tell
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # whoever started us shares a descriptor that does not wait
                    wait = select.poll()
                    wait.register(self._descriptor, select.POLLOUT)
                    wait.poll()


class Gathering(QueueListener):
    """Lets lines gather for a moment, so that not every request wakes it."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord]", handler: logging.Handler) -> None:
        super().__init__(lines, handler)
        self._lines = lines

    def dequeue(self, block: bool) -> logging.LogRecord:
        waited = self._lines.empty()
        line = self._lines.get(block)
        if waited:
            time.sleep(GATHER_S)
        return line


class WaitingLines(QueueHandler):
    """Hands lines to a thread that writes them. Where too many wait, lines are dropped; the next that is not says how many in `dropped`."""

    def __init__(self, descriptor: int = STDERR, waiting: int = WAITING) -> None:
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(waiting)
        super().__init__(self._lines)
        self.setFormatter(JsonLines())
        self._direct = Descriptor(descriptor)
        self._listener = Gathering(self._lines, self._direct)
        self._process = os.getpid()
        self._dropped = 0
        self._closed = False
        self._listener.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits, never raises. After a fork the child has no such thread, and writes its lines itself."""
        try:
            if os.getpid() != self._process:
                self._direct.emit(self.prepare(record))
            elif self._lines.full() or self._closed:
                self._dropped += 1
            else:
                line = copy.copy(record)
                line.__dict__["dropped"] = self._dropped
                self.enqueue(self.prepare(line))
                self._dropped = 0
        except Exception:
            self._dropped += 1

    def _flushed(self) -> bool:
        give_up = time.monotonic() + FLUSH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < give_up:
            time.sleep(0.001)
        return not self._lines.unfinished_tasks

    def close(self) -> None:
        """Write what waits, for 2 s at most; the thread of a log that nobody reads is left behind."""
        if os.getpid() == self._process and not self._closed:
            flushed = self._flushed()
            if flushed and self._dropped:
                self.handle(logging.LogRecord(__name__, logging.WARNING, __file__, 0, "lines of the log were dropped", None, None))
                flushed = self._flushed()
            self._closed = True
            if flushed:
                self._listener.stop()
        super().close()


def configure_logs(level: int | str = logging.INFO, descriptor: int = STDERR) -> None:
    """All logs and warnings of this process as JSON lines, also the last before it ends. A second call replaces the first."""
    logging.basicConfig(level=level, handlers=[WaitingLines(descriptor)], force=True)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # uvicorn may have brought handlers of its own
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it greets, and says goodbye
