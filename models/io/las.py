"""LAS and LAZ: point formats 0 to 10 of LAS 1.0 to 1.4, extra bytes too; of waveforms what a point says of them, not the packets."""

from collections.abc import Iterator

import numpy as np

from models.io.las_columns import Column, rows_a_block
from models.io.las_header import Header, read_header
from models.io.laz import Packed
from models.io.records import Records, Table
from models.io.source import Source


def read_las(source: Source) -> Records:
    """N points: x, y, z (float64, in the units of the file), then the other fields by the names of laspy, then the extra bytes.

    Raises: BadHeader, HeaderTooLarge, TruncatedFile, UnsupportedFormat, TooManyPoints, BadBody (LAZ); reading them TruncatedFile, BadBody.
    """
    header = read_header(source)
    source.admit(header.count)
    packed = Packed.of(source, header) if header.compressed else None
    return _records(source, header, packed, header.columns)


def _records(source: Source, header: Header, packed: Packed | None, columns: tuple[Column, ...]) -> Records:
    dtype = np.dtype([(each.name, each.dtype) for each in columns])

    def read() -> Iterator[Table]:
        fields = frozenset(each.field for each in columns)
        for stored in stored_rows(source, header, packed, fields):
            table = np.empty(len(stored), dtype)
            for each in columns:
                each.fill(stored, table[each.name])
            yield table

    def only(names: frozenset[str]) -> Records:
        return _records(source, header, packed, tuple(each for each in columns if each.name in names))

    return Records(header.count, dtype, read, only)


def stored_rows(source: Source, header: Header, packed: Packed | None = None, fields: frozenset[str] | None = None) -> Iterator[Table]:
    """The points as they are stored, a block at a time; of LAZ the other `fields` than those may be left undone.

    Raises: TruncatedFile, BadBody.
    """
    if header.compressed:
        packed = packed or Packed.of(source, header)
        yield from packed.rows(source, fields)
        return
    row = header.stored
    at_once = rows_a_block(row)
    for start in range(0, header.count, at_once):
        rows = min(at_once, header.count - start)
        yield np.frombuffer(source.read_all(header.points_at + start * row.itemsize, rows * row.itemsize), row)
