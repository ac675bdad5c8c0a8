"""The body of a binary PLY file, either byte order.

Without lists the vertex rows are one structured array. With lists the length of a row is known only when it is read:
rows of equal lengths (triangles) are still taken at once, others are walked one by one.
"""

import struct

import numpy as np

from models.errors import BadBody, TruncatedFile
from models.io.columns import Table
from models.io.ply_header import Element, Header
from models.io.source import Source

WALKED_ROWS = 2_000_000  # about 2 s; rows with lists of differing lengths have to be read one after the other
_STRUCT = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f4": "f", "f8": "d"}


def read_binary(source: Source, header: Header) -> Table:
    """The scalar columns of the vertex element. What follows it in the file is not read.

    Raises: TruncatedFile, BadBody (a list of negative length, too many rows of differing lengths).
    """
    vertex = header.elements[header.vertex]
    offset = header.offset
    for element in header.elements[: header.vertex]:
        offset = _read_lists(source, offset, element, header.byte_order)[1] if element.has_lists else offset + element.least_bytes(False)
    if vertex.has_lists:
        return _read_lists(source, offset, vertex, header.byte_order)[0]
    row = np.dtype([(each.name, header.byte_order + each.code) for each in vertex.properties])
    if offset + vertex.count * row.itemsize > source.size:
        raise _truncated(vertex, source.size - offset)
    source.file.seek(offset)
    table = np.fromfile(source.file, row, vertex.count)
    if len(table) < vertex.count:
        raise _truncated(vertex, table.nbytes)
    return table


def _truncated(element: Element, present: int) -> TruncatedFile:
    return TruncatedFile(f"{element.count} rows of {element.name!r} do not fit into the {max(present, 0)} bytes left in the file")


def _read_lists(source: Source, offset: int, element: Element, byte_order: str) -> tuple[Table, int]:
    """The scalar columns of an element with lists, and where it ends."""
    body = source.read(offset, source.size - offset)
    scalars = [each.name for each in element.properties if not each.length_code]
    rows = _equal_rows(body, element, byte_order)
    if rows is not None:
        return rows[scalars], offset + rows.nbytes
    table, length = _walk(body, element, byte_order)
    return table, offset + length


def _equal_rows(body: bytes, element: Element, byte_order: str) -> Table | None:
    """All rows as one array if every list is as long as the first row's, else None."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    lengths: dict[str, int] = {}
    place = 0
    for i, each in enumerate(element.properties):
        if not each.length_code:
            fields.append((each.name, byte_order + each.code))
            place += each.least_bytes
            continue
        first = body[place : place + each.least_bytes]
        length = int.from_bytes(first, "little" if byte_order == "<" else "big")
        place += each.least_bytes + length * int(each.code[1:])
        if place * max(element.count, 1) > len(body):
            return None
        lengths[f"{i} length"] = length  # a name with a blank: no property can have it
        fields += [(f"{i} length", byte_order + each.length_code), (f"{i} values", byte_order + each.code, (length,))]
    row = np.dtype(fields)
    if row.itemsize * element.count > len(body):
        return None
    rows: Table = np.frombuffer(body, row, element.count)
    return rows if all((rows[name] == length).all() for name, length in lengths.items()) else None


def _walk(body: bytes, element: Element, byte_order: str) -> tuple[Table, int]:
    """Row by row: the scalar columns and the number of bytes of the element."""
    if element.count > WALKED_ROWS:
        raise BadBody(f"more than {WALKED_ROWS} rows with lists of differing lengths", where=f"element {element.name}")
    steps = [
        (struct.Struct(byte_order + _STRUCT[each.length_code or each.code]), int(each.code[1:]) if each.length_code else None)
        for each in element.properties
    ]
    values: list[tuple[float, ...]] = []
    place = 0
    for row in range(element.count):
        scalars: list[float] = []
        for read, item_bytes in steps:
            if place + read.size > len(body):
                raise _truncated(element, len(body))
            (value,) = read.unpack_from(body, place)
            place += read.size
            if item_bytes is None:
                scalars.append(value)
            elif value < 0:
                raise BadBody(f"a list of {value} values", where=f"{element.name} {row}")
            else:
                place += value * item_bytes
        values.append(tuple(scalars))
    if place > len(body):
        raise _truncated(element, len(body))
    return np.array(values, [(each.name, each.code) for each in element.properties if not each.length_code]), place
