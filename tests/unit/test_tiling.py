"""Tiles: whatever a cloud is cut into, every point gets the answer it would get in one piece."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from models import segmenting
from models.errors import BadOption, ExtentTooLarge, MissingFeature, NonFinite, TooManyVoxels
from models.manifest import FeatureSpec, InputSpec, NetworkSpec
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.segmenting import segment_cloud
from models.sparse.tensor import collate
from models.tiling import TILE, Reach, TiledCloud, TileSize
from models.unet3d import UNet3d, reach_of
from models.voxelize import Voxels, prepare, voxelize
from models.zoo import build
from tests.sweep import sweep
from tests.untrained_segmenter import save_segmenter

SIZE_M = 0.2


def street(n: int = 20_000, length_m: float = 400.0, seed: int = 0) -> PointCloud:
    """A road with walls along it, so long that it is worth cutting; intensities 0..1."""
    rng = np.random.default_rng(seed)
    along = rng.uniform(0, length_m, n)
    across = rng.uniform(-8, 8, n)
    wall = rng.random(n) < 0.4
    xyz = np.stack([along, np.where(wall, np.sign(across) * 8, across), np.where(wall, rng.uniform(0, 6, n), 0)], axis=1)
    return PointCloud(xyz.astype(np.float32), intensity=rng.random(n).astype(np.float32))


def spec(**changes: object) -> InputSpec:
    features = (FeatureSpec(name="z"), FeatureSpec(name="intensity", scale=2.0, offset=-1.0))
    return InputSpec.model_validate({"features": features, "voxel_size": SIZE_M} | changes)


@pytest.fixture(scope="module", params=["nearest", "trilinear"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("net") / "1"
    save_segmenter(folder, "streets", devoxelize=request.param)
    return Predictor.load(folder)


@pytest.fixture(autouse=True)
def _piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds of any size go the way of large ones."""
    monkeypatch.setattr(segmenting, "POINTS_AT_ONCE", 0)


def whole(predictor: Predictor, cloud: PointCloud, **options: str) -> tuple[np.ndarray, np.ndarray]:
    [found] = predictor.segment([predictor.voxelize(cloud, **options)])  # type: ignore[arg-type]
    return found.labels, found.confidence


@pytest.mark.parametrize(
    ("name", "decoder", "blur"),
    [
        *(("cifar_resnet20", decoder, blur) for decoder in ("listing", "reference") for blur in (False, True)),
        ("resnet18", "listing", False),
        ("resnet50", "reference", False),
        ("res16unet34c", "reference", False),
    ],
)
def test_a_net_sees_no_further_than_its_reach(name: str, decoder: str, blur: bool) -> None:
    """With weights that all add up, the gradient of an answer is not 0 exactly where a net sees: within the reach, and not far within."""
    net = build(NetworkSpec.model_validate({"name": name, "in_channels": 1, "num_classes": 2, "decoder": decoder, "blur": blur})).eval()
    assert isinstance(net, UNet3d)
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 1 / parameter.shape[-2] if parameter.ndim > 1 else 0.5)
    stride, radius = reach_of(net)
    length, cell = 2 * radius + 6 * stride, radius + 3 * stride
    line = np.stack([np.arange(length), np.zeros(length), np.zeros(length)], axis=1).astype(np.int32)
    x = collate([Voxels(line, np.ones((length, 1), np.float32), np.arange(length))], "cpu")
    feats = x.feats.clone().requires_grad_()
    for near in (cell, cell + stride // 2, cell + stride - 1):  # wherever a voxel lies in its coarse cells
        feats.grad = None
        net(x.with_feats(feats))[near].sum().backward()
        assert feats.grad is not None
        seen = np.abs(np.flatnonzero(feats.grad.numpy()) - near).max()
        assert 0.7 * radius < seen <= radius


@pytest.mark.parametrize("voxels", [100_000, 5_000])
def test_tiled_is_untiled(predictor: Predictor, voxels: int) -> None:
    cloud = street()
    labels, confidence = whole(predictor, cloud)
    found = segment_cloud(predictor, cloud, tile=TileSize(voxels))
    assert (found.tiles > 2) == (voxels == 5_000)
    assert found.num_voxels == len(predictor.voxelize(cloud))
    assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-5)
    assert (found.halo, found.full_halo) == (116, 116)


def test_the_order_of_points_changes_nothing(predictor: Predictor) -> None:
    cloud = street()
    order = np.random.default_rng(1).permutation(len(cloud))
    tile = TileSize(5_000)
    first, second = segment_cloud(predictor, cloud, tile=tile), segment_cloud(predictor, cloud.take(order), tile=tile)
    assert (first.labels[order] == second.labels).mean() >= 0.9999
    np.testing.assert_allclose(first.confidence[order], second.confidence, atol=1e-4)


@pytest.mark.parametrize("options", [{"unit": "cm"}, {"up": "y"}, {"unit": "ft", "up": "x"}])
def test_what_the_caller_says_of_the_file(predictor: Predictor, options: dict[str, str]) -> None:
    cloud = street(6000)
    cloud = dataclasses.replace(cloud, xyz=cloud.xyz * np.float32(100 if options.get("unit") == "cm" else 1))
    labels, confidence = whole(predictor, cloud, **options)
    found = segment_cloud(predictor, cloud, tile=TileSize(20_000), **options)  # type: ignore[arg-type]
    assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-5)


def test_coordinates_of_a_survey_grid_lose_nothing(predictor: Predictor) -> None:
    cloud = street()
    near = cloud.xyz.astype(np.float64)
    far = dataclasses.replace(cloud, xyz=near + np.array([512_000.0, 5_403_072.0, 0.0]))
    tile = TileSize(5_000)
    first, second = segment_cloud(predictor, dataclasses.replace(cloud, xyz=near), tile=tile), segment_cloud(predictor, far, tile=tile)
    assert (first.labels == second.labels).mean() > 0.9999  # the sum rounds by 1e-9 m: a point on the face of a voxel may change sides
    np.testing.assert_array_equal(second.labels, whole(predictor, far)[0])


@pytest.mark.parametrize("rounding", ["corrected", "reference"])
@pytest.mark.parametrize("feature", ["corrected", "reference"])
@pytest.mark.parametrize("points", [1, 37, 20_000])
def test_voxels_of_tiles_are_those_of_the_cloud(rounding: str, feature: str, points: int) -> None:
    """Without a margin: all tiles together have each voxel once, with the same features."""
    cloud, how = street(points), spec(rounding=rounding, voxel_feature=feature)
    tiled = TiledCloud(cloud, how, Reach(8, 50), TileSize(800, halo=0))
    expected = voxelize(prepare(cloud, how), how)
    assert tiled.num_voxels == len(expected)
    found: dict[tuple[int, ...], np.ndarray] = {}
    rows = []
    for tile in tiled.tiles:
        voxels = tiled.voxelize(tile)
        assert len(voxels) == tile.num_voxels <= 800
        assert (np.diff(np.ravel_multi_index(tuple(voxels.coords.T), (4000, 400, 400))) > 0).all()  # ascending
        assert (tile.base % 8 == 0).all()
        cells = voxels.coords + tile.base
        found |= dict(zip(map(tuple, cells.tolist()), voxels.feats, strict=True))
        for part, grid, inverse in tiled.points(tile, voxels):
            assert grid is None
            rows.append(part)
            assert_array_equal(cells[inverse], expected.coords[expected.inverse[part]])
    assert len(found) == len(expected)
    np.testing.assert_allclose([found[tuple(cell)] for cell in expected.coords.tolist()], expected.feats, rtol=1e-6, atol=1e-7)
    assert_array_equal(np.sort(np.concatenate(rows)), np.arange(points))  # every point once
    assert (len(tiled.tiles) > 5) == (points == 20_000)


def test_many_points_in_one_place() -> None:
    """All in one voxel but two: no piece of work grows with them."""
    rng = np.random.default_rng(0)
    xyz = np.concatenate([rng.uniform(0, 0.1, (400_000, 3)), [[50, 50, 50], [0, 0, 0]]])
    cloud, how = PointCloud(xyz, intensity=rng.random(len(xyz)).astype(np.float32)), spec()
    tiled = TiledCloud(cloud, how, Reach(8, 20), TileSize(10))
    expected = voxelize(cloud, how)
    [voxels] = [tiled.voxelize(tile) for tile in tiled.tiles]
    assert_array_equal(voxels.coords, expected.coords)
    np.testing.assert_allclose(voxels.feats, expected.feats, rtol=1e-6)


def test_a_margin_that_is_told_to_be_narrow_is_told_of(predictor: Predictor) -> None:
    cloud = street()
    found = segment_cloud(predictor, cloud, tile=TileSize(2_000, halo=16))
    assert (found.halo, found.full_halo) == (16, 116)
    assert found.tiles > 5
    wide = segment_cloud(predictor, cloud, tile=TileSize(5_000, halo=1000))
    assert (wide.halo, wide.full_halo) == (116, 116)


def test_a_tile_that_cannot_be_small_enough(predictor: Predictor) -> None:
    with pytest.raises(TooManyVoxels, match=r"a margin of 128 have up to \d+ voxels, and tile_voxels is 300;.* or tile_halo"):
        segment_cloud(predictor, street(), tile=TileSize(300))


def test_a_cloud_in_a_unit_sphere(predictor: Predictor) -> None:
    """Scaled by the mean and the farthest point of all, not of a tile."""
    cloud, how = street(5000), spec(normalise="unit_sphere", voxel_size=0.01)
    tiled = TiledCloud(cloud, how, Reach(8, 16), TileSize(1000, halo=0))
    expected = voxelize(prepare(cloud, how), how)
    assert tiled.num_voxels == len(expected)
    assert sum(len(tiled.voxelize(tile)) for tile in tiled.tiles) == len(expected)
    assert len(tiled.tiles) > 2


def test_what_is_wrong_with_a_cloud_is_said_before_anything_is_computed(predictor: Predictor) -> None:
    cloud = street(1000)
    broken = cloud.xyz.copy()
    broken[7, 1] = np.nan
    with pytest.raises(NonFinite, match="point 7"):
        segment_cloud(predictor, dataclasses.replace(cloud, xyz=broken))
    with pytest.raises(ExtentTooLarge):
        segment_cloud(predictor, dataclasses.replace(cloud, xyz=cloud.xyz * np.float32(1e5)))
    with pytest.raises(BadOption, match="unit"):
        segment_cloud(predictor, cloud, unit="furlong")
    with pytest.raises(MissingFeature, match="intensity"):
        TiledCloud(PointCloud(cloud.xyz), spec(), Reach(8, 50), TILE)


def test_intensities_are_scaled_by_the_largest_of_all(predictor: Predictor) -> None:
    """One bright point decides about the range of a file, in whichever tile it is."""
    cloud = street()
    assert cloud.intensity is not None
    bright = cloud.intensity * np.float32(0.9)
    bright[-1] = 200
    manifest = predictor.manifest.model_copy(update={"largest_intensity": 1.0})
    scaled = Predictor(predictor._net, manifest)
    one = dataclasses.replace(cloud, intensity=bright)
    found = segment_cloud(scaled, one, tile=TileSize(5_000))
    assert found.scaled == ("intensity",)
    np.testing.assert_allclose(found.confidence, whole(scaled, one)[1], atol=1e-5)


def test_progress(predictor: Predictor) -> None:
    told: list[tuple[int, int]] = []
    found = segment_cloud(predictor, street(), tile=TileSize(5_000), progress=lambda done, parts: told.append((done, parts)))
    assert told == [(part, found.tiles) for part in range(found.tiles + 1)]


def test_small_clouds_go_in_one_piece(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cloud = PointCloud(sweep(0)[:, :3], intensity=np.ascontiguousarray(sweep(0)[:, 3]))
    found = segment_cloud(predictor, cloud)
    assert (found.tiles, found.halo) == (1, 0)
    assert_array_equal(found.labels, whole(predictor, cloud)[0])


@pytest.mark.parametrize("points", [0, 100_000])
def test_sparse_clouds_have_few_blocks(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly two points in a block of the smallest size: blocks grow, all points are in one of them, and voxels are counted as they are."""
    monkeypatch.setattr("models.tiling.FEW_BLOCKS", 500)
    rng = np.random.default_rng(0)
    xyz = np.concatenate([rng.uniform(0, 3000, (20_000, 3)), rng.uniform(0, 2, (points, 3))])  # and many in a corner of it
    cloud, how = PointCloud(xyz, intensity=np.zeros(len(xyz), np.float32)), spec()
    tiled = TiledCloud(cloud, how, Reach(8, 20), TileSize(6000))
    blocks = tiled._blocks
    assert blocks.side in (2**power * 16 for power in range(1, 12))
    assert len(blocks.coords) <= max(500, len(xyz) // 8)
    expected = voxelize(cloud, how)
    cells = expected.coords // blocks.side
    found, counts = np.unique(cells, axis=0, return_counts=True)
    assert_array_equal(blocks.coords, found)
    assert_array_equal(blocks.voxels, counts)
    rows = np.concatenate(list(blocks.rows(np.arange(len(found)))))
    assert_array_equal(np.sort(rows), np.arange(len(xyz)))
    assert_array_equal(blocks.points, np.unique(cells[expected.inverse], axis=0, return_counts=True)[1])


def test_the_largest_region_is_found(predictor: Predictor) -> None:
    """A tile of as many voxels as the refusal asks for is large enough."""
    cloud = street(5000)
    with pytest.raises(TooManyVoxels, match="have up to") as refused:
        segment_cloud(predictor, cloud, tile=TileSize(300))
    needed = int(str(refused.value).split("up to ")[1].split()[0])
    assert segment_cloud(predictor, cloud, tile=TileSize(needed)).tiles > 1
    with pytest.raises(TooManyVoxels):
        segment_cloud(predictor, cloud, tile=TileSize(needed - 1))
