"""Files of bare float32 records, as LiDAR data sets publish them: KITTI `.bin` and nuScenes `.pcd.bin`. No header."""

import numpy as np
import numpy.typing as npt

from models.errors import TruncatedFile
from models.io.source import Source
from models.pointcloud import PointCloud

FEWEST_TO_GUESS = 32  # records
FARTHEST_M, LEAST_M = 1e4, 1e-3  # coordinates that a scan has
MOST_INTENSITY, MOST_RINGS = 65_535, 255


def read_kitti(source: Source) -> PointCloud:
    """N records of x, y, z, intensity (float32 × 4, little endian), metres; the intensity (N,) as the scanner gave it.

    Raises: TruncatedFile (no whole number of records), TooManyPoints.
    """
    return _cloud(_records(source, 4))


def read_nuscenes(source: Source) -> PointCloud:
    """N records of x, y, z, intensity, ring (float32 × 5, little endian), metres; `ring` (N,) is kept as a further column.

    Raises: TruncatedFile (no whole number of records), TooManyPoints.
    """
    return _cloud(_records(source, 5))


def guess_records(head: bytes) -> str | None:
    """The format that the first bytes of a file without a header could be of: `bin`, `nuscenes`, or None, when they read as no scan.

    Both are told by what their columns can be: coordinates of a scanner within 10 km, intensities from 0 on, whole rings; misread
    by a column, or read from text, pictures or archives, float32 are of any size. Too short a head is never guessed at, nor are
    records of x, y, z and whole colours, which no reader here is for.
    """
    coloured = np.frombuffer(head, "<f4", len(head) // 24 * 6).reshape(-1, 6)[:, 3:]
    with np.errstate(invalid="ignore"):
        if ((coloured == np.rint(coloured)) & (coloured >= 0) & (coloured <= 255)).all():
            return None
    for name, columns in (("nuscenes", 5), ("bin", 4)):
        count = len(head) // (4 * columns)
        records = np.frombuffer(head, "<f4", count * columns).reshape(-1, columns)
        if count >= FEWEST_TO_GUESS and _is_scan(records):
            return name
    return None


def _is_scan(records: npt.NDArray[np.float32]) -> bool:
    """Whether records (n, 4 or 5) could be x, y, z, intensity, ring; some scanners write NaN where nothing came back."""
    finite = np.isfinite(records).all(axis=1)
    if finite.mean() < 0.5:
        return False
    records = records[finite]
    xyz, others = np.abs(records[:, :3]), records[:, 3:]
    in_range = xyz.max() <= FARTHEST_M and others.min() >= 0 and others.max() <= MOST_INTENSITY
    whole = (records[:, 4:] == np.rint(records[:, 4:])).all() and (records[:, 4:] <= MOST_RINGS).all()
    return bool(in_range and whole and (xyz > LEAST_M).mean() > 0.5)


def _records(source: Source, columns: int) -> npt.NDArray[np.float32]:
    record = 4 * columns
    if source.size % record:
        hint = next((f"; {n} values a record would fit" for n in (4, 5) if source.size % (4 * n) == 0), "")
        raise TruncatedFile(f"{source.size} bytes are no whole number of records of {columns} float32{hint}")
    source.admit(source.size // record)
    source.file.seek(0)
    return np.fromfile(source.file, "<f4").reshape(-1, columns).astype(np.float32, copy=False)


def _cloud(records: npt.NDArray[np.float32]) -> PointCloud:
    names = ("ring",)
    return PointCloud(
        xyz=np.ascontiguousarray(records[:, :3]),
        intensity=np.ascontiguousarray(records[:, 3]),
        extra={name: records[:, 4 + i] for i, name in enumerate(names[: records.shape[1] - 4])},
    )
