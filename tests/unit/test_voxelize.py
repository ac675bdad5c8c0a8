"""prepare and voxelize against a dictionary of cells, and by what must not change their answer."""

import time
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import voxelize as module
from models.errors import BadOption, DegenerateCloud, ExtentTooLarge, MissingFeature, NonFinite, NoPoints
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import UNITS_M, prepare, variants, voxelize
from tests.fire import PROMPT_S

XYZ = (FeatureSpec(name="x"), FeatureSpec(name="y"), FeatureSpec(name="z"))


def spec(**changes: object) -> InputSpec:
    return InputSpec.model_validate({"features": XYZ, "voxel_size": 0.25, **changes})


def cloud_of(points: int, spread: float, seed: int = 0, dtype: type = np.float32) -> PointCloud:
    rng = np.random.default_rng(seed)
    return PointCloud(
        rng.normal(0, spread, (points, 3)).astype(dtype),
        rgb=rng.integers(0, 256, (points, 3), np.uint8),
        intensity=rng.random(points, np.float32),
        extra=MappingProxyType({"ring": rng.integers(0, 32, points)}),
    )


clouds = st.builds(
    cloud_of,
    st.integers(1, 300),
    st.sampled_from([0.01, 1.0, 30.0, 3000.0]),
    st.integers(0, 9),
    st.sampled_from([np.float32, np.float64]),
)
switches = st.fixed_dictionaries(
    {"rounding": st.sampled_from(["corrected", "reference"]), "voxel_feature": st.sampled_from(["corrected", "reference"])}
)


def simple_voxelize(xyz: np.ndarray, chosen: InputSpec) -> dict[tuple[int, ...], list[int]]:
    """Which points lie in which cell."""
    size = np.float32(chosen.voxel_size)
    if chosen.rounding == "reference":
        grid = np.rint(xyz / size)
        grid = grid - grid.min(axis=0)
    else:
        grid = np.floor((xyz - xyz.min(axis=0)) / size)
    cells: dict[tuple[int, ...], list[int]] = {}
    for i, cell in enumerate(grid.astype(int).tolist()):
        cells.setdefault(tuple(cell), []).append(i)
    return cells


@given(clouds, switches)
def test_voxels_are_the_cells_of_the_points(cloud, changes):
    chosen = spec(**changes)
    cells = simple_voxelize(cloud.xyz, chosen)
    voxels = voxelize(cloud, chosen)
    assert voxels.coords.tolist() == [list(cell) for cell in sorted(cells)]
    for row, cell in enumerate(sorted(cells)):
        points = cells[cell]
        assert (voxels.inverse[points] == row).all()
        mean = cloud.xyz[points].astype(np.float64).mean(axis=0)
        expected = cloud.xyz[points[0]] if chosen.voxel_feature == "reference" else mean
        np.testing.assert_allclose(voxels.feats[row], expected.astype(np.float32), rtol=1e-6, atol=1e-6)
    assert [each.dtype for each in (voxels.coords, voxels.feats, voxels.inverse)] == [np.int32, np.float32, np.int64]


@given(clouds, switches)
def test_table_and_sort_give_the_same_bits(cloud, changes):
    answers = []
    with pytest.MonkeyPatch.context() as patch:
        for cells_per_point in (0, 1 << 40 if np.ptp(cloud.xyz, axis=0).max() < 30 else 4):
            patch.setattr(module, "TABLE_CELLS_PER_POINT", cells_per_point)
            answers.append(voxelize(cloud, spec(**changes)))
    for one, other in zip(*((each.coords, each.feats, each.inverse) for each in answers), strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.integers(1, 1 << 60), st.lists(st.integers(0, 1 << 60), min_size=1, max_size=50))
def test_group_is_unique(span, values):
    key = np.array(values) % span
    expected, inverse = np.unique(key, return_inverse=True)
    found = module.group(key, span)
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], inverse)


@given(clouds, st.randoms(use_true_random=False))
def test_the_order_of_the_points_is_no_matter(cloud, random):
    order = np.array(random.sample(range(len(cloud)), len(cloud)))
    voxels, shuffled = voxelize(cloud, spec()), voxelize(cloud.take(order), spec())
    np.testing.assert_array_equal(shuffled.coords, voxels.coords)
    np.testing.assert_array_equal(shuffled.inverse, voxels.inverse[order])
    np.testing.assert_allclose(shuffled.feats, voxels.feats, rtol=1e-6, atol=1e-6)  # sums differ in their last bits


def test_features_are_scaled_filled_or_missing():
    features = (FeatureSpec(name="red", scale=1 / 255, offset=-0.5), FeatureSpec(name="intensity", fill=0.3), FeatureSpec(name="z"))
    cloud = cloud_of(1, 1.0)
    voxels = voxelize(cloud, spec(features=features))
    assert cloud.rgb is not None and cloud.intensity is not None  # noqa: PT018
    np.testing.assert_allclose(voxels.feats[0], [cloud.rgb[0, 0] / 255 - 0.5, cloud.intensity[0], cloud.xyz[0, 2]], rtol=1e-6)
    assert voxels.filled == ()
    bare = PointCloud(cloud.xyz)
    with pytest.raises(MissingFeature, match="red"):
        voxelize(bare, spec(features=features))
    filled = voxelize(bare, spec(features=features[1:]))
    assert filled.filled == ("intensity",)
    assert filled.feats[0, 0] == np.float32(0.3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_the_unit_sphere_forgets_place_and_size(dtype, scale, shift):
    base = cloud_of(2000, 1.0, dtype=np.float64).xyz
    moved = PointCloud(((base + shift) * scale).astype(dtype))
    unit = prepare(moved, spec(normalise="unit_sphere"))
    expected = prepare(PointCloud(base), spec(normalise="unit_sphere"))
    radii = np.linalg.norm(unit.xyz, axis=1)
    assert abs(radii.max() - 1) < 1e-6
    np.testing.assert_allclose(unit.xyz.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(unit.xyz, expected.xyz, atol=1e-4 if dtype == np.float32 and shift else 1e-6)
    assert unit.xyz.dtype == np.float32


@pytest.mark.parametrize("up", ["x", "y", "z"])
@pytest.mark.parametrize("model_up", ["x", "y", "z"])
def test_the_up_axis_goes_where_the_model_has_it_without_mirroring(up, model_up):
    axes = PointCloud(np.eye(3, dtype=np.float32))  # row i is the unit vector of axis i
    turned = prepare(axes, spec(up=model_up), up=up).xyz
    np.testing.assert_array_equal(turned["xyz".index(up)], np.eye(3)["xyz".index(model_up)])
    assert np.linalg.det(turned) == 1


def test_files_with_y_up_are_turned_as_cad_programs_turn_them():
    """(x, y, z) with y up is (x, -z, y) with z up: turned about x, so that an object keeps its heading."""
    found = prepare(PointCloud(np.array([[1, 2, 3]], np.float32)), spec(up="z"), up="y").xyz
    np.testing.assert_array_equal(found, [[1, -3, 2]])


@pytest.mark.parametrize("unit", UNITS_M)
def test_units_become_metres(unit):
    metres = cloud_of(50, 1.0)
    said = prepare(PointCloud(metres.xyz / np.float32(UNITS_M[unit])), spec(), unit=unit)
    np.testing.assert_allclose(said.xyz, metres.xyz, rtol=1e-6)


def test_the_point_budget_takes_the_same_points_every_time():
    cloud = cloud_of(5000, 1.0)
    few = prepare(cloud, spec(point_budget=100))
    np.testing.assert_array_equal(few.xyz, prepare(cloud, spec(point_budget=100)).xyz)
    rows = [int(np.flatnonzero((cloud.xyz == point).all(axis=1))[0]) for point in few.xyz]
    assert len(set(rows)) == 100
    assert rows == sorted(rows)
    np.testing.assert_array_equal(few.extra["ring"], cloud.extra["ring"][rows])
    assert prepare(few, spec(point_budget=100)) is not few
    assert len(prepare(few, spec(point_budget=100))) == 100


def test_bad_options_name_the_known_ones():
    with pytest.raises(BadOption) as caught:
        prepare(cloud_of(5, 1.0), spec(), up="w")  # type: ignore[arg-type]
    assert caught.value.known == ("x", "y", "z")
    with pytest.raises(BadOption, match="parsec"):
        prepare(cloud_of(5, 1.0), spec(), unit="parsec")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e38])
def test_unusable_numbers_are_refused_at_once(value):
    xyz = cloud_of(1_000_000, 1.0).xyz.copy()
    xyz[777_777, 1] = value
    started = time.perf_counter()
    with pytest.raises(NonFinite, match="point 777777"):
        prepare(PointCloud(xyz), spec())
    assert time.perf_counter() - started < PROMPT_S


@pytest.mark.parametrize("rounding", ["corrected", "reference"])
def test_a_cloud_too_wide_for_its_voxels_is_refused_at_once(rounding):
    xyz = cloud_of(1_000_000, 1.0).xyz.copy()
    xyz[5] = 0.25 * 2**20 + 10
    for wide in (xyz, xyz.astype(np.float64), xyz * np.float32(1e9)):
        cloud = PointCloud(wide)
        started = time.perf_counter()
        with pytest.raises(ExtentTooLarge, match="check its unit"):
            voxelize(cloud, spec(rounding=rounding, features=()))
        assert time.perf_counter() - started < PROMPT_S
    with pytest.raises(ExtentTooLarge, match="inf"):
        voxelize(PointCloud(np.array([[0, 0, 0], [1e15, 0, 0]], np.float32)), spec(rounding=rounding, voxel_size=1e-30))


def test_the_widest_cloud_that_fits():
    ends = np.array([[0, 0, 0], [0.25 * (2**20 - 1), 0, 0.25 * (2**20 - 1)]])
    assert voxelize(PointCloud(ends), spec()).coords.tolist() == [[0, 0, 0], [2**20 - 1, 0, 2**20 - 1]]


def test_clouds_without_a_size():
    for point in ([0.1, 0.1, 0.1], [0, 0, 0], [1e6, -3.3, 7]):
        for count in (1, 3, 1000):
            with pytest.raises(DegenerateCloud):
                prepare(PointCloud(np.full((count, 3), point, np.float32)), spec(normalise="unit_sphere"))
    with pytest.raises(DegenerateCloud):
        prepare(PointCloud(np.array([[0, 0, 0], [0, 0, 1e-300]])), spec(normalise="unit_sphere"))
    assert len(voxelize(PointCloud(np.zeros((1, 3), np.float32)), spec())) == 1
    empty = PointCloud(np.zeros((0, 3), np.float32))
    for refuse in (prepare, voxelize):
        with pytest.raises(NoPoints):
            refuse(empty, spec())


def test_votes_are_variants_one_after_the_other():
    cloud, voted = cloud_of(200, 1.0), spec(votes={"count": 3, "scale": 0.2, "translate": 0.1})
    found, parts = voxelize(cloud, voted), [voxelize(each, spec()) for each in variants(cloud, voted.votes)]
    assert np.array_equal(found.feats, np.concatenate([part.feats for part in parts]))
    assert np.array_equal(found.coords, np.concatenate([part.coords for part in parts]))
    assert np.array_equal(found.inverse, parts[0].inverse)
    assert found.variants == tuple(len(part) for part in parts)
    assert found.of_cloud == parts[0].of_cloud == len(parts[0])
    with pytest.raises(ValueError, match="variants of"):
        replace(found, variants=found.variants[1:])
    assert parts[0].variants is None
    factors = [np.ptp(each.xyz, axis=0) / np.ptp(cloud.xyz, axis=0) for each in variants(cloud, voted.votes)]
    assert np.allclose(factors[0], 1)
    assert (np.abs(np.log(factors[1:])) <= np.log(1.2) + 1e-6).all()
    assert len({tuple(each) for each in np.round(factors, 3)}) == 3
