"""One class for every voxel: against a loop over the points of each."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.labels import IGNORE
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.voxelize import Voxels, voxelize
from training.votes import vote

SPEC = InputSpec(features=({"name": "x"},), voxel_size=1.0)


def voxels_of(inverse: list[int]) -> Voxels:
    """Voxels of which only the place of every point matters."""
    count = max(inverse) + 1
    return Voxels(np.zeros((count, 3), np.int32), np.zeros((count, 1), np.float32), np.array(inverse, np.int64))


def by_hand(labels: list[int], inverse: list[int], rule: str) -> list[int]:
    answers = []
    for voxel in range(max(inverse) + 1):
        inside = [label for label, place in zip(labels, inverse, strict=True) if place == voxel]
        counts = Counter(label for label in inside if label != IGNORE).most_common(2)
        if rule == "reference":
            answers.append(inside[0])
        elif not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
            answers.append(IGNORE)
        else:
            answers.append(counts[0][0])
    return answers


@pytest.mark.parametrize(
    ("labels", "corrected", "reference"),
    [
        ([2, 2, 1], 2, 2),
        ([1, 2, 2], 2, 1),
        ([1, 2], IGNORE, 1),  # a tie
        ([1, 2, 2, 1, 0], IGNORE, 1),  # a tie of two of three
        ([IGNORE, IGNORE, IGNORE, 0], 0, IGNORE),  # what has no class has no vote
        ([1, 2, 2, IGNORE, IGNORE, IGNORE], 2, 1),
        ([IGNORE, IGNORE], IGNORE, IGNORE),
        ([0], 0, 0),
    ],
)
def test_one_voxel(labels: list[int], corrected: int, reference: int) -> None:
    voxels = voxels_of([0] * len(labels))
    for rule, expected in (("corrected", corrected), ("reference", reference)):
        found = vote(np.array(labels, np.int64), voxels, 3, rule)
        assert found.tolist() == [expected], rule
        assert found.dtype == np.int64


@given(st.data())
def test_any_voxels(data: st.DataObject) -> None:
    classes = data.draw(st.integers(1, 4))
    points = data.draw(st.lists(st.tuples(st.integers(IGNORE, classes - 1), st.integers(0, 6)), min_size=1, max_size=40))
    labels = [label for label, _ in points]
    inverse = np.unique([place for _, place in points], return_inverse=True)[1].tolist()  # every voxel has a point
    for rule in ("corrected", "reference"):
        assert vote(np.array(labels, np.int64), voxels_of(inverse), classes, rule).tolist() == by_hand(labels, inverse, rule), rule


def test_a_scene_of_which_no_point_has_a_class() -> None:
    voxels = voxels_of([0, 2, 1, 2])
    for rule in ("corrected", "reference"):
        assert vote(np.full(4, IGNORE), voxels, 19, rule).tolist() == [IGNORE] * 3


def test_the_order_of_the_points_matters_to_the_reference_alone() -> None:
    rng = np.random.default_rng(0)
    xyz, labels = rng.uniform(0, 6, (3000, 3)).astype(np.float32), rng.integers(-1, 3, 3000)
    xyz[0] = 0  # the corner that cells are counted from, whatever the order
    order = rng.permutation(3000)
    found = {}
    for rule in ("corrected", "reference"):
        found[rule] = [vote(labels[rows], voxelize(PointCloud(xyz[rows]), SPEC), 3, rule) for rows in (np.arange(3000), order)]
    assert np.array_equal(*found["corrected"])
    assert not np.array_equal(*found["reference"])
    assert (found["corrected"][0] == IGNORE).any()  # ties
