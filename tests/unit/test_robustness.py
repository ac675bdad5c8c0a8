"""Damages to clouds: each is what it is called, grows with its level, and is the same for every model."""

from pathlib import Path

import numpy as np
import pytest

from models.pointcloud import PointCloud
from training.augment import direction, rotation
from training.reproduce.robustness import DAMAGES, Found, damaged, page_of


@pytest.fixture(scope="module")
def cloud() -> PointCloud:
    xyz = np.random.default_rng(0).normal(size=(1000, 3))
    return PointCloud((xyz / np.linalg.norm(xyz, axis=1).max()).astype(np.float32))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damage_is_nothing_at_first_and_the_same_again(cloud: PointCloud, kind: str) -> None:
    first, *levels = DAMAGES[kind].levels
    assert first == 0
    assert np.array_equal(damaged(cloud, kind, first, "z", 3).xyz, cloud.xyz)
    for level in levels:
        found = damaged(cloud, kind, level, "z", 3).xyz
        assert found.shape != cloud.xyz.shape or not np.allclose(found, cloud.xyz, atol=1e-3)
        assert np.array_equal(damaged(cloud, kind, level, "z", 3).xyz, found)
    other = damaged(cloud, kind, levels[-1], "z", 4).xyz
    assert kind == "upright" or other.shape != found.shape or not np.array_equal(other, found)  # a half turn is one to either side


@pytest.mark.parametrize("level", [0.5, 0.875])
def test_thinned_clouds_are_parts(cloud: PointCloud, level: float) -> None:
    found = damaged(cloud, "thinned", level, "z", 0).xyz
    assert len(found) == round(1000 * (1 - level))
    assert {tuple(point) for point in found.tolist()} <= {tuple(point) for point in cloud.xyz.tolist()}


def test_a_side_that_is_cut_off_lies_behind_a_plane(cloud: PointCloud) -> None:
    found = {tuple(point) for point in damaged(cloud, "occluded", 0.3, "z", 0).xyz.tolist()}
    kept = np.array([tuple(point) in found for point in cloud.xyz.tolist()])
    assert kept.sum() == 700
    along = cloud.xyz @ direction(np.random.default_rng((list(DAMAGES).index("occluded"), 0)))
    assert along[kept].max() < along[~kept].min()


def test_uneven_clouds_are_thinner_towards_one_side(cloud: PointCloud) -> None:
    found = {tuple(point) for point in damaged(cloud, "uneven", 1.0, "z", 0).xyz.tolist()}
    kept = np.array([tuple(point) in found for point in cloud.xyz.tolist()])
    towards = cloud.xyz[~kept].mean(0) - cloud.xyz[kept].mean(0)
    order = np.argsort(cloud.xyz @ towards)
    shares = kept[order].reshape(10, 100).mean(1)
    assert shares[0] > 0.9
    assert shares[-1] < 0.15
    assert 0.4 < kept.mean() < 0.6


def test_jitter_and_strays(cloud: PointCloud) -> None:
    assert np.std(damaged(cloud, "jitter", 0.02, "z", 0).xyz - cloud.xyz) == pytest.approx(0.02, rel=0.1)
    moved = (damaged(cloud, "outliers", 0.1, "z", 0).xyz != cloud.xyz).any(1)
    assert moved.sum() == 100


@pytest.mark.parametrize("up", ["y", "z"])
def test_turning_about_up_leaves_heights(cloud: PointCloud, up: str) -> None:
    axis = "xyz".index(up)
    found = damaged(cloud, "upright", 30, up, 0).xyz  # type: ignore[arg-type]
    np.testing.assert_allclose(found[:, axis], cloud.xyz[:, axis], atol=1e-6)
    flat = [i for i in range(3) if i != axis]
    cosine = (found[:, flat] * cloud.xyz[:, flat]).sum(1) / (cloud.xyz[:, flat] ** 2).sum(1)
    np.testing.assert_allclose(cosine, np.cos(np.radians(30)), atol=1e-4)


def test_rotations_turn_by_their_angle_about_their_axis() -> None:
    axis = np.array([1.0, 2.0, 2.0]) / 3
    turned = rotation(axis, 40)
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turned @ axis, axis, atol=1e-12)
    assert np.trace(turned) == pytest.approx(1 + 2 * np.cos(np.radians(40)))
    np.testing.assert_allclose(rotation(np.array([0.0, 0.0, 1.0]), 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_one_point_far_outside_and_a_floor(cloud: PointCloud) -> None:
    far = damaged(cloud, "far", 3, "z", 0).xyz
    changed = (far != cloud.xyz).any(1)
    assert changed.sum() == 1
    assert np.linalg.norm(far[changed]) == pytest.approx(3, rel=1e-5)
    standing = damaged(cloud, "floor", 0.5, "z", 0).xyz
    assert np.array_equal(standing[:1000], cloud.xyz)
    assert len(standing) == 1500
    assert np.all(standing[1000:, 2] == cloud.xyz[:, 2].min())
    assert np.ptp(standing[1000:, :2], axis=0) == pytest.approx(2, abs=0.05)


def test_a_page_says_how_training_clouds_looked_where_that_is_known(tmp_path: Path) -> None:
    accuracy = {kind: [0.5] * len(damage.levels) for kind, damage in DAMAGES.items()}
    known, unknown = (Found(name, "d" * 64, "e" * 64, 10, "code", accuracy, learnt) for name, learnt in (("a", "upright"), ("b", "")))
    both, neither = page_of([known, unknown], tmp_path), page_of([unknown], tmp_path)
    assert "- a learnt from objects upright.\n\na (sha256" in both
    assert "learnt" not in neither
    assert "\n\n\n" not in both + neither
