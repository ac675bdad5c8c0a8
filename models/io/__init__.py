"""Files to clouds. `open_cloud` and `read_cloud` are the only doors; one file of this package a format.

To add a format: write `read_NAME(source: Source) -> Records` in a file of its own, check what its header announces
against `source.size` and `source.admit` before allocating, and add a line to FORMATS.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from models.errors import FileError, MissingCoordinates, NoPoints, UnsupportedFormat, nearest
from models.io.columns import COORDINATES, PLAIN_SPLAT, cloud_of
from models.io.e57 import read_e57
from models.io.las import read_las
from models.io.npy import read_npy
from models.io.npz import read_npz
from models.io.off import read_off
from models.io.pcd import read_pcd
from models.io.ply import read_ply
from models.io.raw import guess_records, read_kitti, read_nuscenes
from models.io.records import Records
from models.io.source import Source, opened
from models.io.text import guess_text, read_text
from models.io.text_layout import text_layout
from models.pointcloud import PointCloud

NOT_READ = {  # what is often sent all the same, by its first bytes
    b"\x1f\x8b": f"a gzip archive: unpack it first; a compressed Gaussian splat (SPZ): {PLAIN_SPLAT}",
    b"NGSP": f"a compressed Gaussian splat (SPZ): {PLAIN_SPLAT}",
    b"<": "a page or XML document, not a cloud",
}
HEAD_BYTES = 1 << 16  # of a file, from which its format is told where nothing else says it

__all__ = ["FORMATS", "CloudFile", "Format", "choose_format", "is_cloud_file", "open_cloud", "read_cloud"]


@dataclass(frozen=True)
class Format:
    """How a kind of file is read and recognised. `magic` are its first bytes; a format without one has to be said."""

    reader: Callable[[Source], Records]
    extensions: tuple[str, ...]
    content_types: tuple[str, ...]
    magic: tuple[bytes, ...] = ()


FORMATS: dict[str, Format] = {
    "ply": Format(read_ply, (".ply",), ("application/ply", "application/x-ply", "model/ply"), (b"ply\n", b"ply\r", b"ply ", b"ply\t")),
    "off": Format(read_off, (".off",), ("application/off", "model/off"), (b"OFF", b"COFF", b"NOFF", b"CNOFF", b"STOFF", b"STCOFF")),
    "npy": Format(read_npy, (".npy",), ("application/x-npy",), (b"\x93NUMPY",)),
    "npz": Format(read_npz, (".npz",), ("application/x-npz",), (b"PK\x03\x04",)),
    "pcd": Format(read_pcd, (".pcd",), ("application/pcd", "application/x-pcd"), (b"# .PCD", b"#.PCD", b"VERSION ", b"FIELDS ")),
    "las": Format(read_las, (".las", ".laz"), ("application/vnd.las", "application/vnd.laszip", "application/vnd.laszip+las"), (b"LASF",)),
    "e57": Format(read_e57, (".e57",), ("model/e57",), (b"ASTM-E57",)),
    "nuscenes": Format(read_nuscenes, (".pcd.bin",), ("application/x-nuscenes",)),
    "xyz": Format(read_text, (".xyz", ".txt", ".asc", ".xyzrgb", ".xyzn", ".xyzi"), ("text/plain",)),
    "pts": Format(read_text, (".pts",), ()),
    "csv": Format(read_text, (".csv",), ("text/csv",)),
    "bin": Format(read_kitti, (".bin",), ("application/x-kitti",)),
}


ENDINGS = tuple(sorted({ending.encode() for each in FORMATS.values() for ending in each.extensions}))
SHARED_ENDINGS = (b".txt", b".csv", b".asc")  # of files of all kinds
POSE_ROWS = 4  # text of so few rows of numbers is a matrix


def is_cloud_file(path: str | bytes, *, any_names: bool = False) -> bool:
    """Whether a file in a folder is meant to be a cloud: by its ending, and with a shared one, if its first lines are rows of numbers.

    any_names: also of columns none of which are called coordinates, if there are three; reading it says what they are called.
    True of what cannot be opened or is no file: who reads it says so.
    """
    name = os.path.basename(os.fsencode(path)).lower()  # noqa: PTH119 - names that are not text stay bytes
    if not name.endswith(SHARED_ENDINGS):
        return name.endswith(ENDINGS)
    if not os.path.isfile(path):  # noqa: PTH113 - as above; to open a pipe would wait for a writer
        return True
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            head = file.read(HEAD_BYTES + 1)
    except OSError:
        return True
    if len(head.splitlines()) <= POSE_ROWS:
        return False
    head, whole = head[:HEAD_BYTES], len(head) <= HEAD_BYTES
    return guess_text(head, whole) is not None or (any_names and _lacks_only_names(head, whole))


def _lacks_only_names(head: bytes, whole: bool) -> bool:
    """Whether a text is rows of three or more numbers under names that are not those of coordinates."""
    try:
        text_layout(head, whole)
    except MissingCoordinates as error:
        return error.where in COORDINATES  # not the line of rows that are too short
    except FileError:
        pass
    return False


@dataclass(frozen=True)
class CloudFile:
    """A file that was recognised and whose header is read. fmt: a name of FORMATS; records: its rows, read when they are asked for."""

    source: Source
    fmt: str
    records: Records

    def cloud(self, *, extra: bool = True) -> PointCloud:
        """The points, in the units and frame of the file; `extra` says whether with the columns that mean nothing here.

        Raises: what the reader raises at what is in the file, BadBody and NonFinite (colours).
        """
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and overflow stand as they are: for `checked` to refuse
            return cloud_of(self.records, extra=extra)


@contextmanager
def open_cloud(
    source: Path | BinaryIO,
    fmt: str | None = None,
    *,
    name: str | None = None,
    content_type: str | None = None,
    max_points: int | None = None,
) -> Iterator[CloudFile]:
    """Open a file and read its header.

    `source` is a path or an open file on disk. The format is `fmt` if given, else what the name (default: the path's) or
    the content type says, else what the first bytes show; bare float32 records are known by their values. The file has
    points, at most `max_points` (of a mesh neither vertices nor points drawn from it); more are refused by what the header
    announces, before anything is allocated.

    Raises: FileError and its kinds, NoPoints, TooManyPoints, and what the format's reader raises.
    """
    if name is None and isinstance(source, Path):
        name = source.name
    with opened(source, max_points) as file:
        chosen = choose_format(fmt, name, content_type, head=file.read(0, HEAD_BYTES))
        with np.errstate(invalid="ignore", over="ignore"):
            records = FORMATS[chosen].reader(file)
        file.admit(records.count)
        if records.count == 0:
            raise NoPoints("the file has no points")
        yield CloudFile(file, chosen, records)


def read_cloud(
    source: Path | BinaryIO,
    fmt: str | None = None,
    *,
    name: str | None = None,
    content_type: str | None = None,
    max_points: int | None = None,
    extra: bool = True,
) -> PointCloud:
    """Read a point cloud; as `open_cloud`, then `CloudFile.cloud`. Whether all numbers are finite is for `PointCloud.checked` to say."""
    with open_cloud(source, fmt, name=name, content_type=content_type, max_points=max_points) as file:
        return file.cloud(extra=extra)


def choose_format(fmt: str | None, name: str | None, content_type: str | None, *, head: bytes) -> str:
    """The name of the format, from the surest hint that there is. Raises UnsupportedFormat."""
    if fmt is not None:
        if fmt not in FORMATS:
            raise UnsupportedFormat(f"unknown format {fmt!r}{nearest(fmt, FORMATS)}", where="format", known=FORMATS)
        return fmt
    file_name = PurePosixPath(name or "").name.lower()
    media_type = (content_type or "").partition(";")[0].strip().lower()
    start = head.lstrip(b" \t\r\n") if head[:1].isspace() else head
    by_name = [known for known, each in FORMATS.items() if file_name.endswith(each.extensions)]
    by_type = [known for known, each in FORMATS.items() if media_type in each.content_types]
    by_content = [known for known, each in FORMATS.items() if start.startswith(each.magic)]
    by_hint = (*by_content, *by_type) if media_type.startswith("text/") else (*by_type, *by_content)  # any text may be called text/plain
    for known in (*by_name, *by_hint):
        return known
    if guess := guess_records(head) or guess_text(head, len(head) < HEAD_BYTES):
        return guess
    for magic, advice in NOT_READ.items():
        if head.startswith(magic):
            raise UnsupportedFormat(advice, known=FORMATS)
    if start.startswith(b"plyformat"):
        raise UnsupportedFormat("a PLY file that has lost its line ends on the way; with curl use --data-binary, not -d")
    raise UnsupportedFormat(
        f"its name {file_name!r} and its first bytes {head[:8]!r} do not tell the format; say it with input_format (KITTI scans: bin)",
        known=FORMATS,
    )
