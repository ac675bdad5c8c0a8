"""The body of a PCD file: N points as text, as packed rows, or column after column and compressed."""

from collections.abc import Callable, Iterator

import lzf
import numpy as np

from models.errors import BadBody, TruncatedFile
from models.io.ascii_rows import number, parse_fast
from models.io.pcd_header import SIZES_BYTES, Header, compressed_sizes, row_type
from models.io.records import BLOCK_ROWS, Table
from models.io.source import ROWS_AT_A_TIME, Source, take, text_rows

BLOCK_BYTES = 1 << 22

ColumnType = np.dtype[np.void]


def read_ascii(source: Source, header: Header, columns: ColumnType) -> Iterator[Table]:
    """A line a point. Raises: TruncatedFile, BadBody (names the point)."""
    rows = text_rows(source, header.offset)
    at_a_time = _rows_at_a_time(header, ROWS_AT_A_TIME)
    row = row_type(header)
    for start in range(0, header.points, at_a_time):
        wanted = min(at_a_time, header.points - start)
        lines = take(rows, wanted)
        if len(lines) < wanted:
            raise TruncatedFile(f"the header announces {header.points} points, the body has {start + len(lines)}")
        table = np.zeros(wanted, row)
        if not parse_fast(lines, table, further=False):
            _parse_carefully(lines, header, table, start)
        yield table.view(columns)


def read_binary(source: Source, header: Header, columns: ColumnType) -> Iterator[Table]:
    """A packed row a point. Raises: TruncatedFile."""
    at_a_time = _rows_at_a_time(header, BLOCK_ROWS)
    for start in range(0, header.points, at_a_time):
        wanted = min(at_a_time, header.points - start)
        table = source.rows(columns, header.offset + start * columns.itemsize, wanted)
        if len(table) < wanted:
            raise TruncatedFile(f"the header announces {header.points} points, the body has {start + len(table)}")
        yield table


def read_compressed(source: Source, header: Header, columns: ColumnType) -> Iterator[Table]:
    """All values of the first field, then all of the second, ...: one LZF stream. The header is one `as_stored`.

    Raises: TruncatedFile, BadBody.
    """
    values = _decompressed(source, header)
    at_a_time = _rows_at_a_time(header, BLOCK_ROWS)
    for start in range(0, header.points, at_a_time):
        wanted = min(at_a_time, header.points - start)
        table = np.empty((wanted, header.row_bytes), np.uint8)
        place = 0  # in a row
        for field in header.fields:
            begin = header.points * place + start * field.nbytes
            table[:, place : place + field.nbytes] = np.frombuffer(values, np.uint8, wanted * field.nbytes, begin).reshape(wanted, -1)
            place += field.nbytes
        yield table.reshape(-1).view(columns)


def _decompressed(source: Source, header: Header) -> bytes:
    packed_bytes, plain_bytes = compressed_sizes(source, header)
    try:
        values = lzf.decompress(source.read_all(header.offset + SIZES_BYTES, packed_bytes), plain_bytes)
    except ValueError as error:
        raise BadBody("the compressed data is damaged", where="body") from error
    if values is None or len(values) != plain_bytes:
        raise BadBody(f"the compressed data does not hold the {plain_bytes} bytes that it announces", where="body")
    return bytes(values)


READERS: dict[str, Callable[[Source, Header, ColumnType], Iterator[Table]]] = {
    "ascii": read_ascii,
    "binary": read_binary,
    "binary_compressed": read_compressed,
}


def _rows_at_a_time(header: Header, most: int) -> int:
    """Fewer than usual where a point has very many values."""
    return max(1, min(most, BLOCK_BYTES // header.row_bytes))


def _parse_carefully(lines: list[bytes], header: Header, out: Table, start: int) -> None:
    """Line by line: takes whole numbers written as `255.0` and anything for padding, and names the point of an error."""
    codes = [field.code if not field.is_padding else "" for field in header.fields for _ in range(field.count)]
    for row, line in enumerate(lines):
        words = line.split()
        try:
            if len(words) != len(codes):
                raise ValueError(f"{len(words)} values where {len(codes)} are announced")
            out[row] = tuple(number(word, code[0] != "f") if code else 0 for word, code in zip(words, codes, strict=True))
        except (ValueError, OverflowError) as error:
            text = line[:80].decode("latin-1").strip()
            raise BadBody(f"cannot be read: {str(error)[:120]}: {text!r}", where=f"point {start + row}") from error
