"""Files of bare float32 records, as LiDAR data sets publish them: KITTI `.bin` and nuScenes `.pcd.bin`. No header."""

import numpy as np
import numpy.typing as npt

from models.errors import TruncatedFile
from models.io.source import Source
from models.pointcloud import PointCloud


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
