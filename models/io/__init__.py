"""Files to clouds. `read_cloud` is the only door; one file of this package a format.

To add a format: write `read_NAME(source: Source) -> PointCloud` in a file of its own, check what its header announces
against `source.size` and `source.admit` before allocating, and add a line to FORMATS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from models.errors import NoPoints, UnsupportedFormat, nearest
from models.io.npy import read_npy
from models.io.npz import read_npz
from models.io.off import read_off
from models.io.ply import read_ply
from models.io.raw import guess_records, read_kitti, read_nuscenes
from models.io.source import Source, opened
from models.pointcloud import PointCloud

NOT_READ = {  # what is often sent all the same, by its first bytes
    b"LASF": "LAS and LAZ are not read; convert the file, for example by pdal translate IN.las OUT.ply",
    b"# .PCD": "PCD is not read; convert the file, for example by pcl_pcd2ply or Open3D, to PLY",
    b"ASTM-E57": "E57 is not read; convert the file to PLY",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"<": "a page or XML document, not a cloud",
}
HEAD_BYTES = 1 << 16  # of a file, from which its format is told where nothing else says it

__all__ = ["FORMATS", "Format", "choose_format", "read_cloud"]


@dataclass(frozen=True)
class Format:
    """How a kind of file is read and recognised. `magic` are its first bytes; a format without one has to be said."""

    reader: Callable[[Source], PointCloud]
    extensions: tuple[str, ...]
    content_types: tuple[str, ...]
    magic: tuple[bytes, ...] = ()


FORMATS: dict[str, Format] = {
    "ply": Format(read_ply, (".ply",), ("application/ply", "application/x-ply", "model/ply"), (b"ply\n", b"ply\r", b"ply ", b"ply\t")),
    "off": Format(read_off, (".off",), ("application/off", "model/off"), (b"OFF", b"COFF", b"NOFF", b"CNOFF", b"STOFF", b"STCOFF")),
    "npy": Format(read_npy, (".npy",), ("application/x-npy",), (b"\x93NUMPY",)),
    "npz": Format(read_npz, (".npz",), ("application/x-npz",), (b"PK\x03\x04",)),
    "nuscenes": Format(read_nuscenes, (".pcd.bin",), ("application/x-nuscenes",)),
    "bin": Format(read_kitti, (".bin",), ("application/x-kitti",)),
}


def read_cloud(
    source: Path | BinaryIO,
    fmt: str | None = None,
    *,
    name: str | None = None,
    content_type: str | None = None,
    max_points: int | None = None,
) -> PointCloud:
    """Read a point cloud, in the units and frame of its file.

    `source` is a path or an open file on disk. The format is `fmt` if given, else what the name (default: the path's) or
    the content type says, else what the first bytes show; bare float32 records are known by their values. The result has
    points, at most `max_points` (of a mesh neither vertices nor points drawn from it); more are refused by what the header
    announces, before anything is allocated. Whether all are finite is for `PointCloud.checked` to say.

    Raises: FileError and its kinds, NoPoints, TooManyPoints, and what the format's reader raises.
    """
    if name is None and isinstance(source, Path):
        name = source.name
    # NaN and overflow are read as they stand: for `checked` to refuse, not for numpy to warn of
    with opened(source, max_points) as file, np.errstate(invalid="ignore", over="ignore"):
        chosen = choose_format(fmt, name, content_type, head=file.read(0, HEAD_BYTES))
        cloud = FORMATS[chosen].reader(file)
        file.admit(len(cloud))
    if len(cloud) == 0:
        raise NoPoints("the file has no points")
    return cloud


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
    for known in (*by_name, *by_type, *by_content):
        return known
    if guess := guess_records(head):
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
