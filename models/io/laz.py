"""The compressed points of LAZ. lazrs unpacks them; what it would allocate or look up by unchecked numbers is checked here first.

N points in chunks, each packed for itself. Source: Isenburg, LASzip: lossless compression of LiDAR data (2013), and LASzip's own format.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lazrs
import numpy as np

from models.errors import BadBody, BadHeader, FileError, HeaderTooLarge, UnsupportedFormat
from models.io.las_columns import FIRST_NEW, rows_a_block
from models.io.las_header import LASZIP, Header
from models.io.records import Table
from models.io.source import Source

POINTS_A_BYTE = 1024  # no chunk holds more; the coder spends at least 1/100 bit on a symbol, each point has some
MOST_EXTRA = 1024  # extra bytes of a packed point: the coder keeps up to 20 kB for each
CHUNK_COST, FREE_COST, COST_A_POINT = 140, 70_000, 0.5  # to begin a chunk takes 1 ms and 7 µs for each extra byte: 7 µs is 1
ONE_CHUNK, CHUNKED, LAYERED = 1, 2, 3  # how the points are packed
ANY_NUMBER = 0xFFFFFFFF  # of points in a chunk: the table of chunks says how many
VLR = struct.Struct("<HHBBHIIqqH")
ITEM = struct.Struct("<HHH")  # kind, bytes, version
BYTES, BYTES14 = 0, 14
_POINT, _TIME, _RGB, _WAVE = (6, 20), (7, 8), (8, 6), (9, 29)
_POINT14, _RGB14, _NIR14, _WAVE14 = (10, 30), (11, 6), (12, 8), (13, 29)
ITEMS = (  # kinds and bytes of the parts of a point, by point format; extra bytes follow
    *((_POINT,), (_POINT, _TIME), (_POINT, _RGB), (_POINT, _TIME, _RGB), (_POINT, _TIME, _WAVE), (_POINT, _TIME, _RGB, _WAVE)),
    *((_POINT14,), (_POINT14, _RGB14), (_POINT14, _NIR14), (_POINT14, _WAVE14), (_POINT14, _NIR14, _WAVE14)),
)
LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}  # of the parts of a point
SELECTED = {  # fields of a point of format 6 and above, and the layers that they are in
    "Z": lazrs.SELECTIVE_DECOMPRESS_Z,
    "classification": lazrs.SELECTIVE_DECOMPRESS_CLASSIFICATION,
    "classification_flags": lazrs.SELECTIVE_DECOMPRESS_FLAGS,
    "intensity": lazrs.SELECTIVE_DECOMPRESS_INTENSITY,
    "scan_angle": lazrs.SELECTIVE_DECOMPRESS_SCAN_ANGLE,
    "user_data": lazrs.SELECTIVE_DECOMPRESS_USER_DATA,
    "point_source_id": lazrs.SELECTIVE_DECOMPRESS_POINT_SOURCE_ID,
    "gps_time": lazrs.SELECTIVE_DECOMPRESS_GPS_TIME,
    **dict.fromkeys(("red", "green", "blue"), lazrs.SELECTIVE_DECOMPRESS_RGB),
    "nir": lazrs.SELECTIVE_DECOMPRESS_NIR,
}


@dataclass(frozen=True)
class Packed:
    """Where the chunks are, and how many points each holds. record: of LASzip, changed so that it speaks of one chunk only."""

    header: Header
    record: bytes
    layers: int  # of a chunk; 0: it has none
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    points: tuple[int, ...]

    @classmethod
    def of(cls, source: Source, header: Header) -> "Packed":
        """Raises: BadHeader, BadBody, TruncatedFile, UnsupportedFormat."""
        vlr = header.find(LASZIP)
        if vlr is None:
            raise BadHeader("compressed points without the record of LASzip that says how", where="laszip encoded")
        record = source.read_all(vlr.body, min(vlr.size, VLR.size + 16 * ITEM.size))
        kind, chunk = _checked(record, header)
        layers = 0
        if kind == LAYERED:
            layers = sum(LAYERS[item] for item, _ in ITEMS[header.point_format]) + _extra_bytes(header)
        offsets, sizes, points = _chunks(source, header, record, kind, chunk)
        alone = struct.pack("<H", ONE_CHUNK) + record[2:12] + struct.pack("<I", ANY_NUMBER - 1) + record[16:]
        return cls(header, alone, layers, offsets, sizes, points)

    def rows(self, source: Source, fields: frozenset[str] | None = None) -> Iterator[Table]:
        """The points, a block at a time; of the layers only those that hold `fields`. Raises: BadBody, TruncatedFile."""
        row = self.header.stored
        selection = _selection(fields)
        block, filled = np.empty(min(rows_a_block(row), self.header.count), row), 0
        left = self.header.count
        for number, (offset, size, points) in enumerate(zip(self.offsets, self.sizes, self.points, strict=True)):
            points = min(points, left)
            left -= points
            with _lazrs(f"chunk {number}"):
                if self.layers:
                    self._check_layers(source, offset, size)
                decompressor = lazrs.LasZipDecompressor(_Window(source, offset, size), self.record, selection)
            while points:
                rows = min(points, len(block) - filled)
                with _lazrs(f"chunk {number}"):
                    decompressor.decompress_many(block[filled : filled + rows].view(np.uint8))
                filled, points = filled + rows, points - rows
                if filled == len(block):
                    yield block
                    filled = 0
        if filled:
            yield block[:filled]

    def _check_layers(self, source: Source, offset: int, size: int) -> None:
        """Whether the layers fit into their chunk. Raises: BadBody."""
        start = self.header.stored.itemsize + 4  # the first point as it is, and a number of points
        if size == self.header.stored.itemsize:  # no more than that one
            return
        sizes = np.frombuffer(source.read_all(offset, start + 4 * self.layers), "<u4", self.layers, start)
        if start + sizes.nbytes + int(sizes.sum(dtype=np.uint64)) > size:
            raise BadBody(f"layers of {sizes.sum(dtype=np.uint64)} bytes in {size} bytes")


class _Window(io.RawIOBase):
    """A part of a file as a file, with a place of its own: what is read elsewhere of the file does not move it."""

    def __init__(self, source: Source, offset: int, size: int) -> None:
        super().__init__()
        self._source, self._offset, self._size, self._place = source, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, view: memoryview) -> int:  # type: ignore[override]
        data = self._source.read(self._offset + self._place, max(0, min(len(view), self._size - self._place)))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)


def too_many_chunks(chunks: int, points: int, extra_bytes: int) -> bool:
    """Whether it would take much longer to begin the chunks than to unpack what is in them."""
    return chunks * (CHUNK_COST + extra_bytes) > FREE_COST + points * COST_A_POINT


def _extra_bytes(header: Header) -> int:
    return header.stored.itemsize - sum(size for _, size in ITEMS[header.point_format])


def _checked(record: bytes, header: Header) -> tuple[int, int]:
    """How the points are packed, and how many at most make a chunk. Raises: BadHeader, HeaderTooLarge, UnsupportedFormat."""
    place = "laszip encoded"
    if len(record) < VLR.size:
        raise BadHeader(f"a record of LASzip has at least {VLR.size} bytes, not {len(record)}", where=place)
    kind, coder, _, _, _, _, chunk, _, _, count = VLR.unpack_from(record)
    new = header.point_format >= FIRST_NEW
    expected = list(ITEMS[header.point_format])
    if extra := _extra_bytes(header):
        expected.append((BYTES14 if new else BYTES, extra))
    if extra > MOST_EXTRA:
        raise HeaderTooLarge(f"{extra} extra bytes, the limit of packed points is {MOST_EXTRA}", where="record length")
    if count != len(expected) or len(record) < VLR.size + count * ITEM.size:
        raise BadHeader(f"{count} parts of a point, format {header.point_format} has {len(expected)}", where=place)
    items = [ITEM.unpack_from(record, VLR.size + i * ITEM.size) for i in range(count)]
    if [(item, size) for item, size, _ in items] != expected:
        raise BadHeader(f"the parts of a point are not those of format {header.point_format}", where=place)
    if (
        coder
        or kind not in ((LAYERED,) if new else (ONE_CHUNK, CHUNKED))
        or any(each[2] not in ((3, 4) if new else (1, 2)) for each in items)
    ):
        raise UnsupportedFormat(f"points of format {header.point_format} packed in a way that is not read (kind {kind})", where=place)
    return kind, chunk or ANY_NUMBER


Table3 = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _chunks(source: Source, header: Header, record: bytes, kind: int, chunk: int) -> Table3:
    """Offset, bytes and points of each chunk. Raises: BadBody, TruncatedFile, BadHeader."""
    begin, place = header.points_at, "chunk table"
    if header.count == 0:
        return (), (), ()
    if kind == ONE_CHUNK:
        sizes, points, first = [header.tail_at - begin], [header.count], begin
    else:
        first = begin + 8
        (table_at,) = struct.unpack("<q", source.read_all(begin, 8))
        if table_at <= begin:  # a writer that could not go back has put it at the end
            (table_at,) = struct.unpack("<q", source.read_all(max(begin, source.size - 8), 8))
        if not first <= table_at <= source.size - 8:
            raise BadBody(f"the table of chunks is at byte {table_at}, the points from byte {first} to byte {source.size}", where=place)
        sizes, points = _table(source, record, table_at, table_at - first, header, chunk)
    offsets = np.cumsum([first, *sizes])
    if sum(points) < header.count:
        raise BadBody(f"the chunks hold {sum(points)} points, the header announces {header.count}", where=place)
    return tuple(offsets[:-1].tolist()), tuple(sizes), tuple(points)


def _table(source: Source, record: bytes, table_at: int, room: int, header: Header, chunk: int) -> tuple[list[int], list[int]]:
    """Bytes and points of each chunk, of as many as the points fill, out of `room` bytes before the table."""
    place, row_bytes = "chunk table", header.stored.itemsize
    _, count = struct.unpack("<II", source.read_all(table_at, 8))
    if count * row_bytes > room:
        raise BadBody(f"{count} chunks cannot be in {room} bytes", where=place)
    if too_many_chunks(count, header.count, _extra_bytes(header)):
        raise BadBody(f"{header.count} points in {count} chunks: chunks of so few points are not read", where=place)
    with _lazrs(place):
        vlr = lazrs.LazVlr(record)
        found = lazrs.read_chunk_table_only(_Window(source, table_at, source.size - table_at), vlr)
    sizes, points, left = [], [], header.count
    for number, (in_chunk, size) in enumerate(found):
        if not left:
            break
        in_chunk = min(left, in_chunk if chunk == ANY_NUMBER else chunk)
        if not in_chunk:
            continue
        room -= size
        if room < 0 or size < row_bytes or in_chunk > size * POINTS_A_BYTE:
            raise BadBody(f"{in_chunk} points in {size} bytes, with {room} bytes left for more", where=f"chunk {number}")
        sizes.append(size)
        points.append(in_chunk)
        left -= in_chunk
    return sizes, points


def _selection(fields: frozenset[str] | None) -> "lazrs.DecompressionSelection | None":
    if fields is None:
        return None
    chosen = lazrs.SELECTIVE_DECOMPRESS_XY_RETURNS_CHANNEL
    for each in fields:
        if each == "rest" or each.startswith("extra "):
            chosen |= lazrs.SELECTIVE_DECOMPRESS_ALL_EXTRA_BYTES
        elif each in ("X", "Y", "bit_fields"):
            continue
        else:
            chosen |= SELECTED.get(each, lazrs.SELECTIVE_DECOMPRESS_WAVEPACKET)
    return lazrs.DecompressionSelection(chosen)


@contextmanager
def _lazrs(place: str) -> Iterator[None]:
    """Whatever lazrs raises at what is in the file becomes a BadBody; also its panics, which are no Exceptions."""
    try:
        yield
    except BadBody as error:
        raise BadBody(error.detail, where=place) from error
    except (FileError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BadBody(f"cannot be unpacked: {str(error)[:200]}", where=place) from error
