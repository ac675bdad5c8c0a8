"""The body of an ascii PLY file: one line a row."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

import numpy as np

from models.errors import BadBody, TruncatedFile
from models.io.ascii_rows import number, parse_fast
from models.io.ply_header import Element, Header
from models.io.records import Table
from models.io.source import ROWS_AT_A_TIME, Source, take, text_rows


def read_ascii(source: Source, header: Header) -> Iterator[Table]:
    """The scalar columns of the vertex element, a block of rows at a time. Further columns of a line are ignored, lists are passed over.

    Raises: TruncatedFile, BadBody (names the vertex).
    """
    vertex = header.elements[header.vertex]
    rows = text_rows(source, header.offset)
    before = sum(element.count for element in header.elements[: header.vertex] if element.properties)
    deque(islice(rows, before), maxlen=0)
    dtype = np.dtype([(each.name, each.code) for each in vertex.properties if not each.length_code])
    for start in range(0, vertex.count, ROWS_AT_A_TIME):
        wanted = min(ROWS_AT_A_TIME, vertex.count - start)
        lines = take(rows, wanted)
        if len(lines) < wanted:
            raise TruncatedFile(f"the header announces {vertex.count} vertices, the body has {start + len(lines)}")
        table = np.empty(wanted, dtype)
        _parse_lines(lines, vertex, table, start)
        yield table


def _parse_lines(lines: list[bytes], vertex: Element, out: Table, start: int) -> None:
    """Fill `out` from as many lines by the fastest of three readers that can; the last one names what is wrong."""
    if not vertex.has_lists and parse_fast(lines, out, further=True):
        return
    _parse_carefully(lines, vertex, out, start)


def _parse_carefully(lines: list[bytes], vertex: Element, out: Table, start: int) -> None:
    """Row by row: takes lists and whole numbers written as `255.0`, and names the row of an error."""
    for row, line in enumerate(lines):
        try:
            out[row] = _row(line.split(), vertex)
        except (ValueError, OverflowError) as error:
            text = line[:80].decode("latin-1").strip()
            raise BadBody(f"cannot be read: {str(error)[:120]}: {text!r}", where=f"vertex {start + row}") from error


def _row(words: list[bytes], vertex: Element) -> tuple[float, ...]:
    values: list[float] = []
    place = 0
    for each in vertex.properties:
        if place >= len(words):
            raise ValueError(f"no value for {each.name!r}")
        if each.length_code:
            length = int(words[place])
            if length < 0:
                raise ValueError(f"a list of {length} values")
            place += length
        else:
            values.append(number(words[place], whole=each.code[0] != "f"))
        place += 1
    if place > len(words):
        raise ValueError("the list is longer than the line")
    return tuple(values)
