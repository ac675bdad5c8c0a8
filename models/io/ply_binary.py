"""The body of a binary PLY file, either byte order.

Without lists the vertex rows are one structured array. With lists the length of a row is known only when it is read:
rows of equal lengths (triangles) are still taken at once, others are walked one by one.
"""

import struct
from collections.abc import Iterator

import numpy as np

from models.errors import BadBody, TruncatedFile
from models.io.ply_header import Element, Header
from models.io.records import BLOCK_ROWS, Table
from models.io.source import ROWS_AT_A_TIME, Source

WALKED_VALUES = 4_000_000  # in one file, about 2 s: rows with lists of differing lengths are read one after the other
_STRUCT = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f4": "f", "f8": "d"}


def read_binary(source: Source, header: Header) -> Iterator[Table]:
    """The scalar columns of the vertex element, a block of rows at a time. What follows it in the file is not read.

    Raises: TruncatedFile, BadBody (a list of negative length, too many rows of differing lengths).
    """
    vertex = header.elements[header.vertex]
    before = [element for element in header.elements[: header.vertex] if element.count]
    offset = header.offset
    if vertex.has_lists or any(element.has_lists for element in before):
        body = source.read(offset, source.size - offset)  # once, however many elements have lists
        place, walked = 0, 0
        for element in before:
            place, walked = _skip(body, place, element, header.byte_order, walked)
        if vertex.has_lists:
            yield from _read_lists(body, place, vertex, header.byte_order, walked)
            return
        offset += place
    else:
        offset += sum(element.least_bytes(False) for element in before)
    yield from _read_fixed(source, offset, vertex, header.byte_order)


def _read_fixed(source: Source, offset: int, element: Element, byte_order: str) -> Iterator[Table]:
    """All rows of an element without lists."""
    row = np.dtype([(each.name, byte_order + each.code) for each in element.properties])
    if offset + element.count * row.itemsize > source.size:
        raise _truncated(element, source.size - offset)
    for start in range(0, element.count, BLOCK_ROWS):
        wanted = min(BLOCK_ROWS, element.count - start)
        source.file.seek(offset + start * row.itemsize)
        table = np.fromfile(source.file, row, wanted)
        if len(table) < wanted:
            raise _truncated(element, start * row.itemsize + table.nbytes)
        yield table


def _truncated(element: Element, present: int) -> TruncatedFile:
    return TruncatedFile(f"{element.count} rows of {element.name!r} do not fit into the {max(present, 0)} bytes left in the file")


def _skip(body: bytes, place: int, element: Element, byte_order: str, walked: int) -> tuple[int, int]:
    """Where the element ends that begins at `place`, and how many values were walked so far."""
    if not element.has_lists:
        return place + element.least_bytes(False), walked
    rows = _equal_rows(body, place, element, byte_order)
    if rows is not None:
        return place + rows.nbytes, walked
    walked = _checked_walk(element, walked)
    return _walk(body, place, element, byte_order, None), walked


def _read_lists(body: bytes, place: int, element: Element, byte_order: str, walked: int) -> Iterator[Table]:
    """The scalar columns of an element with lists that begins at `place`."""
    dtype = np.dtype([(each.name, byte_order + each.code) for each in element.properties if not each.length_code])
    rows = _equal_rows(body, place, element, byte_order)
    if rows is None:
        _checked_walk(element, walked)
        rows = np.empty(element.count, dtype)
        _walk(body, place, element, byte_order, rows)
    for start in range(0, element.count, BLOCK_ROWS):
        table = np.empty(min(BLOCK_ROWS, element.count - start), dtype)
        for name in dtype.names or ():
            table[name] = rows[name][start : start + BLOCK_ROWS]
        yield table


def _equal_rows(body: bytes, start: int, element: Element, byte_order: str) -> Table | None:
    """All rows as one array if every list is as long as the first row's, else None. The element has rows."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    lengths: dict[str, int] = {}
    present = len(body) - start
    place = 0  # in the first row
    for i, each in enumerate(element.properties):
        if not each.length_code:
            fields.append((each.name, byte_order + each.code))
            place += each.least_bytes
            continue
        first = body[start + place : start + place + each.least_bytes]
        length = int.from_bytes(first, "little" if byte_order == "<" else "big")
        place += each.least_bytes + length * int(each.code[1:])
        if place * element.count > present:
            return None
        lengths[f"{i} length"] = length  # a name with a blank: no property can have it
        fields += [(f"{i} length", byte_order + each.length_code), (f"{i} values", byte_order + each.code, (length,))]
    row = np.dtype(fields)
    if row.itemsize * element.count > present:
        return None
    rows: Table = np.frombuffer(body, row, element.count, start)
    return rows if all((rows[name] == length).all() for name, length in lengths.items()) else None


def _checked_walk(element: Element, walked: int) -> int:
    """The number of values walked when this element is done, too. Raises: BadBody (too many for one file)."""
    walked += element.count * len(element.properties)
    if walked > WALKED_VALUES:
        raise BadBody(f"more than {WALKED_VALUES} values in rows with lists of differing lengths", where=f"element {element.name}")
    return walked


def _walk(body: bytes, place: int, element: Element, byte_order: str, out: Table | None) -> int:
    """Row by row from `place` on: where the element ends; its scalar columns go to `out`, if that is wanted."""
    steps = _steps(element, byte_order, keep=out is not None)
    size, begin = len(body), place
    for start in range(0, element.count, ROWS_AT_A_TIME):
        stop = min(start + ROWS_AT_A_TIME, element.count)
        rows: list[tuple[float, ...]] = []
        for row in range(start, stop):
            values: tuple[float, ...] = ()
            for read, item_bytes in steps:
                if place + read.size > size:
                    raise _truncated(element, size - begin)
                found = read.unpack_from(body, place)
                place += read.size
                if item_bytes:
                    if found[-1] < 0:
                        raise BadBody(f"a list of {found[-1]} values", where=f"{element.name} {row}")
                    place += found[-1] * item_bytes
                    found = found[:-1]
                values += found
            if out is not None:
                rows.append(values)
        if out is not None:
            out[start:stop] = rows  # a block at a time: numpy lets no other thread run meanwhile
    if place > size:
        raise _truncated(element, size - begin)
    return place


def _steps(element: Element, byte_order: str, keep: bool) -> list[tuple[struct.Struct, int]]:
    """How a row is read: runs of scalars (passed over unless to be kept), each up to the length of a list and with the
    bytes of one value of that list; 0 for what comes after the last list.
    """
    steps: list[tuple[struct.Struct, int]] = []
    run = byte_order
    for each in element.properties:
        if each.length_code:
            steps.append((struct.Struct(run + _STRUCT[each.length_code]), int(each.code[1:])))
            run = byte_order
        else:
            run += _STRUCT[each.code] if keep else f"{each.least_bytes}x"
    return [*steps, (struct.Struct(run), 0)] if len(run) > 1 else steps
