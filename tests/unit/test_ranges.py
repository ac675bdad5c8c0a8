"""Intensities of files in the range of a model's training data."""

import numpy as np
import pytest

from models.pointcloud import PointCloud
from models.ranges import in_range, range_of

RANGES = [(0, 1), (0.99, 1), (1, 1), (1.5, 255), (255, 255), (256, 65535), (65535, 65535), (1e9, 65535)]


def cloud(*intensities: float) -> PointCloud:
    return PointCloud(np.zeros((len(intensities), 3), "f4"), intensity=np.array(intensities, "f4"))


@pytest.mark.parametrize(("largest", "top"), RANGES)
def test_range_of_a_largest_value(largest: float, top: float) -> None:
    assert range_of(largest) == top


@pytest.mark.parametrize(("model", "given", "expected"), [(0.99, (0, 51, 255), (0, 0.2, 1)), (200, (0, 0.2, 1), (0, 51, 255))])
def test_files_of_another_range_are_brought_to_the_models(model: float, given: tuple, expected: tuple) -> None:
    found, changed = in_range(cloud(*given), model)
    assert changed
    assert found.intensity is not None
    np.testing.assert_allclose(found.intensity, expected, rtol=1e-6)


def test_files_of_the_same_range_stay_as_they_are() -> None:
    one, bare = cloud(0.1, 0.7), PointCloud(np.zeros((2, 3), "f4"))
    for given in (one, bare):
        found, changed = in_range(given, 0.99)
        assert found is given
        assert not changed
