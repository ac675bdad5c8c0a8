"""The bytes of one upload or file: a real file on disk or one in memory, so that its size is known before anything is read."""

import io
import itertools
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, BadHeader, EmptyFile, FileError, TooManyPoints, TruncatedFile

BLOCK_BYTES = 1 << 18  # text is split into lines a block at a time; no line may be longer than a block
ROWS_AT_A_TIME = 1 << 15  # rows of a text, or of Python objects, that are turned into numbers at once
COUNT_DIGITS = 18  # of any count that a header gives: fits 64 bits


@dataclass(frozen=True)
class Source:
    """An open file, its size in bytes, and how many points are wanted of it at most. Readers seek where they need to."""

    file: io.BufferedReader | io.BytesIO
    size: int
    max_points: int | None = None

    def admit(self, points: int) -> None:
        """Called by readers with what the header announces, before allocating. Raises: TooManyPoints."""
        if self.max_points is not None and points > self.max_points:
            raise TooManyPoints(f"{points} points, the limit is {self.max_points}")

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset` on."""
        self.file.seek(offset)
        return self.file.read(count)

    def read_all(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on. Raises: TruncatedFile."""
        found = self.read(offset, count)
        if len(found) < count:
            raise TruncatedFile(f"the file ends {count - len(found)} bytes early")
        return found

    def rows(self, row: np.dtype[np.void], offset: int, count: int) -> npt.NDArray[np.void]:
        """Up to `count` packed rows from `offset` on."""
        self.file.seek(offset)
        table = np.empty(count, row)
        found = self.file.readinto(table.view(np.uint8).data)
        return table[: found // max(row.itemsize, 1)]


@contextmanager
def on_disk(source: Source) -> Iterator[BinaryIO]:
    """The file as one that has a descriptor."""
    if not isinstance(source.file, io.BytesIO):
        yield source.file
        return
    with _descriptor() as file:
        file.write(source.file.getbuffer())
        file.flush()
        yield file


def _descriptor() -> BinaryIO:
    """An empty file, in memory where the system can do that."""
    return os.fdopen(os.memfd_create("cloud"), "w+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


@contextmanager
def opened(source: Path | BinaryIO, max_points: int | None = None) -> Iterator[Source]:
    """Open a path, or look at the file behind an open one (which stays open; its position is not kept).

    Raises: FileError (cannot be opened, not a regular file), EmptyFile.
    """
    try:
        file = _open(source)
    except OSError as error:
        raise FileError(f"cannot be opened: {error.strerror}", where=str(source)) from error
    with file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise EmptyFile("the file is empty")
        yield Source(file, size, max_points)


def _open(source: Path | BinaryIO) -> io.BufferedReader | io.BytesIO:
    if isinstance(source, io.BytesIO):
        return io.BytesIO(source.getvalue())  # shares its bytes
    if not isinstance(source, Path):
        source.flush()
        return open(source.fileno(), "rb", closefd=False)
    if not stat.S_ISREG(source.stat().st_mode):  # before opening: to open a pipe would wait for a writer
        raise FileError("not a regular file", where=str(source))
    return source.open("rb")


def parse_count(word: str, where: str) -> int:
    """The number of rows that a header gives as text. Raises: BadHeader (not a whole number of at most 18 digits)."""
    if not (word.isascii() and word.isdigit() and len(word) <= COUNT_DIGITS):
        raise BadHeader(f"a count must be a whole number of at most {COUNT_DIGITS} digits, found {word[:24]!r}", where=where)
    return int(word)


def text_rows(source: Source, offset: int) -> Iterator[bytes]:
    """The lines from `offset` on that are not blank, whichever way they end (LF, CR LF, CR); nothing is read ahead of need
    but one block. Raises: BadBody (a line is longer than a block).
    """
    return filter(bytes.strip, text_lines(source, offset))


def text_lines(source: Source, offset: int) -> Iterator[bytes]:
    """All lines from `offset` on, blank ones too, with their ends. Raises: BadBody, as `text_rows`."""
    return itertools.chain.from_iterable(_line_blocks(source, offset))


def take(rows: Iterator[bytes], count: int) -> list[bytes]:
    """The next `count` rows, fewer at the end of the file."""
    return list(itertools.islice(rows, count))


def _line_blocks(source: Source, offset: int) -> Iterable[list[bytes]]:
    source.file.seek(offset)
    rest = b""
    while block := source.file.read(BLOCK_BYTES):
        *lines, rest = (rest + block).splitlines(keepends=True)
        if len(rest) > BLOCK_BYTES:
            raise BadBody(f"a line of the text is longer than {BLOCK_BYTES >> 10} kB")
        yield lines
    yield [rest]
