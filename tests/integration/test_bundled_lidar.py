"""The LiDAR model that ships with the service: whole, small, documented, and on real scans what its card says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artefact import sha256_of
from models.checkpoint import load_checkpoint
from models.io import read_cloud
from models.labels import load_label_map
from models.predictor import Predictor
from models.registry import Catalogue
from models.registry.verify import verify
from tests import stored_lidar
from training.datasets import read_scenes
from training.evaluate import evaluate_scenes
from training.recipe import load_recipe

NAME = "lidar19"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(Catalogue().locate(NAME)[0])


def test_it_is_whole_small_and_documented() -> None:
    folder = Catalogue().locate(NAME)[0]
    manifest = verify(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
    assert manifest.label_map == load_label_map("semantickitti19")
    card = (folder / "README.md").read_text(encoding="utf-8")
    for score in ("test_miou", "test_miou_without_intensity", "test_accuracy"):
        assert f"{manifest.metrics[score]:.2%}" in card
    assert manifest.metrics["test_scenes"] == 5
    assert "Never seen in training" in card
    assert "uncommitted" not in manifest.provenance.code_version
    assert (manifest.provenance.init, manifest.provenance.mode) == ("image", "all")


def test_its_recipe_is_the_bundled_one() -> None:
    folder = Catalogue().locate(NAME)[0]
    digest = load_checkpoint(folder).manifest.provenance.recipe_sha256
    assert load_recipe("bundled-lidar19").digest == digest
    assert load_recipe(str(folder / "recipe.yaml")).digest == digest


def test_it_is_the_default_segmenter() -> None:
    assert Catalogue().default("segment") == NAME


@pytest.mark.data
def test_its_2d_weights_are_the_published_file(data_dir: Path) -> None:
    made = load_checkpoint(Catalogue().locate(NAME)[0]).manifest.provenance
    assert made.weights_2d is not None
    assert sha256_of(data_dir / "weights" / made.weights_2d) == made.weights_2d_sha256


@pytest.mark.data
def test_on_the_scans_held_out_it_is_as_good_as_its_card_says(data_dir: Path, tmp_path: Path, predictor: Predictor) -> None:
    kitti = stored_lidar.write(data_dir, tmp_path)
    metrics = predictor.manifest.metrics
    scenes = read_scenes("semantickitti", kitti, "val")
    for without, name in (((), "test_miou"), (("intensity",), "test_miou_without_intensity")):
        report = evaluate_scenes(predictor, scenes, without=without)
        assert report.miou == pytest.approx(metrics[name], abs=2e-4)  # engines and processors differ in their last bits
    train = read_scenes("semantickitti", kitti, "train")
    assert train.digest == predictor.manifest.provenance.dataset_sha256
    assert not set(train.titles) & set(scenes.titles)


@pytest.mark.data
def test_the_order_of_the_points_and_what_lies_beside_them_change_nothing(data_dir: Path, predictor: Predictor) -> None:
    cloud = read_cloud(data_dir / "semantickitti" / "sequences" / "08" / "velodyne" / "000000.bin")
    (found,) = predictor.segment([predictor.voxelize(cloud)])
    rows = np.random.default_rng(0).permutation(len(cloud))
    shuffled, bare = predictor.segment([predictor.voxelize(cloud.take(rows)), predictor.voxelize(replace(cloud, intensity=None))])
    assert len(found.labels) == len(cloud) == 123_389
    assert (shuffled.labels == found.labels[rows]).mean() > 0.9999  # sums of features in another order round otherwise
    assert bare.filled == ("intensity",)
    assert found.filled == ()
