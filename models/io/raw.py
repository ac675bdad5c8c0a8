"""Files of bare float32 records, as LiDAR data sets publish them: KITTI `.bin` and nuScenes `.pcd.bin`. No header."""

import math

import numpy as np
import numpy.typing as npt

from models.errors import TruncatedFile
from models.io.records import Records, packed_records
from models.io.source import Source

FEWEST_TO_GUESS = 32  # records
FARTHEST_M, LEAST_M = 1e4, 1e-3  # coordinates that a scan has
MOST_INTENSITY, MOST_RINGS = 255, 255
CLEARLY = 0.5  # of the change at any other number of columns


def read_kitti(source: Source) -> Records:
    """N records of x, y, z, intensity (float32 × 4, little endian), metres; the intensity (N,) as the scanner gave it.

    Raises: TruncatedFile (no whole number of records), TooManyPoints.
    """
    return _records(source, ("x", "y", "z", "intensity"))


def read_nuscenes(source: Source) -> Records:
    """N records of x, y, z, intensity, ring (float32 × 5, little endian), metres; `ring` (N,) is kept as a further column.

    Raises: TruncatedFile (no whole number of records), TooManyPoints.
    """
    return _records(source, ("x", "y", "z", "intensity", "ring"))


def guess_records(head: bytes) -> str | None:
    """The format that the first bytes of a file without a header could be of: `bin`, `nuscenes`, or None, when they read as no scan.

    Told by what the columns of a scan are: coordinates of a scanner within 10 km, on both sides of it along x or y; intensities from
    0 to 1 or to 255; whole rings; and by the order in which a scanner writes: columns change little from record to record, less than
    at any other number of columns. Text, pictures and archives read as float32 are of any size; pictures of float32 and other
    tables do not fit. Too short a head is never guessed at, nor are points in no order.
    """
    changes = {columns: _change(head, columns) for columns in range(3, 9)}
    for name, columns in (("nuscenes", 5), ("bin", 4)):
        others = [change for other, change in changes.items() if other % columns]  # every second record is smooth, too
        if changes[columns] < CLEARLY * min(others) and _is_scan(_table(head, columns)):
            return name
    return None


def _table(head: bytes, columns: int) -> npt.NDArray[np.float32]:
    """The finite records (n, columns): some scanners write NaN where nothing came back."""
    count = len(head) // (4 * columns)
    records = np.frombuffer(head, "<f4", count * columns).reshape(-1, columns)
    return np.asarray(records[np.isfinite(records).all(axis=1)])


def _change(head: bytes, columns: int) -> float:
    """How far coordinates move from record to record, of what they spread over, if records have so many columns."""
    xyz = _table(head, columns)[:, :3].astype(np.float64)
    if len(xyz) < FEWEST_TO_GUESS:
        return math.inf
    with np.errstate(all="ignore"):
        spread = xyz.max(axis=0) - xyz.min(axis=0)
        moved = np.median(np.abs(np.diff(xyz, axis=0)), axis=0) / spread
    return float(moved[:2].max()) if np.isfinite(moved[:2]).all() else math.inf


def _is_scan(records: npt.NDArray[np.float32]) -> bool:
    """Whether records (n, 4 or 5) could be x, y, z, intensity, ring."""
    xyz, intensity = records[:, :3], records[:, 3]
    around = ((xyz[:, :2].min(axis=0) < 0) & (xyz[:, :2].max(axis=0) > 0)).any()
    in_range = np.abs(xyz).max() <= FARTHEST_M and intensity.min() >= 0 and intensity.max() <= MOST_INTENSITY
    whole = ((records[:, 4:] == np.rint(records[:, 4:])) & (records[:, 4:] >= 0) & (records[:, 4:] <= MOST_RINGS)).all()
    return bool(around and in_range and whole and (np.abs(xyz) > LEAST_M).mean() > 0.5)


def _records(source: Source, columns: tuple[str, ...]) -> Records:
    row = np.dtype([(name, "<f4") for name in columns])
    count, rest = divmod(source.size, row.itemsize)
    if rest:
        hint = next((f"; {n} values a record would fit" for n in (4, 5) if source.size % (4 * n) == 0), "")
        raise TruncatedFile(f"{source.size} bytes are no whole number of records of {len(columns)} float32{hint}")
    source.admit(count)
    return packed_records(source, 0, count, row)
