"""Intensities come in three ranges, 0..1, 0..255 and 0..65535, and no file says which: it is read off the largest value."""

from dataclasses import replace

import numpy as np

from models.pointcloud import PointCloud

RANGES = (1.0, 255.0, 65535.0)


def range_of(largest: float) -> float:
    """The smallest of the three that holds the value; the last one beyond all."""
    return next((top for top in RANGES if largest <= top * 1.0001), RANGES[-1])


def factor_for(cloud: PointCloud, largest: float) -> float:
    """What brings the intensities of a cloud into the range that the `largest` one of a model's training data is of."""
    if cloud.intensity is None:
        return 1.0
    return range_of(largest) / range_of(float(cloud.intensity.max()))


def in_range(cloud: PointCloud, largest: float) -> tuple[PointCloud, bool]:
    """The cloud with its intensities in that range, and whether they changed."""
    factor = factor_for(cloud, largest)
    if factor == 1 or cloud.intensity is None:
        return cloud, False
    return replace(cloud, intensity=cloud.intensity * np.float32(factor)), True
