"""What every answer is written from: a cloud with a class and a confidence for each of its points."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.labels import LabelMap
from models.pointcloud import PointCloud

MOST_CLASSES = 1 << 16


@dataclass(frozen=True)
class Labelled:
    """N points and their answers. labels (N,) classes of any integer type, 0 ≤ label < L; confidence (N,) float32, 0..1."""

    cloud: PointCloud
    labels: npt.NDArray[np.integer]
    confidence: npt.NDArray[np.float32]
    label_map: LabelMap

    def __post_init__(self) -> None:
        n, classes = len(self.cloud), len(self.label_map)
        if self.labels.shape != (n,) or self.labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be ({n},) integers, got {self.labels.shape} {self.labels.dtype}")
        if self.confidence.shape != (n,) or self.confidence.dtype != np.float32:
            raise ValueError(f"confidence must be ({n},) float32, got {self.confidence.shape} {self.confidence.dtype}")
        if n and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ValueError(f"labels must lie in 0..{classes - 1}, got {self.labels.min()}..{self.labels.max()}")
        if classes > MOST_CLASSES:
            raise ValueError(f"at most {MOST_CLASSES} classes, got {classes}")

    @property
    def indices(self) -> npt.NDArray[np.integer]:
        """labels (N,) in the smallest type that holds the classes of the map: u8 up to 256 of them, else little-endian u16."""
        return self.labels.astype("u1" if len(self.label_map) <= 256 else "<u2", copy=False)
