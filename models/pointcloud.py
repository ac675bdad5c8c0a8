"""A point cloud as it came out of a file.

N points. xyz (N, 3) float32 or float64, as the file stores it, so that large map coordinates lose nothing before the
origin is subtracted; rgb (N, 3) uint8; intensity (N,) float32; every other column of the file under `extra`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from models.errors import NonFinite, NoPoints

LARGEST_COORDINATE = 1e15  # squares of coordinates must stay finite in float32: 1e15² · N < 3e38


@dataclass(frozen=True)
class PointCloud:
    """N points with the columns a file gave them. Arrays are not copied; treat them as read-only.

    Units: whatever the file uses (metres unless the caller says otherwise). Frame: the file's.
    """

    xyz: npt.NDArray[np.floating]
    rgb: npt.NDArray[np.uint8] | None = None
    intensity: npt.NDArray[np.float32] | None = None
    extra: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        n = len(self.xyz)
        if self.xyz.shape != (n, 3) or self.xyz.dtype not in (np.float32, np.float64):
            raise ValueError(f"xyz must be (N, 3) float32 or float64, got {self.xyz.shape} {self.xyz.dtype}")
        if self.rgb is not None and (self.rgb.shape != (n, 3) or self.rgb.dtype != np.uint8):
            raise ValueError(f"rgb must be ({n}, 3) uint8, got {self.rgb.shape} {self.rgb.dtype}")
        if self.intensity is not None and (self.intensity.shape != (n,) or self.intensity.dtype != np.float32):
            raise ValueError(f"intensity must be ({n},) float32, got {self.intensity.shape} {self.intensity.dtype}")
        for name, column in self.extra.items():
            if len(column) != n:
                raise ValueError(f"extra column {name!r} must have {n} rows, got {len(column)}")

    def __len__(self) -> int:
        return len(self.xyz)

    def checked(self) -> "PointCloud":
        """The same cloud, once it is known to have points and only finite, usable numbers.

        Raises: NoPoints, NonFinite (names the first bad point).
        """
        if len(self) == 0:
            raise NoPoints("the cloud has no points")
        limit = self.xyz.dtype.type(LARGEST_COORDINATE)
        with np.errstate(invalid="ignore"):  # what numpy would warn of is refused here
            # min and max propagate NaN and need no temporary array of N values
            if not (self.xyz.min() >= -limit and self.xyz.max() <= limit):
                rows = np.flatnonzero(~(np.abs(self.xyz) <= limit).all(axis=1))
                values = ", ".join(f"{value:g}" for value in self.xyz[rows[0]])
                others = f" and {len(rows) - 1} more such points; remove them from the file" if len(rows) > 1 else ""
                raise NonFinite(
                    f"coordinates must be finite and below {LARGEST_COORDINATE:g}, found ({values}){others}", where=f"point {rows[0]}"
                )
            if self.intensity is not None and not (np.isfinite(self.intensity.min()) and np.isfinite(self.intensity.max())):
                row = int(np.flatnonzero(~np.isfinite(self.intensity))[0])
                raise NonFinite(f"intensity must be finite, found {self.intensity[row]:g}", where=f"point {row}")
        return self

    def take(self, rows: npt.NDArray[np.integer]) -> "PointCloud":
        """The cloud of the given rows, all columns kept."""
        return replace(
            self,
            xyz=self.xyz[rows],
            rgb=None if self.rgb is None else self.rgb[rows],
            intensity=None if self.intensity is None else self.intensity[rows],
            extra=MappingProxyType({name: column[rows] for name, column in self.extra.items()}),
        )
