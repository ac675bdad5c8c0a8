"""Clouds as pictures: pixels against a dictionary of them, views that are turned, and filters that are those of the image."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.manifest import Axis, FeatureSpec, InputSpec, VoteSpec
from models.pointcloud import PointCloud
from models.sparse.nn import SparseConv3d
from models.sparse.tensor import collate
from models.voxelize import Voxels, voxelize
from training.inflate import InflateSpec, inflate_kernel
from training.recipe import load_recipe

NAMES = ("one", "near", "far", "count", "x", "z")


def spec(count: int = 1, **changes: object) -> InputSpec:
    features = [{"name": name} for name in NAMES]
    return InputSpec.model_validate({"features": features, "voxel_size": 0.25, "views": {"count": count}, **changes})


def cloud_of(points: int = 300) -> PointCloud:
    return PointCloud(np.random.default_rng(0).normal(size=(points, 3)).astype(np.float32))


def parts(voxels: Voxels) -> list[np.ndarray]:
    """Rows of each of the views."""
    gaps = np.flatnonzero(np.diff(voxels.coords[:, 0]) > 64) + 1
    return np.split(np.arange(len(voxels)), gaps)


def test_pixels_hold_what_is_known_of_their_points() -> None:
    cloud = cloud_of()
    found = voxelize(cloud, spec())
    pixels = defaultdict(list)
    low = cloud.xyz.min(axis=0)
    for point in cloud.xyz:
        x, _, z = ((point - low) / np.float32(0.25)).astype(int)
        pixels[x, 0, z].append(point)
    assert [tuple(row) for row in found.coords.tolist()] == sorted(pixels)
    for row, cell in enumerate(sorted(pixels)):
        points = np.array(pixels[cell])
        expected = [1, points[:, 1].min(), points[:, 1].max(), math.log2(len(points)), points[:, 0].mean(), points[:, 2].mean()]
        np.testing.assert_allclose(found.feats[row], expected, atol=1e-5)
    assert all(len(pixels[tuple(found.coords[voxel])]) > 0 for voxel in found.inverse)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_views_are_turned_about_the_up_axis(up: Axis) -> None:
    depth: Axis = "y" if up == "x" else "z" if up == "y" else "y"
    cloud = cloud_of()
    asked = spec(4, up=up, views={"count": 4, "depth": depth}, features=[{"name": name} for name in ("near", "far", "x", "y", "z")])
    found = voxelize(cloud, asked)
    rows = parts(found)
    assert len(rows) == 4
    heights = "xyz".index(up)
    deep = "xyz".index(depth)
    wide = 3 - heights - deep
    first, quarter, half, _ = (found.feats[each] for each in rows)
    assert half[:, 0].min() == pytest.approx(-first[:, 1].max(), abs=1e-5)  # what was far is near from behind
    seen = {round(float(feats[:, 1].max()), 4) for feats in (first, quarter, half)}
    sides = {round(float(value), 4) for axis in (deep, wide) for value in (cloud.xyz[:, axis].max(), -cloud.xyz[:, axis].min())}
    assert seen <= sides
    for feats in (first, quarter, half):
        np.testing.assert_allclose(
            [feats[:, 2 + heights].min(), feats[:, 2 + heights].max()],
            [cloud.xyz[:, heights].min(), cloud.xyz[:, heights].max()],
            atol=0.25,
        )
    assert (found.coords[:, deep] == 0).all()


def test_an_inflated_filter_is_that_of_the_image() -> None:
    """On a view, of which every pixel is there, a convolution is the 2D one it was made from."""
    torch.manual_seed(0)
    weight = torch.randn(7, len(NAMES), 3, 3)
    conv = SparseConv3d(len(NAMES), 7, 3)
    conv.weight.data = inflate_kernel(weight, InflateSpec())  # repeated along y, height along z, width along x
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(2), np.arange(5), indexing="ij"), axis=-1).reshape(-1, 3)
    xyz = ((grid + np.random.default_rng(0).uniform(0.01, 0.99, grid.shape)) * [0.25, 0.5, 0.25]).astype(np.float32)
    xyz = np.concatenate([xyz, [[0, 0, 0]]]).astype(np.float32)  # a corner, from which cells are counted
    voxels = voxelize(PointCloud(xyz), spec())
    assert len(voxels) == 40
    picture = torch.from_numpy(voxels.feats.reshape(8, 5, -1)).permute(2, 1, 0)[None]  # (1, C, height z, width x)
    expected = torch.nn.functional.conv2d(picture, weight, padding=1)
    found = conv(collate([voxels])).feats.reshape(8, 5, -1).permute(2, 1, 0)[None]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_votes_are_of_all_views() -> None:
    cloud = cloud_of()
    voted = voxelize(cloud, spec(3, votes={"count": 2}))
    alone = voxelize(cloud, spec(3))
    assert voted.variants
    assert (len(alone), len(voted)) == (voted.variants[0], sum(voted.variants))
    assert len(parts(replace(voted, coords=voted.coords[len(alone) :], feats=voted.feats[len(alone) :], variants=None))) == 3
    assert np.array_equal(voted.coords[: len(alone)], alone.coords)
    assert np.array_equal(voted.feats[: len(alone)], alone.feats)


def test_what_views_and_votes_are_not_for() -> None:
    with pytest.raises(ValidationError, match="the up axis is y"):
        spec(up="y")
    with pytest.raises(ValidationError, match="near is a depth; say views"):
        InputSpec(features=(FeatureSpec(name="near"),), voxel_size=0.1)
    for changes, what in (
        ({"input.votes": {"count": 2}}, "votes"),
        ({"input.views": {"count": 2}}, "views"),
        ({"input.features": [{"name": "count"}]}, "features: count"),
    ):
        with pytest.raises(Exception, match=f"input.{what}: is for nets that name whole clouds"):
            load_recipe("paired-lidar19", changes)
    assert InputSpec(features=(), voxel_size=1.0, votes=VoteSpec(count=2)).whole_only == "votes"
