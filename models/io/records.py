"""The rows of a file, a block at a time and as often as wanted: what readers give, and what clouds and answers are made from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.io.source import Source

BLOCK_ROWS = 1 << 16

Table = npt.NDArray[np.void]  # (n,) structured: one named scalar field a column


@dataclass(frozen=True)
class Records:
    """N rows of named columns. `dtype` is structured, one scalar field a column, as the file has them (names, types, byte order).

    Calling `read` goes through the file from its first row: tables of that dtype, each of up to some ten thousand rows, N in all. Two
    readings of one file must not be interleaved. A table may be a view that the next one overwrites.
    """

    count: int
    dtype: np.dtype[np.void]
    read: Callable[[], Iterator[Table]]
    select: "Callable[[frozenset[str]], Records] | None" = None  # where some columns are read faster than all

    def only(self, names: Iterable[str]) -> "Records":
        """The same rows, of which no other columns than these are needed; others may be there all the same."""
        return self if self.select is None else self.select(frozenset(names))

    @property
    def names(self) -> tuple[str, ...]:
        return self.dtype.names or ()

    def blocks(self) -> Iterator[tuple[slice, Table]]:
        """The tables, each with the rows that it holds."""
        start = 0
        for table in self.read():
            yield slice(start, start + len(table)), table
            start += len(table)


def records_of_columns(columns: dict[str, npt.NDArray[np.generic]]) -> Records:
    """The rows of columns (N,) in memory, in their order; they are not copied."""
    dtype = np.dtype([(name, column.dtype) for name, column in columns.items()])
    count = len(next(iter(columns.values())))

    def read() -> Iterator[Table]:
        for start in range(0, count, BLOCK_ROWS):
            table = np.empty(min(BLOCK_ROWS, count - start), dtype)
            for name, column in columns.items():
                table[name] = column[start : start + BLOCK_ROWS]
            yield table

    return Records(count, dtype, read)


def packed_records(source: Source, offset: int, count: int, row: np.dtype[np.void]) -> Records:
    """N packed rows that begin at `offset` of a file. Reading them raises: TruncatedFile."""

    def read() -> Iterator[Table]:
        for start in range(0, count, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, count - start)
            yield np.frombuffer(source.read_all(offset + start * row.itemsize, rows * row.itemsize), row)

    return Records(count, row, read)
