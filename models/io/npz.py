"""NumPy's `.npz`: a zip of `.npy` arrays, bounded by its directory before any of them is unpacked."""

import struct
import zipfile
import zlib

from models.errors import BadBody, BadHeader, FileError, HeaderTooLarge, MissingCoordinates, UnsupportedFormat
from models.io.columns import PLAIN_SPLAT
from models.io.npy import HEADER_BYTES, Array, Layout, array_of, checked_coordinates, parse_layout
from models.io.records import Records, records_of_columns
from models.io.source import Source

XYZ_KEYS = ("xyz", "points", "pos")
RGB_KEYS = ("rgb", "colors", "colours")
INTENSITY_KEYS = ("intensity",)

MEMBERS = 64
DIRECTORY_BYTES = 64 * 1024
INFLATION = 100  # the arrays of one zip may be this many times larger than in it, and
INFLATION_FREE = 16 << 20  # bytes more, but never above
UNZIPPED_BYTES = 1 << 30
_END_OF_DIRECTORY = 22
_COMMENT = 65535
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError, OverflowError)


def read_npz(source: Source) -> Records:
    """Arrays `xyz` (or `points`, `pos`) (N, 3 or more), optional `rgb` (or `colors`) (N, 3) and `intensity` (N,).

    Other numeric arrays (N,) are kept under their names.

    Raises: BadHeader, HeaderTooLarge (columns, members), TruncatedFile, MissingCoordinates, TooManyPoints, UnsupportedFormat
    (compressed otherwise than by deflate), BadBody (also: too large when unpacked).
    """
    _check_directory(source)
    try:
        with zipfile.ZipFile(source.file) as archive:
            return _read_members(source, archive)
    except _ZIP_ERRORS as error:
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


def _array_members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The arrays of a zip of `size` bytes by name. Raises: UnsupportedFormat (compression), BadBody (too large)."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
    members.pop("", None)  # numpy has no column without a name
    for name, info in members.items():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsupportedFormat(
                f"zip compression {info.compress_type} is not read; write it with numpy.savez_compressed", where=name[:80]
            )
    compressed = min(sum(info.compress_size for info in members.values()), size)
    limit = min(INFLATION * compressed + INFLATION_FREE, UNZIPPED_BYTES)
    total = sum(info.file_size for info in members.values())
    if total > limit:
        raise BadBody(f"the arrays would take {total} bytes, the limit for {compressed} compressed bytes is {limit}")
    return members


def _read_members(source: Source, archive: zipfile.ZipFile) -> Records:
    members = _array_members(archive, source.size)

    def layout_of(name: str) -> Layout:
        with archive.open(members[name]) as stream:
            return parse_layout(stream.read(HEADER_BYTES), members[name].file_size, name)

    def load(name: str, layout: Layout) -> Array:
        with archive.open(members[name]) as stream:
            stream.read(layout.offset)
            return array_of(stream.read(layout.size), layout)

    def column(name: str | None, shape: tuple[int, ...]) -> Array | None:
        if name is None:
            return None
        layout = layout_of(name)
        if layout.shape != shape:
            raise BadBody(f"must have the shape {shape}, found {layout.shape}", where=name)
        return load(name, layout)

    xyz_key, rgb_key, intensity_key = (next((key for key in keys if key in members), None) for keys in (XYZ_KEYS, RGB_KEYS, INTENSITY_KEYS))
    if xyz_key is None and "meta.json" in archive.namelist():
        raise MissingCoordinates(f"no points but what a compressed Gaussian splat (SOG) has; {PLAIN_SPLAT}", where="meta.json")
    if xyz_key is None:
        raise MissingCoordinates(
            f"no array named {' or '.join(XYZ_KEYS)} among {', '.join(sorted(members)[:16]) or 'none'}", known=XYZ_KEYS
        )
    layout = checked_coordinates(layout_of(xyz_key), source, xyz_key)
    columns = dict(zip(("x", "y", "z"), load(xyz_key, layout)[:, :3].T, strict=True))
    count = layout.shape[0]
    rgb, intensity = column(rgb_key, (count, 3)), column(intensity_key, (count,))
    if rgb is not None:
        columns |= dict(zip(("red", "green", "blue"), rgb.T, strict=True))
    if intensity is not None:
        columns["intensity"] = intensity
    for name in sorted(members.keys() - {xyz_key, rgb_key, intensity_key}):
        try:
            layout = layout_of(name)
            if layout.shape == (count,) and name.lower() not in columns:
                columns[name] = load(name, layout)
        except FileError:  # text, objects, half a download: not a column, and not asked for
            continue
    return records_of_columns(columns)
