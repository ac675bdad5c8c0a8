"""NumPy's `.npy`, never unpickled, and never larger in memory than the header check allows.

The header is matched, not evaluated: it has three known keys. Source: numpy.lib.format, versions 1.0 to 3.0.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, BadHeader, HeaderTooLarge, MissingCoordinates, TruncatedFile
from models.io.records import Records, packed_records, records_of_columns
from models.io.source import Source

Array = npt.NDArray[np.generic]

HEADER_BYTES = 4096
DIMENSIONS = 4
COLUMNS = 256  # of an array of points, as many as the properties of a PLY element
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(\s*((?:\d{1,19}L?\s*,\s*){1,4}(?:\d{1,19}L?\s*)?|)\)""")


@dataclass(frozen=True)
class Layout:
    """What an .npy header says. `offset` is where the data begins."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(source: Source) -> Records:
    """One array (N, 3 ≤ C ≤ 256): x, y, z; with C = 4 the last is the intensity, with more they are kept as `column_3`, …

    Raises: BadHeader, HeaderTooLarge (more columns), TruncatedFile, MissingCoordinates, BadBody, TooManyPoints.
    """
    layout = checked_coordinates(parse_layout(source.read(0, HEADER_BYTES), source.size, "array"), source, "array")
    count, width = layout.shape
    others = ("intensity",) if width == 4 else tuple(f"column_{i}" for i in range(3, width))
    names = ("x", "y", "z", *others)
    if layout.fortran:
        return records_of_columns(dict(zip(names, array_of(source.read(layout.offset, layout.size), layout).T, strict=True)))
    row = np.dtype([(name, layout.dtype) for name in names])
    return packed_records(source, layout.offset, count, row)


def checked_coordinates(layout: Layout, source: Source, name: str) -> Layout:
    """The same layout, once it is known to be one of coordinates (N, 3 or more), with no more of either than allowed.

    Raises: MissingCoordinates, HeaderTooLarge, TooManyPoints.
    """
    if len(layout.shape) != 2 or layout.shape[1] < 3:
        raise MissingCoordinates(f"must have the shape (N, 3), found {layout.shape}", where=name)
    if layout.shape[1] > COLUMNS:
        raise HeaderTooLarge(f"{layout.shape[1]} columns, the limit is {COLUMNS}; the points are the rows", where=name)
    source.admit(layout.shape[0])
    return layout


def parse_layout(head: bytes, size: int, name: str) -> Layout:
    """Parse an .npy header from the first bytes of `size`. Raises: BadHeader, BadBody (Python objects), TruncatedFile."""
    if not head.startswith(b"\x93NUMPY") or len(head) < 12:
        raise BadHeader("not an .npy array" + (": a Python pickle, which is never read" if head[:1] == b"\x80" else ""), where=name)
    start = 10 if head[6] == 1 else 12
    offset = start + int.from_bytes(head[8:start], "little")
    if offset > len(head):
        raise BadHeader("the header of the array is too long or cut off", where=name)
    text = head[start:offset].decode("latin-1")
    descr = re.search(r"""['"]descr['"]\s*:\s*['"]([<>|=]?)([a-zA-Z])(\d*)['"]""", text)
    order = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)""", text)
    shape = _SHAPE.search(text)
    if not (descr and order and shape):
        raise BadHeader("only plain arrays of numbers are read", where=name)
    byte_order, kind, item_bytes = descr.groups()
    if kind == "O":
        raise BadBody("an array of Python objects would have to be unpickled, which is never done", where=name)
    if (kind, item_bytes) not in {("f", "2"), ("f", "4"), ("f", "8"), *((sign, width) for sign in "iu" for width in "1248")}:
        raise BadHeader(f"arrays of {kind}{item_bytes} are not numbers that can be read", where=name)
    lengths = tuple(int(word) for word in re.findall(r"\d+", shape[1]))
    if len(lengths) > DIMENSIONS or max(lengths, default=0) >= 1 << 63:
        raise BadHeader(f"the shape ({shape[1].strip()}) is not one of at most {DIMENSIONS} dimensions", where=name)
    layout = Layout(np.dtype(byte_order.replace("|", "") + kind + item_bytes), lengths, order[1] == "True", offset)
    if layout.size > size - offset:
        raise TruncatedFile(f"the header announces {lengths}: {layout.size} bytes, the file holds {max(0, size - offset)}", where=name)
    return layout


def array_of(data: bytes, layout: Layout) -> Array:
    """The array that the bytes after the header make, in this machine's byte order. Raises: TruncatedFile."""
    if len(data) < layout.size:
        raise TruncatedFile(f"the header announces {layout.size} bytes, the file holds {len(data)}")
    values = np.frombuffer(data, layout.dtype, math.prod(layout.shape))
    return values.reshape(layout.shape, order="F" if layout.fortran else "C").astype(layout.dtype.newbyteorder("="), copy=False)
