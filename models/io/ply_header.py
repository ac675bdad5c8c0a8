"""The header of a PLY file: read within 64 kB, checked against the size of the file before anything is allocated.

Source: G. Turk, The PLY Polygon File Format (1994), and the dialects of many writers: lines end in LF, CR LF or CR; blanks
anywhere; `obj_info`; sized type names (`float32`, `i4`); `bool`.
"""

import re
from dataclasses import dataclass

from models.errors import BadHeader, HeaderTooLarge, MissingCoordinates, TruncatedFile
from models.io.source import Source, parse_count

HEADER_BYTES = 64 * 1024
ELEMENTS = 64
PROPERTIES = 256  # of one element

_SYNONYMS = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8", "bool"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "i8": ("int64",),
    "u8": ("uint64",),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}
TYPES = {name: code for code, names in _SYNONYMS.items() for name in (code, *names)}
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

_END = re.compile(rb"[\r\n][ \t]*end_header[ \t]*(\r\n|\r|\n|\Z)")


@dataclass(frozen=True)
class Property:
    """A column. `code` is numpy's (`f4`); a list has a `length_code` too."""

    name: str
    code: str
    length_code: str | None = None

    @property
    def least_bytes(self) -> int:
        return int((self.length_code or self.code)[1:])


@dataclass(frozen=True)
class Element:
    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def has_lists(self) -> bool:
        return any(each.length_code for each in self.properties)

    def least_bytes(self, ascii_text: bool) -> int:
        """The fewest bytes its rows can take: empty lists; in text a digit and a separator a column."""
        row = 2 * len(self.properties) if ascii_text else sum(each.least_bytes for each in self.properties)
        return self.count * row


@dataclass(frozen=True)
class Header:
    """`byte_order` is `<`, `>` or empty for ascii; `offset` is where the body begins."""

    byte_order: str
    elements: tuple[Element, ...]
    offset: int

    @property
    def vertex(self) -> int:
        """The place of the vertex element. Raises MissingCoordinates when there is none."""
        names = [element.name.lower() for element in self.elements]
        if "vertex" not in names:
            raise MissingCoordinates(f"no vertex element among the elements ({', '.join(names[:16]) or 'none'})", where="header")
        return names.index("vertex")


def read_header(source: Source) -> Header:
    """Raises: BadHeader, HeaderTooLarge, TruncatedFile (the body is too small for what the header announces)."""
    head = source.read(0, HEADER_BYTES)
    if not re.match(rb"ply[ \t]*[\r\n]", head):
        raise BadHeader("a PLY file begins with a line 'ply'", where="line 1")
    end = _END.search(head)
    if end is None or end.end() == HEADER_BYTES < source.size:
        if source.size > HEADER_BYTES:
            raise HeaderTooLarge(f"no end_header within {HEADER_BYTES // 1024} kB")
        raise BadHeader("no end_header")
    lines = head[: end.start()].replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("latin-1").split("\n")
    # where lines end in CR alone, a line feed after the last one is the first byte of the data
    cr_only = b"\n" not in head[: end.start() + 1]
    offset = end.start(1) + 1 if cr_only and end[1] else end.end()
    header = _parse(lines[1:], offset)
    announced = sum(element.least_bytes(not header.byte_order) for element in header.elements)
    present = source.size - offset + (1 if not header.byte_order else 0)  # the last line of a text may lack its end
    if announced > present:
        counts = ", ".join(f"{element.count} {element.name}" for element in header.elements[:8])
        raise TruncatedFile(f"the header announces {counts}: at least {announced} bytes, the body has {source.size - offset}")
    return header


def _parse(lines: list[str], offset: int) -> Header:
    byte_order: str | None = None
    elements: list[tuple[str, int, dict[str, Property]]] = []
    for number, line in enumerate(lines, start=2):
        words = line.split()
        place = f"line {number}"
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", name, *_] if name in BYTE_ORDERS and byte_order is None:
                byte_order = BYTE_ORDERS[name]
            case ["element", name, count]:
                if len(elements) == ELEMENTS:
                    raise HeaderTooLarge(f"more than {ELEMENTS} elements", where=place)
                elements.append((name, parse_count(count, place), {}))
            case ["property", *rest] if elements:
                _add_property(elements[-1][2], rest, place)
            case _:
                raise BadHeader(f"not understood: {line.strip()[:80]!r}", where=place)
    if byte_order is None:
        raise BadHeader("no format line", where="header")
    return Header(byte_order, tuple(Element(name, count, tuple(found.values())) for name, count, found in elements), offset)


def _add_property(found: dict[str, Property], words: list[str], place: str) -> None:
    match words:
        case ["list", length, kind, name] if length in TYPES and kind in TYPES and TYPES[length][0] in "iu":
            new = Property(name, TYPES[kind], TYPES[length])
        case [kind, name] if kind in TYPES:
            new = Property(name, TYPES[kind])
        case _:
            raise BadHeader(f"not a property: {' '.join(words)[:80]!r}", where=place, known=TYPES)
    if len(found) == PROPERTIES:
        raise HeaderTooLarge(f"more than {PROPERTIES} properties in one element", where=place)
    if new.name in found:
        raise BadHeader(f"the property {new.name[:80]!r} appears twice", where=place)
    found[new.name] = new
