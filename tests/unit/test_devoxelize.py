"""From voxels back to points: nearest is an index, trilinear is what a loop over a dictionary of cells finds."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.devoxelize import nearest, trilinear
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.voxelize import Voxels, voxelize

SIZE = 0.25
ROUNDINGS = ("corrected", "reference")
Points = npt.NDArray[np.floating]


def voxels_of(xyz: Points, rounding: str = "corrected", size: float = SIZE) -> Voxels:
    spec = {"features": [{"name": "x"}], "voxel_size": size, "rounding": rounding, "devoxelize": "trilinear"}
    return voxelize(PointCloud(xyz), InputSpec.model_validate(spec))


def values_of(voxels: Voxels, channels: int = 3, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(len(voxels), channels)).astype("f4")


def one_by_one(xyz: Points, voxels: Voxels, values: npt.NDArray[np.float32], rounding: str, size: float = SIZE) -> npt.NDArray[np.float64]:
    """Σ w v / Σ w over the occupied ones of the eight cells around each point.

    A cell of coords c is the box [c, c + 1] from the minimum corner in `corrected`, and [c - ½, c + ½] in `reference`, which rounds.
    """
    rows = {tuple(cell): row for row, cell in enumerate(voxels.coords.tolist())}
    step = np.float64(np.float32(size))
    low = xyz.astype(np.float64).min(axis=0)
    origin = np.rint(low / step) * step if rounding == "reference" else low + step / 2  # the centre of cell 0
    found = []
    for place in (xyz.astype(np.float64) - origin) / step:
        corner = [math.floor(axis) for axis in place]
        total, weights = np.zeros(values.shape[1]), 0.0
        for steps in itertools.product((0, 1), repeat=3):
            row = rows.get(tuple(axis + step for axis, step in zip(corner, steps, strict=True)))
            if row is None:
                continue
            weight = math.prod(1 - abs(axis - start - step) for axis, start, step in zip(place, corner, steps, strict=True))
            total, weights = total + weight * values[row], weights + weight
        found.append(total / weights)
    return np.array(found)


clouds = st.builds(
    lambda count, spread, shift, seed: np.random.default_rng(seed).normal(shift, spread, (count, 3)),
    st.integers(1, 120),
    st.sampled_from([0.02, 0.3, 1.5, 40.0]),
    st.sampled_from([0.0, -7.3, 3.0]),
    st.integers(0, 20),
)


@given(clouds, st.sampled_from(ROUNDINGS), st.sampled_from([np.float32, np.float64]))
def test_trilinear_is_what_a_loop_finds(cloud: Points, rounding: str, dtype: type[np.floating]) -> None:
    xyz = cloud.astype(dtype)
    voxels = voxels_of(xyz, rounding)
    values = values_of(voxels)
    found = trilinear(values, voxels)
    assert found.dtype == np.float32
    assert found.shape == (len(xyz), 3)
    near = 1e-3 if np.ptp(xyz, axis=0).max() > 30 else 1e-4  # of a place among hundreds of cells float32 has fewer digits
    np.testing.assert_allclose(found, one_by_one(xyz, voxels, values, rounding), atol=near)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_on_cell_borders_and_centres(rounding: str) -> None:
    """Places where the cell of a point and the cells around it are decided by rounding."""
    xyz = np.array(list(itertools.product(np.arange(-6, 7) / 2, repeat=3))) * SIZE
    voxels = voxels_of(xyz, rounding)
    values = values_of(voxels)
    np.testing.assert_allclose(trilinear(values, voxels), one_by_one(xyz, voxels, values, rounding), atol=1e-5)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_is_the_value_of_the_points_own_voxel(rounding: str) -> None:
    xyz = np.random.default_rng(0).normal(-2, 1.5, (500, 3))
    voxels = voxels_of(xyz, rounding)
    for values in (values_of(voxels), np.arange(len(voxels), dtype=np.uint16)):
        found = nearest(values, voxels)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values[voxels.inverse])
    step = np.float64(SIZE)
    cells = np.rint(xyz / step) - np.rint(xyz.min(axis=0) / step) if rounding == "reference" else np.floor((xyz - xyz.min(axis=0)) / step)
    np.testing.assert_array_equal(nearest(voxels.coords, voxels), cells)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_linear_field_comes_back_exactly_where_all_cells_are_occupied(rounding: str) -> None:
    rng = np.random.default_rng(0)
    corner, side = np.array([-3.1, 2.0, -0.4]), 8
    grid = np.array(list(itertools.product(range(side), repeat=3)))
    inside = rng.uniform(1, side - 2, (400, 3))
    origin = corner + SIZE / 2 if rounding == "corrected" else np.rint(corner / SIZE) * SIZE
    centres = grid * SIZE + origin
    first = corner[None] if rounding == "corrected" else centres[:1]
    xyz = np.concatenate([first, centres, inside * SIZE + origin])
    voxels = voxels_of(xyz, rounding)
    assert len(voxels) == side**3
    slope = rng.normal(size=(3, 2))
    found = trilinear((voxels.coords @ slope + 1.5).astype("f4"), voxels)
    np.testing.assert_allclose(found[-400:], inside @ slope + 1.5, atol=1e-4)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_single_voxel_gives_its_value_to_every_point(rounding: str) -> None:
    for xyz in (np.zeros((1, 3)), np.full((5, 3), -4.2), np.random.default_rng(0).uniform(0.01, 0.1, (50, 3))):
        voxels = voxels_of(xyz, rounding)
        assert len(voxels) == 1
        np.testing.assert_allclose(trilinear(np.array([[2.5, -1]], "f4"), voxels), [[2.5, -1]] * len(xyz), rtol=1e-6)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_order_of_the_points_is_no_matter(rounding: str) -> None:
    rng = np.random.default_rng(0)
    xyz = rng.normal(0, 1, (400, 3)).astype("f4")
    order = rng.permutation(len(xyz))
    voxels, shuffled = voxels_of(xyz, rounding), voxels_of(xyz[order], rounding)
    values = values_of(voxels)
    np.testing.assert_array_equal(trilinear(values, shuffled), trilinear(values, voxels)[order])


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_what_a_survey_grid_adds_to_coordinates_changes_nothing(rounding: str) -> None:
    """UTM metres in float64, by whole cells: the same voxels, the same places in them."""
    xyz = np.round(np.random.default_rng(0).normal(0, 2, (2000, 3)), 6)
    far = xyz + np.array([456_789.25, 5_412_345.75, -431.5])
    here, there = voxels_of(xyz, rounding), voxels_of(far, rounding)
    np.testing.assert_array_equal(there.coords, here.coords)
    values = values_of(here)
    np.testing.assert_allclose(trilinear(values, there), trilinear(values, here), atol=1e-5)


def test_wide_clouds_keep_their_neighbours_apart() -> None:
    """The far corners of the widest cloud: keys of cells do not run into each other or over."""
    ends = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 1]]) * SIZE * (2**20 - 1)
    voxels = voxels_of(np.concatenate([ends, ends[1:2] + SIZE / 8]))
    values = np.arange(len(voxels), dtype="f4")[:, None]
    np.testing.assert_allclose(trilinear(values, voxels), nearest(values, voxels), atol=1e-6)


def test_places_are_kept_only_where_they_are_asked_for() -> None:
    spec = InputSpec.model_validate({"features": [{"name": "x"}], "voxel_size": SIZE})
    assert voxelize(PointCloud(np.zeros((4, 3))), spec).grid is None
