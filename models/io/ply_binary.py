"""The body of a binary PLY file, either byte order, gone through once and in pieces of a megabyte.

Without lists the rows of an element are one structured array. With lists the length of a row is known only when it is read: rows of
equal lengths (triangles) are still taken at once, others are walked one by one.
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, TruncatedFile
from models.io.ply_header import Element, Header
from models.io.records import BLOCK_ROWS, Table
from models.io.source import ROWS_AT_A_TIME, Source

WALKED_VALUES = 3_000_000  # in one file, below 1 s: rows with lists of differing lengths are read one after the other
PIECE_BYTES = 1 << 20
_STRUCT = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}


def read_binary(source: Source, header: Header) -> Iterator[Table]:
    """The scalar columns of the vertex element, a block of rows at a time. What follows it in the file is not read.

    Raises: TruncatedFile, BadBody (a list of negative length, too many rows of differing lengths).
    """
    vertex = header.elements[header.vertex]
    if vertex.has_lists:
        dtype = np.dtype([(each.name, header.byte_order + each.code) for each in vertex.properties if not each.length_code])
        for rows in vertex_rows(source, header):
            yield rows.scalars(dtype)
        return
    yield from _read_fixed(source, _Body(source, header).skipped_to_vertices(), vertex, header.byte_order)


def vertex_rows(source: Source, header: Header) -> Iterator["Rows"]:
    """The rows of the vertex element as their bytes, up to some ten thousand at a time. Raises: as `read_binary`."""
    body = _Body(source, header)
    body.skipped_to_vertices()
    return body.rows(header.elements[header.vertex])


@dataclass(frozen=True)
class Rows:
    """n rows of an element, which begin at byte `begin` of the file. data: all their bytes.

    R runs of scalars a row, one before every list and one after the last. places (n, R): where in `data` each of them begins;
    width: the bytes of a row, where all n have as many, else None.
    """

    begin: int
    data: memoryview
    width: int | None
    places: npt.NDArray[np.int64]
    _shape: "_Shape"

    def __len__(self) -> int:
        return len(self.places)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """(n,) where in `data` each row ends."""
        return np.asarray(self.places[:, -1] + self._shape.runs[-1].itemsize)

    def scalars(self, dtype: np.dtype[np.void]) -> Table:
        """The columns that are no lists (n,), `dtype` as the names and types of them."""
        table = np.empty(len(self), dtype)
        raw = np.frombuffer(self.data, np.uint8)
        for run, place in zip(self._shape.runs, self.places.T, strict=True):
            if not run.names:
                continue
            if self.width is None:
                values: Table = raw[place[:, None] + np.arange(run.itemsize)].view(run)[:, 0]
            else:
                values = np.ndarray(len(self), run, self.data, int(place[0]), (self.width,))
            for name in run.names:
                table[name] = values[name]
        return table


class _Shape:
    """How the rows of an element are laid out: R runs of scalars, and R - 1 lists between them."""

    def __init__(self, element: Element, byte_order: str) -> None:
        runs: list[list[tuple[str, str]]] = [[]]
        self.lists: list[tuple[struct.Struct, np.dtype[np.generic], int]] = []  # of each its length, and the bytes of one value
        for each in element.properties:
            if each.length_code:
                length = struct.Struct(byte_order + _STRUCT[each.length_code])
                self.lists.append((length, np.dtype(byte_order + each.length_code), int(each.code[1:])))
                runs.append([])
            else:
                runs[-1].append((each.name, byte_order + each.code))
        self.runs: list[np.dtype[np.void]] = [np.dtype(run) for run in runs]

    def first(self, data: memoryview, where: str) -> tuple[list[int], list[int], int]:
        """Of the row that `data` begins with: where its runs begin, the lengths of its lists, and where it ends, as far as can be told.

        Raises: BadBody (a list of negative length).
        """
        places, lengths, place = [0], list[int](), 0
        for run, (length, _, item_bytes) in zip(self.runs, self.lists, strict=False):
            place += run.itemsize
            if place + length.size > len(data):
                return places, lengths, place + length.size
            lengths.append(length.unpack_from(data, place)[0])
            if lengths[-1] < 0:
                raise BadBody(f"a list of {lengths[-1]} values", where=where)
            place += length.size + lengths[-1] * item_bytes
            places.append(place)
        return places, lengths, place + self.runs[-1].itemsize


class _Body:
    """A place in the body of a file, and the piece of it that is in memory."""

    def __init__(self, source: Source, header: Header) -> None:
        self.source, self.header = source, header
        self.place = self.begin = header.offset  # in the file: what comes next, and where the piece begins
        self.piece = b""
        self.walked = 0  # values, so far

    def skipped_to_vertices(self) -> int:
        """Pass over the elements before the vertices; where in the file those begin."""
        for element in self.header.elements[: self.header.vertex]:
            if element.count and element.has_lists:
                deque(self.rows(element), maxlen=0)
            else:
                self.place += element.least_bytes(False)
        return self.place

    def rows(self, element: Element) -> Iterator[Rows]:
        """All rows of an element that begins here. Raises: TruncatedFile, BadBody."""
        shape = _Shape(element, self.header.byte_order)
        walks, done, start = False, 0, self.place
        while done < element.count:
            places, lengths, width = shape.first(self._ahead(1), f"{element.name} {done}")
            if width > self.source.size - self.place:
                raise _truncated(element, self.source.size - start)
            data = self._ahead(width)
            if len(places) < len(shape.runs):  # its lengths were not all in the piece
                continue
            count = min(element.count - done, len(data) // width, BLOCK_ROWS)
            found = self._equal(data, count, width, lengths, places, shape)
            if found is None:
                if not walks:
                    self._admit_walk(element)
                walks = True
                found = self._walk(data, element, done, shape)
            self.place += len(found.data)
            done += len(found)
            yield found

    def _ahead(self, least: int) -> memoryview:
        """What comes next: what is in memory of it, and at least as many bytes, as far as the file has them."""
        if self.begin + len(self.piece) < min(self.place + least, self.source.size):
            least = min(max(least, PIECE_BYTES), self.source.size - self.place)
            self.piece, self.begin = self.source.read_all(self.place, least), self.place
        return memoryview(self.piece)[self.place - self.begin :]

    def _equal(self, data: memoryview, count: int, width: int, lengths: list[int], places: list[int], shape: _Shape) -> Rows | None:
        """The next rows, if every list is as long as the first row's, else None."""
        for place, run, (_, dtype, _), length in zip(places, shape.runs, shape.lists, lengths, strict=False):
            if (np.ndarray(count, dtype, data, place + run.itemsize, (width,)) != length).any():
                return None
        starts = np.arange(count)[:, None] * width + np.array(places)  # (n, R)
        return Rows(self.place, data[: count * width], width, starts, shape)

    def _walk(self, data: memoryview, element: Element, done: int, shape: _Shape) -> Rows:
        """The next rows, as many as there are in memory: at least one."""
        places: list[int] = []  # of n rows, R each
        steps = [
            (run.itemsize, length.size, None if kind == np.uint8 else length.unpack_from, item_bytes)
            for run, (length, kind, item_bytes) in zip(shape.runs, shape.lists, strict=False)
        ]
        tail, size = shape.runs[-1].itemsize, len(data)
        end = 0
        for row in range(done, min(element.count, done + ROWS_AT_A_TIME)):
            place = end
            for run_bytes, length_bytes, length_at, item_bytes in steps:
                places.append(place)
                place += run_bytes
                if place + length_bytes > size:
                    break
                length = length_at(data, place)[0] if length_at else data[place]  # by far the most are one byte
                if length < 0:
                    raise BadBody(f"a list of {length} values", where=f"{element.name} {row}")
                place += length_bytes + length * item_bytes
            else:
                places.append(place)
                place += tail
                if place <= size:
                    end = place
                    continue
            del places[(row - done) * len(shape.runs) :]
            break
        return Rows(self.place, data[:end], None, np.array(places).reshape(-1, len(shape.runs)), shape)

    def _admit_walk(self, element: Element) -> None:
        """Raises: BadBody (too many values to walk for one file)."""
        self.walked += element.count * len(element.properties)
        if self.walked > WALKED_VALUES:
            raise BadBody(f"more than {WALKED_VALUES} values in rows with lists of differing lengths", where=f"element {element.name}")


def _read_fixed(source: Source, offset: int, element: Element, byte_order: str) -> Iterator[Table]:
    """All rows of an element without lists."""
    row = np.dtype([(each.name, byte_order + each.code) for each in element.properties])
    if offset + element.count * row.itemsize > source.size:
        raise _truncated(element, source.size - offset)
    for start in range(0, element.count, BLOCK_ROWS):
        wanted = min(BLOCK_ROWS, element.count - start)
        table = source.rows(row, offset + start * row.itemsize, wanted)
        if len(table) < wanted:
            raise _truncated(element, start * row.itemsize + table.nbytes)
        yield table


def _truncated(element: Element, present: int) -> TruncatedFile:
    return TruncatedFile(f"{element.count} rows of {element.name!r} do not fit into the {max(present, 0)} bytes left in the file")
