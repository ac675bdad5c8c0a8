"""The header of a LAS or LAZ file, checked against the size of the file before anything else is read.

Source: ASPRS LAS specification 1.0 to 1.4 R15; of LAZ also the record of LASzip (Isenburg, 2013).
"""

import math
import struct
from dataclasses import dataclass

import numpy as np

from models.errors import BadHeader, HeaderTooLarge, TruncatedFile, UnsupportedFormat
from models.io.las_columns import POINT_FORMATS, Column, ExtraField, columns_of, extra_fields, stored_type
from models.io.source import Source

SIZES = (227, 227, 227, 235, 375)  # of the headers of 1.0 to 1.4
RECORDS = 4096  # variable length records of either kind
VLR, EVLR = struct.Struct("<2x16sHH32s"), struct.Struct("<2x16sHQ32s")
EXTRA_BYTES, LASZIP, LOOKUP = (b"LASF_Spec", 4), (b"laszip encoded", 22204), (b"LASF_Spec", 0)  # user and record ids
COMPRESSED, FORMAT_BITS = 0x80, 0x3F  # of the byte that holds the point format
FORMAT_AT, COUNT_AT, SCALES_AT, WAVEFORM_AT, EVLRS_AT, LONG_COUNT_AT = 104, 107, 131, 227, 235, 247  # bytes of the header


@dataclass(frozen=True)
class Vlr:
    """A variable length record. `offset` is where its own header begins, `size` the bytes of what follows that."""

    user: bytes
    record: int
    offset: int
    size: int
    head: int  # bytes of its own header

    @property
    def key(self) -> tuple[bytes, int]:
        return (self.user, self.record)

    @property
    def body(self) -> int:
        return self.offset + self.head

    @property
    def end(self) -> int:
        return self.body + self.size


@dataclass(frozen=True)
class Header:
    """What a header says. `points_at`: where the points begin; `tail_at`: what is behind them, if anything is."""

    minor: int
    size: int
    point_format: int
    compressed: bool
    count: int
    points_at: int
    tail_at: int
    vlrs: tuple[Vlr, ...]
    evlrs: tuple[Vlr, ...]
    extra: tuple[ExtraField, ...]
    stored: np.dtype[np.void]
    columns: tuple[Column, ...]

    def find(self, key: tuple[bytes, int]) -> Vlr | None:
        return next((each for each in self.vlrs if each.key == key), None)


def is_compressed(source: Source) -> bool:
    """Whether a file that was recognised as LAS is LAZ."""
    return bool(source.read(FORMAT_AT, 1)[0] & COMPRESSED)


def read_header(source: Source) -> Header:
    """Raises: BadHeader, HeaderTooLarge, TruncatedFile (the file is too small for what the header announces), UnsupportedFormat."""
    head = source.read(0, SIZES[-1])
    if head[:4] != b"LASF":
        raise BadHeader("a LAS file begins with LASF")
    if len(head) < SIZES[0]:
        raise TruncatedFile(f"{len(head)} bytes are no LAS header, it has at least {SIZES[0]}")
    major, minor = head[24:26]
    if major != 1 or minor >= len(SIZES):
        raise UnsupportedFormat(f"LAS {major}.{minor} is not read; 1.0 to 1.4 are", where="version")
    size, points_at, vlr_count, kind, row_bytes = struct.unpack_from("<HIIBH", head, 94)
    if not SIZES[minor] <= size <= points_at:
        raise BadHeader(
            f"a header of {size} bytes before points at byte {points_at}; LAS 1.{minor} has {SIZES[minor]}", where="header size"
        )
    if points_at > source.size:
        raise TruncatedFile(f"the points begin at byte {points_at}, the file has {source.size}", where="offset to point data")
    point_format, compressed = kind & FORMAT_BITS, bool(kind & COMPRESSED)
    if kind & ~(COMPRESSED | FORMAT_BITS) or point_format >= len(POINT_FORMATS):
        raise BadHeader(f"the point format {kind} is not one of 0 to {len(POINT_FORMATS) - 1}", where="point format")
    if row_bytes < POINT_FORMATS[point_format].itemsize:
        raise BadHeader(
            f"points of format {point_format} have at least {POINT_FORMATS[point_format].itemsize} bytes, not {row_bytes}",
            where="record length",
        )
    scaling = struct.unpack_from("<6d", head, SCALES_AT)
    if not all(map(math.isfinite, scaling)):
        raise BadHeader("a scale or an offset is not a finite number", where="scale factors")
    count = _count(head, minor)
    if not compressed and count * row_bytes > source.size - points_at:
        raise TruncatedFile(f"{count} points of {row_bytes} bytes do not fit into the {source.size - points_at} bytes after the header")
    vlrs = _walk(source, VLR, size, vlr_count, points_at)
    evlrs = _evlrs(source, head, minor)
    extra = _described(source, vlrs, row_bytes - POINT_FORMATS[point_format].itemsize)
    stored = stored_type(point_format, row_bytes, extra)
    columns = columns_of(point_format, stored, extra, scaling[:3], scaling[3:])
    end = None if compressed else points_at + count * row_bytes
    tail = _tail(source, head, minor, points_at, end, evlrs, vlrs[-1].end if vlrs else size)
    return Header(minor, size, point_format, compressed, count, points_at, tail, vlrs, evlrs, tuple(extra), stored, columns)


def _count(head: bytes, minor: int) -> int:
    (short,) = struct.unpack_from("<I", head, COUNT_AT)
    if minor < 4 or len(head) < SIZES[4]:
        return int(short)
    (long,) = struct.unpack_from("<Q", head, LONG_COUNT_AT)
    return int(long or short)  # there are writers that fill in the old one alone


def _walk(source: Source, form: struct.Struct, start: int, count: int, end: int) -> tuple[Vlr, ...]:
    """`count` records from `start` on, all before `end`. Raises: HeaderTooLarge, TruncatedFile, BadHeader."""
    name = "VLR" if form is VLR else "EVLR"
    if count > RECORDS:
        raise HeaderTooLarge(f"{count} records, the limit is {RECORDS}", where=f"number of {name}s")
    found: list[Vlr] = []
    for number in range(count):
        if start + form.size > end:
            raise TruncatedFile(f"{count} {name}s do not fit between byte {start} and byte {end}", where=f"{name} {number}")
        user, record, size, _ = form.unpack(source.read_all(start, form.size))
        found.append(Vlr(user.partition(b"\0")[0], record, start, size, form.size))
        start = found[-1].end
        if start > end:
            raise TruncatedFile(f"its {size} bytes end at byte {start}, beyond byte {end}", where=f"{name} {number}")
    return tuple(found)


def _evlrs(source: Source, head: bytes, minor: int) -> tuple[Vlr, ...]:
    if minor < 4:
        return ()
    if len(head) < SIZES[4]:
        raise TruncatedFile(f"a header of LAS 1.4 has {SIZES[4]} bytes, the file {len(head)}")
    start, count = struct.unpack_from("<QI", head, EVLRS_AT)
    return _walk(source, EVLR, start, count, source.size)


def _described(source: Source, vlrs: tuple[Vlr, ...], extra_bytes: int) -> list[ExtraField]:
    """The extra bytes that are there and described. Raises: BadHeader (more are described than there are)."""
    vlr = next((each for each in vlrs if each.key == EXTRA_BYTES), None)
    if vlr is None or extra_bytes == 0:  # a description of nothing, which some writers leave behind
        return []
    fields = extra_fields(source.read_all(vlr.body, vlr.size))
    described = sum(each.bytes for each in fields)
    if described > extra_bytes:
        raise BadHeader(f"{described} extra bytes are described, a point has {extra_bytes}", where="extra bytes")
    return fields


def _tail(source: Source, head: bytes, minor: int, points_at: int, end: int | None, evlrs: tuple[Vlr, ...], vlrs_end: int) -> int:
    """Where what is behind the points begins: of LAZ, whose points end somewhere, the first record that is there."""
    starts = [evlrs[0].offset] if evlrs else []
    if any(start < vlrs_end or points_at <= start < (end or points_at + 1) for start in starts):
        raise BadHeader(f"extended records at byte {starts[0]}, within what comes before them", where="start of first EVLR")
    if end is not None:
        return end
    if minor >= 3:
        starts += struct.unpack_from("<Q", head, WAVEFORM_AT)
    return min((start for start in starts if points_at < start < source.size), default=source.size)
