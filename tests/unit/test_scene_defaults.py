"""Voxel size and features of a model of scenes, derived from the scenes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadDataset, ExtentTooLarge
from models.labels import LabelMap, load_label_map
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.voxelize import prepare, voxelize
from training.datasets.scene_defaults import MOST_VOXELS, derive_scene_input, median_spacing, nice_sizes
from training.datasets.scenes import Scene


@dataclass(frozen=True)
class InMemory:
    """Scenes that never were files."""

    clouds: tuple[PointCloud, ...]
    digest: str = ""

    @property
    def label_map(self) -> LabelMap:
        return load_label_map("s3dis13")

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(f"scene {place}" for place in range(len(self)))

    def __len__(self) -> int:
        return len(self.clouds)

    def scene(self, index: int) -> Scene:
        return Scene(self.clouds[index], np.zeros(len(self.clouds[index]), np.int64))

    def take(self, rows: np.ndarray) -> "InMemory":
        return InMemory(tuple(self.clouds[int(row)] for row in rows))


def floor(side: int = 40, step: float = 0.02, origin: tuple[float, float, float] = (0, 0, 0), seed: int = 0) -> PointCloud:
    """A floor of side² points `step` apart, and a wall on it."""
    x, y = np.meshgrid(np.arange(side) * step, np.arange(side) * step)
    ground = np.stack([x.ravel(), y.ravel(), np.zeros(side * side)], axis=1)
    wall = ground[:, [0, 2, 1]] + [0, step / 2, step]
    points = np.concatenate([ground, wall]) - [side * step / 2, side * step / 2, 0] + np.array(origin)
    order = np.random.default_rng(seed).permutation(len(points))
    return PointCloud(points[order].astype(np.float32))


def names(values: dict[str, object]) -> list[str]:
    features = values["features"]
    assert isinstance(features, list)
    return [each["name"] for each in features]


def test_the_voxel_size_follows_the_spacing() -> None:
    wide = floor(side=200, step=0.02)
    values, reasons = derive_scene_input(InMemory((wide, wide)))
    assert values["voxel_size"] == 0.08  # 4 times 0.02
    assert (values["normalise"], values["point_budget"]) == ("none", None)
    assert reasons[0].startswith("voxel_size 0.08: points are 0.02 apart (median)")
    for factor in (0.1, 1000):  # in another unit the same
        scenes = InMemory((floor(side=200, step=0.02 * factor),))
        assert derive_scene_input(scenes)[0]["voxel_size"] == pytest.approx(0.08 * factor)


def test_a_small_scene_keeps_voxels_for_the_coarser_levels() -> None:
    size = derive_scene_input(InMemory((floor(side=40, step=0.02),)))[0]["voxel_size"]
    assert isinstance(size, float)
    assert 0.02 <= size < 0.04


def test_a_dense_scene_gets_larger_voxels() -> None:
    dense = floor(side=280, step=0.01)  # 156,800 points
    values, _ = derive_scene_input(InMemory((dense,)))
    size = values["voxel_size"]
    assert isinstance(size, float)
    spec = InputSpec.model_validate({"features": [{"name": "x"}], "voxel_size": size})
    assert len(voxelize(dense, spec)) <= MOST_VOXELS
    smaller = max(each for each, _ in zip(nice_sizes(0.001), range(60), strict=False) if each < size)
    assert smaller < 0.04 or len(voxelize(dense, spec.model_copy(update={"voxel_size": smaller}))) > MOST_VOXELS


def test_what_is_derived_is_an_input_of_a_model() -> None:
    cloud = floor()
    rgb = np.random.default_rng(0).integers(0, 256, (len(cloud), 3)).astype(np.uint8)
    coloured = replace(cloud, rgb=rgb, intensity=np.linspace(0, 200, len(cloud), dtype=np.float32))
    values, reasons = derive_scene_input(InMemory((coloured, coloured)))
    assert names(values) == ["x", "y", "z", "red", "green", "blue", "intensity"]
    spec = InputSpec.model_validate(values)
    voxels = voxelize(prepare(coloured, spec), spec)
    assert np.abs(voxels.feats).max(axis=0) == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 1], abs=0.2)
    bare = voxelize(prepare(cloud, spec), spec)
    assert bare.filled == ("red", "green", "blue", "intensity")
    assert bare.feats[0, 3:].tolist() == pytest.approx([0, 0, 0, voxels.feats[:, 6].mean()], abs=0.05)  # fills are the average
    assert len(reasons) == 3 + 4


def test_a_scale_is_one_for_x_and_y() -> None:
    cloud = floor()
    long = replace(cloud, xyz=cloud.xyz * np.array([10, 1, 1], np.float32))
    values, _ = derive_scene_input(InMemory((long,)))
    features = values["features"]
    assert isinstance(features, list)
    assert features[0]["scale"] == features[1]["scale"] < features[2]["scale"]


def test_where_a_scene_lies_on_a_map_is_no_feature() -> None:
    far = InMemory((floor(origin=(5e3, 7e3, 0)), floor(origin=(5.2e3, 7e3, 0))))
    values, reasons = derive_scene_input(far)
    assert names(values) == ["z"]
    assert "no features x, y: they say where a scene lies, which a net must not learn by heart" in reasons
    coloured = replace(floor(origin=(5e3, 0, 30)), rgb=np.random.default_rng(0).integers(0, 256, (3200, 3)).astype(np.uint8))
    lower = replace(coloured, xyz=coloured.xyz - np.array([0, 0, 25], np.float32))
    values, reasons = derive_scene_input(InMemory((coloured, lower)))
    assert names(values) == ["red", "green", "blue"]
    assert "no feature z: scenes begin at heights of their own" in reasons
    bare = tuple(PointCloud(each.xyz) for each in (coloured, lower))
    values, reasons = derive_scene_input(InMemory(bare))
    assert names(values) == ["z"]
    assert "feature z: there is no other" in reasons


def test_columns_that_say_nothing_or_are_missing_are_no_features() -> None:
    cloud = floor()
    grey = replace(cloud, rgb=np.full((len(cloud), 3), 128, np.uint8), intensity=np.ones(len(cloud), np.float32))
    values, reasons = derive_scene_input(InMemory((grey,)))
    assert names(values) == ["x", "y", "z"]
    assert reasons[-2:] == ["no colour: it is the same all over every scene", "no intensity: it is the same all over every scene"]
    values, reasons = derive_scene_input(InMemory((grey, cloud)))
    assert reasons[-2:] == ["no colour: not all files have it", "no intensity: not all files have it"]


def test_the_same_seed_looks_at_the_same_scenes() -> None:
    scenes = InMemory(tuple(floor(step=0.01 * (1 + place)) for place in range(40)))
    assert derive_scene_input(scenes, 3) == derive_scene_input(scenes, 3)
    assert len({str(derive_scene_input(scenes, seed)) for seed in range(3)}) > 1


def test_nothing_to_derive_from_says_so() -> None:
    with pytest.raises(BadDataset, match="no scenes"):
        derive_scene_input(InMemory(()))
    with pytest.raises(BadDataset, match="scene 0: all its points coincide"):
        derive_scene_input(InMemory((PointCloud(np.ones((5, 3), np.float32)),)))
    outlier = floor()
    outlier.xyz[7] = 1e12
    with pytest.raises(ExtentTooLarge, match=r"^scene 0: the cloud spans"):
        derive_scene_input(InMemory((outlier,)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.sampled_from([0.0, 1e-3, 1.0, 50.0]))
def test_the_nearest_neighbour_is_the_nearest(seed: int, count: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    xyz = (rng.integers(0, 8, (count, 3)) * rng.uniform(0.01, 3, 3) + offset).astype(np.float32)
    distances = np.linalg.norm(xyz[:, None].astype(float) - xyz[None].astype(float), axis=2)
    distances[distances == 0] = np.inf  # copies of a point are no neighbours
    assert median_spacing(xyz, rng) == pytest.approx(float(np.median(distances.min(axis=1))), rel=1e-9)


def test_sizes_are_round_and_rise() -> None:
    sizes = [size for size, _ in zip(nice_sizes(0.041), range(7), strict=False)]
    assert sizes == [0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2]
    assert next(nice_sizes(300)) == 300
    assert next(nice_sizes(0.015)) == 0.015
