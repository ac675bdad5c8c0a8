"""How far `fip predict` is: a line on stderr, rewritten in place on a terminal, elsewhere a plain line every few seconds."""

import math
import shutil
import sys
import time
from types import TracebackType

SECONDS = 5.0  # between plain lines, and before the first: small files have none
TERMINAL_SECONDS = 0.1
LARGE_BYTES = 1 << 24  # of a file that takes seconds to read and to write
CLEAR = "\r\x1b[K"


class Progress:
    """A context: at its end the line on a terminal is gone. shown: False says nothing, where rows go to the same terminal."""

    def __init__(self, *, shown: bool = True) -> None:
        self._shown, self._terminal = shown, sys.stderr.isatty()
        self._last = -math.inf if self._terminal else time.monotonic()
        self._standing = False  # whether a line stands on the terminal

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def say(self, text: str, *, at_once: bool = False) -> None:
        """Called as often as there is something to say; most of it is not said. at_once: this is, for nothing may follow for long."""
        now = time.monotonic()
        if not self._shown or (not at_once and now - self._last < (TERMINAL_SECONDS if self._terminal else SECONDS)):
            return
        self._last = now
        if self._terminal:
            text = CLEAR + text[: shutil.get_terminal_size().columns - 1]
            self._standing = True
        print(text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Called before anything else is printed."""
        if self._standing:
            print(CLEAR, end="", file=sys.stderr, flush=True)
            self._standing = False


def tile_of(done: int, tiles: int) -> str:
    """`, tile 3 of 12`, of the tile that comes next; nothing behind the last one, and of a cloud in one piece."""
    return f", tile {done + 1:,} of {tiles:,}" if 1 < tiles > done else ""
