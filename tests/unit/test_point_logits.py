"""The logits of points, where they are asked for: those of the net on the whole cloud, in however many parts it goes through it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from models.devoxelize import trilinear
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.segmenting import InOne, InTiles, segmenting
from models.tiling import TileSize
from tests.untrained_segmenter import save_segmenter


@pytest.fixture(scope="module")
def cloud() -> PointCloud:
    """6,000 points along 150 m of a street."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform([0, -8, -1], [150, 8, 3], (6000, 3)).astype(np.float32)
    return PointCloud(xyz, intensity=rng.random(len(xyz)).astype(np.float32))


@pytest.fixture(scope="module", params=["nearest", "trilinear"])
def predictor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("registry") / "net" / "1"
    save_segmenter(folder, "net", devoxelize=request.param)
    return Predictor.load(folder)


@pytest.fixture(scope="module")
def whole(predictor: Predictor, cloud: PointCloud) -> np.ndarray:
    """Logits (N, L) by another way."""
    voxels = predictor.voxelize(cloud)
    logits = predictor.logits(voxels).numpy()
    return logits[voxels.inverse] if voxels.grid is None else trilinear(logits, voxels)


@pytest.mark.parametrize(("voxels", "kind"), [(100_000, InOne), (4000, InTiles)])
def test_logits_are_those_of_the_whole_cloud(predictor: Predictor, cloud: PointCloud, whole: np.ndarray, voxels: int, kind: type) -> None:
    work = segmenting(predictor, cloud, tile=TileSize(voxels), logits=True)
    assert isinstance(work, kind)
    assert (work.parts > 1) == (kind is InTiles)
    for part in reversed(range(work.parts)):
        piece = work.voxelize(part)
        work.take(part, piece, predictor.logits(piece))
    found = work.result()
    assert found.logits is not None
    assert found.logits.dtype == np.float32
    assert found.logits.shape == (len(cloud), 19)
    assert_allclose(found.logits, whole, atol=1e-5)
    assert_array_equal(found.logits.argmax(axis=1), found.labels)
    [solo] = predictor.segment([predictor.voxelize(cloud)])
    assert_array_equal(found.labels, solo.labels)
    assert solo.logits is None


def test_logits_are_not_kept_unasked(predictor: Predictor, cloud: PointCloud) -> None:
    work = segmenting(predictor, cloud)
    voxels = work.voxelize(0)
    work.take(0, voxels, predictor.logits(voxels))
    assert work.result().logits is None
