"""The header of a PCD file: read within 64 kB, checked against the size of the file before anything is allocated.

Source: the Point Cloud Library's PCD file format 0.7, and what its reader makes of older and other headers: lines in any order;
COLUMNS for FIELDS; without SIZE, TYPE and COUNT all fields are one float32; several fields called `_`, which are padding.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from models.errors import BadBody, BadHeader, HeaderTooLarge, TruncatedFile
from models.io.source import Source, parse_count

HEADER_BYTES = 64 * 1024
FIELDS = 256
VALUES = 2048  # of one point, all COUNTs together, padding too; the widest descriptor of the library has 1,980
PADDING = "_"
KINDS = ("ascii", "binary", "binary_compressed")
TYPES = {(kind, size): kind.lower() + size for kind in "IU" for size in "1248"} | {("F", size): f"f{size}" for size in "48"}
SIZES_BYTES = 8  # before the body of a compressed file: uint32 compressed, uint32 uncompressed
LZF_RATIO = 264 / 3  # the longest repetition of LZF, and the bytes that say it

_KEYS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_DATA = re.compile(rb"(?:\A|\n)[ \t]*(?i:DATA)[ \t]+([^\s]*)[^\n]*(?:\n|\Z)")


@dataclass(frozen=True)
class Field:
    """A field of a point: `count` values of one type. `code` is numpy's (`f4`)."""

    name: str
    code: str
    count: int

    @property
    def is_padding(self) -> bool:
        return self.name == PADDING

    @property
    def nbytes(self) -> int:
        return int(self.code[1:]) * self.count


@dataclass(frozen=True)
class Header:
    """`data` is one of KINDS; `text` is the header as it stands in the file: the body begins after it."""

    fields: tuple[Field, ...]
    points: int
    data: str
    text: bytes

    @property
    def offset(self) -> int:
        return len(self.text)

    @property
    def row_bytes(self) -> int:
        """Of one point, with its padding."""
        return sum(field.nbytes for field in self.fields)

    @property
    def values(self) -> int:
        """How many numbers a line of text has for a point; padding stands there, too."""
        return sum(field.count for field in self.fields)


def read_header(source: Source) -> Header:
    """Raises: BadHeader, HeaderTooLarge, TruncatedFile and BadBody (the body is too small for what the header announces)."""
    head = source.read(0, HEADER_BYTES)
    found = _DATA.search(head)
    if found is None or (found.end() == HEADER_BYTES < source.size and not head.endswith(b"\n")):
        if source.size > HEADER_BYTES and _first_word(head) in _KEYS:
            raise HeaderTooLarge(f"no line 'DATA' within {HEADER_BYTES // 1024} kB")
        raise BadHeader("no line 'DATA': not a PCD file")
    header = _parse(head[: found.end()])
    _check_size(header, source)
    return header


def key_of(line: bytes) -> str:
    """The key that a line of a header begins with, as FORMATS spells it; empty for comments, blank lines and unknown keys."""
    words = line.split(maxsplit=1)
    key = words[0].upper().decode("latin-1") if words else ""
    return "FIELDS" if key == "COLUMNS" else key if key in _KEYS else ""


def _first_word(head: bytes) -> str:
    return next((key_of(line) for line in head.split(b"\n") if line.strip() and not line.lstrip().startswith(b"#")), "")


def _parse(text: bytes) -> Header:
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not (key := key_of(line)):
            continue
        if key in found:
            raise BadHeader(f"a second line {key!r}", where=f"line {number}")
        found[key] = [_decoded(word) for word in line.split()[1:]]
    data = " ".join(found["DATA"][:1]).lower()
    if data not in KINDS:
        raise BadHeader(f"unknown kind of data {data[:40]!r}", where="DATA", known=KINDS)
    return Header(_fields(found), _points(found), data, text)


def _decoded(word: bytes) -> str:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        return word.decode("latin-1")


def _fields(found: dict[str, list[str]]) -> tuple[Field, ...]:
    names = found.get("FIELDS", [])
    if not names:
        raise BadHeader("no fields", where="FIELDS")
    if len(names) > FIELDS:  # before looking at each
        raise HeaderTooLarge(f"more than {FIELDS} fields", where="FIELDS")
    sizes, types, counts = (found.get(key, [default] * len(names)) for key, default in (("SIZE", "4"), ("TYPE", "F"), ("COUNT", "1")))
    for key, words in (("SIZE", sizes), ("TYPE", types), ("COUNT", counts)):
        if len(words) != len(names):
            raise BadHeader(f"{len(words)} values for {len(names)} fields", where=key)
    fields: list[Field] = []
    for name, kind, size, count in zip(names, types, sizes, counts, strict=True):
        if (kind.upper(), size) not in TYPES:
            raise BadHeader(f"a field of type {kind[:8]!r} and {size[:8]!r} bytes: {name[:80]!r}", where="TYPE", known=map("".join, TYPES))
        if name != PADDING and any(name == field.name for field in fields):
            raise BadHeader(f"the field {name[:80]!r} appears twice", where="FIELDS")
        fields.append(Field(name, TYPES[kind.upper(), size], parse_count(count, "COUNT")))
        if not fields[-1].count:
            raise BadHeader(f"the field {name[:80]!r} has no values", where="COUNT")
    return within_limits(tuple(fields))


def within_limits(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The same fields. Raises: HeaderTooLarge (more of them, or of their values, than is read)."""
    if len(fields) > FIELDS:
        raise HeaderTooLarge(f"more than {FIELDS} fields", where="FIELDS")
    if sum(field.count for field in fields) > VALUES:
        raise HeaderTooLarge(f"more than {VALUES} values a point", where="COUNT")
    return fields


def _points(found: dict[str, list[str]]) -> int:
    """POINTS, and WIDTH · HEIGHT, which is the same; either may be missing."""
    numbers = {key: parse_count(" ".join(found[key]), key) for key in ("WIDTH", "HEIGHT", "POINTS") if key in found}
    if "WIDTH" in numbers:
        area = numbers["WIDTH"] * numbers.get("HEIGHT", 1)
        if numbers.get("POINTS", area) != area:
            raise BadHeader(f"WIDTH · HEIGHT is {area}, POINTS {numbers['POINTS']}", where="POINTS")
        return area
    if "POINTS" not in numbers:
        raise BadHeader("neither WIDTH nor POINTS", where="header")
    return numbers["POINTS"]


def _check_size(header: Header, source: Source) -> None:
    """Raises: TruncatedFile, BadBody."""
    if header.points == 0:
        return
    if header.data == "binary_compressed":
        compressed_sizes(source, header)
        return
    present = source.size - header.offset
    if header.data == "ascii":
        least = header.points * 2 * header.values - 1  # a digit and a separator each; the last line may lack its end
    else:
        least = header.points * header.row_bytes
    if least > present:
        raise TruncatedFile(f"the header announces {header.points} points: at least {least} bytes, the body has {present}")


def compressed_sizes(source: Source, header: Header) -> tuple[int, int]:
    """The bytes of the body compressed and not compressed, as announced there and possible. Raises: TruncatedFile, BadBody."""
    packed_bytes, plain_bytes = np.frombuffer(source.read_all(header.offset, SIZES_BYTES), "<u4").tolist()
    present = source.size - header.offset - SIZES_BYTES
    if packed_bytes > present:
        raise TruncatedFile(f"{packed_bytes} bytes of compressed data are announced, the body has {present}", where="body")
    full = header.points * header.row_bytes
    bare = header.points * without_padding(header).row_bytes
    if plain_bytes not in (full, bare):
        raise BadBody(f"{header.points} points take {full} bytes, the compressed data announces {plain_bytes}", where="body")
    if plain_bytes > packed_bytes * LZF_RATIO:
        raise BadBody(f"{packed_bytes} bytes of compressed data cannot hold {plain_bytes}", where="body")
    return packed_bytes, plain_bytes


def as_stored(header: Header, source: Source) -> Header:
    """The same header, without padding where that is not in the body: the library leaves it out of compressed files."""
    bare = without_padding(header)
    if header.data == "binary_compressed" and compressed_sizes(source, header)[1] == header.points * bare.row_bytes:
        return bare
    return header


def without_padding(header: Header) -> Header:
    return replace(header, fields=tuple(field for field in header.fields if not field.is_padding))


def row_type(header: Header) -> np.dtype[np.void]:
    """One point with its padding as one scalar a value: what a line of text has, and what a binary file has, byte for byte."""
    codes = [f"<{field.code}" for field in header.fields for _ in range(field.count)]
    return np.dtype([(str(place), code) for place, code in enumerate(codes)])
