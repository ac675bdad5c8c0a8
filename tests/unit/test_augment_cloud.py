"""Augmentation of whole clouds: sides that are missing, strays, bent shapes, leaning ones."""

import numpy as np
import pytest
from pydantic import ValidationError

from models.manifest import Axis, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import normalised
from training.augment import FEWEST, AugmentSpec, augment, strayed, warped, without_a_side
from training.datasets import LabelledClouds
from training.recipe import load_recipe
from training.samples import CloudSamples

STILL: dict[str, object] = {"p_scale": 0, "p_translate": 0, "p_jitter": 0}


def cloud_of(count: int = 400, seed: int = 0) -> PointCloud:
    xyz = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return PointCloud(xyz, intensity=np.arange(count, dtype=np.float32))


@pytest.mark.parametrize("option", [{"cut": 0.1}, {"strays": 0.1}, {"warp": 0.5}, {"tilt_deg": 5}], ids=lambda option: next(iter(option)))
def test_it_is_known_that_something_changes(option: dict[str, object]) -> None:
    assert AugmentSpec.model_validate({**STILL, **option}).changes


def test_a_side_is_cut_off_by_a_plane() -> None:
    cloud, sizes = cloud_of(), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        left = without_a_side(cloud, 0.5, rng)
        assert left.intensity is not None
        kept = left.intensity.astype(int)
        assert np.array_equal(left.xyz, cloud.xyz[kept])
        away = np.random.default_rng(seed).normal(size=3)
        along = cloud.xyz @ away
        assert along[kept].max() <= np.delete(along, kept).min(initial=np.inf)
        sizes.append(len(left))
    assert min(sizes) >= 200
    assert max(sizes) - min(sizes) > 100
    assert len(without_a_side(cloud_of(10), 0.99, np.random.default_rng(0))) >= FEWEST


def test_strays_lie_in_the_ball_around_the_cloud() -> None:
    cloud = cloud_of()
    counts = []
    for seed in range(20):
        found = strayed(cloud, 0.2, np.random.default_rng(seed))
        moved = (found.xyz != cloud.xyz).any(axis=1)
        counts.append(int(moved.sum()))
        centre = cloud.xyz.mean(axis=0)
        radius = np.linalg.norm(cloud.xyz - centre, axis=1).max()
        assert (np.linalg.norm(found.xyz - centre, axis=1) <= radius * (1 + 1e-5)).all()
    assert max(counts) <= 80
    assert max(counts) - min(counts) > 40
    many = strayed(cloud_of(20000), 0.999, np.random.default_rng(3)).xyz
    distances = np.linalg.norm(many - cloud_of(20000).xyz.mean(axis=0), axis=1)
    moved = (many != cloud_of(20000).xyz).any(axis=1)
    radius = np.linalg.norm(cloud_of(20000).xyz - cloud_of(20000).xyz.mean(axis=0), axis=1).max()
    assert np.median(distances[moved] / radius) == pytest.approx(0.5 ** (1 / 3), abs=0.02)  # uniform in the volume


@pytest.mark.parametrize("kind", ["cut", "strays"])
def test_some_clouds_stay_whole(kind: str) -> None:
    """As often as is said; where it is certain, the draws are those of before there was a choice."""
    cloud = cloud_of()
    spec = AugmentSpec.model_validate({**STILL, kind: 0.5, f"p_{kind}": 0.3})
    changed = [not np.array_equal(augment(cloud, spec, np.random.default_rng(seed)).xyz, cloud.xyz) for seed in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.08)
    never, always = (spec.model_copy(update={f"p_{kind}": share}) for share in (0.0, 1.0))
    assert np.array_equal(augment(cloud, never, np.random.default_rng(0)).xyz, cloud.xyz)
    expected = without_a_side(cloud, 0.5, np.random.default_rng(7)) if kind == "cut" else strayed(cloud, 0.5, np.random.default_rng(7))
    assert np.array_equal(augment(cloud, always, np.random.default_rng(7)).xyz, expected.xyz)


def test_what_is_left_is_normalised_as_a_file_of_it_would_be() -> None:
    spec = InputSpec(features=(), voxel_size=0.1, normalise="unit_sphere")
    cloud = normalised(cloud_of(), spec)
    asked = AugmentSpec.model_validate({**STILL, "cut": 0.6, "strays": 0.3})
    found = augment(cloud, asked, np.random.default_rng(0), "z", lambda left: normalised(left, spec)).xyz
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(found, axis=1).max() == pytest.approx(1, abs=1e-5)


def test_a_warp_is_smooth_and_stays_within_what_is_asked_for() -> None:
    cloud = cloud_of()
    still = AugmentSpec(warp=1, warp_scale=0, warp_deg=0, warp_shift=0)
    np.testing.assert_allclose(warped(cloud, still, np.random.default_rng(0)).xyz, cloud.xyz, atol=1e-5)
    shift = AugmentSpec(warp=1, warp_scale=0, warp_deg=0, warp_shift=0.2)
    moved = warped(cloud, shift, np.random.default_rng(0)).xyz - cloud.xyz
    assert 0.01 < np.abs(moved).max() <= 0.2
    assert moved.std(axis=0).max() > 0.005  # parts of it differently
    near = PointCloud(cloud.xyz + np.float32(1e-3))
    both = PointCloud(np.concatenate([cloud.xyz, near.xyz]))
    found = warped(both, AugmentSpec(warp=1), np.random.default_rng(1)).xyz
    assert np.abs(found[:400] - found[400:]).max() < 1e-2
    assert warped(cloud_of(2), AugmentSpec(warp=1), np.random.default_rng(0)).xyz.shape == (2, 3)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_tilt_leans_the_up_axis(up: Axis) -> None:
    axis = "xyz".index(up)
    pole = PointCloud(np.eye(3, dtype=np.float32))
    leans, sides = [], []
    for seed in range(50):
        found = augment(pole, AugmentSpec.model_validate({**STILL, "tilt_deg": 20}), np.random.default_rng(seed), up).xyz
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
        leans.append(np.degrees(np.arccos(np.clip(found[axis, axis], -1, 1))))
        sides.append(np.delete(found[axis], axis))
    assert 15 < max(leans) <= 20.01
    assert np.ptp(np.arctan2(*np.transpose(sides))) > 4


def test_p_rotate_is_how_often() -> None:
    spec = AugmentSpec.model_validate({**STILL, "rotate_deg": 180, "p_rotate": 0.25})
    turned = [not np.array_equal(augment(cloud_of(), spec, np.random.default_rng(seed)).xyz, cloud_of().xyz) for seed in range(200)]
    assert 0.15 < np.mean(turned) < 0.35


def test_scenes_are_not_bent() -> None:
    for key, value in (("cut", 0.1), ("strays", 0.1), ("warp", 0.1)):
        with pytest.raises(Exception, match=f"augment.{key}: is for nets that name whole clouds"):
            load_recipe("paired-lidar19", {f"augment.{key}": value})
    with pytest.raises(ValidationError):
        AugmentSpec(cut=1.0)


def test_samples_normalise_what_is_left() -> None:
    xyz = np.random.default_rng(0).normal(size=(1, 500, 3)).astype(np.float32)
    clouds = LabelledClouds(xyz, np.zeros(1, np.int64), ("a",))
    recipe = load_recipe("paper-modelnet40", {"augment.cut": 0.4, **{f"augment.{key}": value for key, value in STILL.items()}})
    samples = CloudSamples(clouds, recipe.input, recipe.augment)
    whole, part = samples.voxels(0), samples.voxels(0, np.random.default_rng(2))
    assert len(part.inverse) < len(whole.inverse)
    assert 0.95 < np.linalg.norm(part.feats, axis=1).max() <= 1.01  # features are the mean coordinates of voxels
