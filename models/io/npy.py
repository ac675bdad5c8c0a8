"""NumPy's `.npy` and `.npz`, never unpickled, and never larger in memory than the header check allows.

The headers are matched, not evaluated: they are three known keys. Source: numpy.lib.format, versions 1.0 to 3.0.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, BadHeader, FileError, HeaderTooLarge, MissingCoordinates, TruncatedFile
from models.io.columns import as_float32, as_rgb, as_xyz
from models.io.source import Source
from models.pointcloud import PointCloud

Array = npt.NDArray[np.generic]

XYZ_KEYS = ("xyz", "points", "pos")
RGB_KEYS = ("rgb", "colors", "colours")
INTENSITY_KEYS = ("intensity",)

HEADER_BYTES = 4096
MEMBERS = 64
DIRECTORY_BYTES = 64 * 1024
INFLATION = 100  # arrays of one zip may be this much larger than the file, and 16 MiB more
_END_OF_DIRECTORY = 22
_COMMENT = 65535


@dataclass(frozen=True)
class _Layout:
    """What an .npy header says. `offset` is where the data begins."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 0


def read_npy(source: Source) -> PointCloud:
    """One array (N, C): x, y, z; with C = 4 the last column is the intensity, with more they are kept as `column_3`, …

    Raises: BadHeader, TruncatedFile, MissingCoordinates, BadBody, TooManyPoints.
    """
    layout = _layout(source.read(0, HEADER_BYTES), source.size, "array")
    source.admit(layout.rows)
    values = _array(source.read(layout.offset, layout.size), layout)
    xyz = _coordinates(values, "array")
    if values.shape[1] == 4:
        return PointCloud(xyz, intensity=as_float32(values[:, 3]))
    return PointCloud(xyz, extra=MappingProxyType({f"column_{i}": values[:, i] for i in range(3, values.shape[1])}))


def read_npz(source: Source) -> PointCloud:
    """Arrays `xyz` (or `points`, `pos`) (N, 3 or more), optional `rgb` (or `colors`) (N, 3) and `intensity` (N,).

    Other numeric arrays (N,) are kept under their names. Raises: BadHeader, HeaderTooLarge, TruncatedFile,
    MissingCoordinates, BadBody, TooManyPoints.
    """
    _check_directory(source)
    try:
        with zipfile.ZipFile(source.file) as archive:
            return _read_members(source, archive, INFLATION * source.size + (16 << 20))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise BadBody(f"the zip cannot be read: {error}") from error


def _check_directory(source: Source) -> None:
    """Refuse a zip whose list of members alone would be a load, before Python's zipfile reads it."""
    tail = source.read(max(0, source.size - _END_OF_DIRECTORY - _COMMENT), _END_OF_DIRECTORY + _COMMENT)
    place = tail.rfind(b"PK\5\6")
    if not source.read(0, 4).startswith(b"PK") or place < 0 or place + _END_OF_DIRECTORY > len(tail):
        raise BadHeader("not an npz: no zip directory")
    members = int.from_bytes(tail[place + 10 : place + 12], "little")
    size = int.from_bytes(tail[place + 12 : place + 16], "little")
    if members > MEMBERS or size > DIRECTORY_BYTES or b"PK\6\7" in tail[max(0, place - 20) : place]:
        raise HeaderTooLarge(f"the zip lists {members} members in {size} bytes; the limits are {MEMBERS} and {DIRECTORY_BYTES}")


def _read_members(source: Source, archive: zipfile.ZipFile, limit: int) -> PointCloud:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
    total = sum(info.file_size for info in members.values())
    if total > limit:
        raise BadBody(f"the arrays would take {total} bytes, {INFLATION} times more than the file")

    def load(name: str, wanted: Callable[[_Layout], bool] = lambda _: True) -> Array | None:
        with archive.open(members[name]) as stream:
            head = stream.read(HEADER_BYTES)
            layout = _layout(head, members[name].file_size, name)
            if not wanted(layout):
                return None
            source.admit(layout.rows)
            head = head[layout.offset :]
            return _array(head + stream.read(layout.size - len(head)), layout)

    def first(keys: tuple[str, ...]) -> str | None:
        return next((key for key in keys if key in members), None)

    xyz_key, rgb_key, intensity_key = first(XYZ_KEYS), first(RGB_KEYS), first(INTENSITY_KEYS)
    if xyz_key is None:
        raise MissingCoordinates(
            f"no array named {' or '.join(XYZ_KEYS)} among {', '.join(sorted(members)[:16]) or 'none'}", known=XYZ_KEYS
        )
    found = {key: values for key in (xyz_key, rgb_key, intensity_key) if key and (values := load(key)) is not None}
    xyz = _coordinates(found[xyz_key], xyz_key)
    extra: dict[str, Array] = {}
    for name in members.keys() - found.keys():
        try:
            values = load(name, lambda layout: layout.shape == (len(xyz),))
        except FileError:  # text, objects, half a download: not a column, and not asked for
            continue
        if values is not None:
            extra[name] = values
    return _assemble(xyz, found.get(rgb_key or ""), found.get(intensity_key or ""), extra)


def _assemble(xyz: npt.NDArray[np.floating], rgb: Array | None, intensity: Array | None, extra: Mapping[str, Array]) -> PointCloud:
    for name, array, shape in (("rgb", rgb, (len(xyz), 3)), ("intensity", intensity, (len(xyz),))):
        if array is not None and array.shape != shape:
            raise BadBody(f"must have the shape {shape}, found {array.shape}", where=name)
    return PointCloud(
        xyz,
        rgb=None if rgb is None else as_rgb(rgb),
        intensity=None if intensity is None else as_float32(intensity),
        extra=MappingProxyType(dict(sorted(extra.items()))),
    )


def _coordinates(values: Array, name: str) -> npt.NDArray[np.floating]:
    if values.ndim != 2 or values.shape[1] < 3:
        raise MissingCoordinates(f"must have the shape (N, 3), found {values.shape}", where=name)
    return as_xyz(values[:, :3])


def _layout(head: bytes, size: int, name: str) -> _Layout:
    """Parse an .npy header from the first bytes of `size`. Raises: BadHeader, TruncatedFile."""
    if not head.startswith(b"\x93NUMPY") or len(head) < 12:
        raise BadHeader("not an .npy array" + (": a Python pickle, which is never read" if head[:1] == b"\x80" else ""), where=name)
    start = 10 if head[6] == 1 else 12
    offset = start + int.from_bytes(head[8:start], "little")
    if offset > len(head):
        raise BadHeader("the header of the array is too long or cut off", where=name)
    text = head[start:offset].decode("latin-1")
    descr = re.search(r"""['"]descr['"]\s*:\s*['"]([<>|=]?)([a-zA-Z])(\d*)['"]""", text)
    order = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)""", text)
    shape = re.search(r"""['"]shape['"]\s*:\s*\(([\dL, ]{0,200})\)""", text)
    if not (descr and order and shape):
        raise BadHeader("only plain arrays of numbers are read", where=name)
    byte_order, kind, item_bytes = descr.groups()
    if kind == "O":
        raise BadBody("an array of Python objects would have to be unpickled, which is never done", where=name)
    if (kind, item_bytes) not in {("f", "2"), ("f", "4"), ("f", "8"), *((sign, width) for sign in "iu" for width in "1248")}:
        raise BadHeader(f"arrays of {kind}{item_bytes} are not numbers that can be read", where=name)
    lengths = tuple(int(word.rstrip("L")) for word in shape[1].replace(" ", "").split(",") if word.rstrip("L"))
    layout = _Layout(np.dtype(byte_order.replace("|", "") + kind + item_bytes), lengths, order[1] == "True", offset)
    if layout.size > size - offset:
        raise TruncatedFile(f"the header announces {lengths}: {layout.size} bytes, the file holds {max(0, size - offset)}", where=name)
    return layout


def _array(data: bytes, layout: _Layout) -> Array:
    if len(data) < layout.size:
        raise TruncatedFile(f"the header announces {layout.size} bytes, the file holds {len(data)}")
    values = np.frombuffer(data, layout.dtype, math.prod(layout.shape))
    return values.reshape(layout.shape, order="F" if layout.fortran else "C").astype(layout.dtype.newbyteorder("="), copy=False)
