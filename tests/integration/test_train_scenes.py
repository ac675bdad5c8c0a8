"""`fip train` on somebody's own scenes, end to end: a model that learnt, with a card of facts, scored as it is served."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.cli import run
from models.io import read_cloud
from models.predictor import Predictor
from models.registry import open_registry
from models.registry.verify import verify
from tests.scene_training import fip_train, made
from tests.street_scenes import CLASSES, IDS, write_street, write_streets
from training.datasets import read_scenes
from training.evaluate import evaluate_scenes
from training.image_weights import load_image_weights
from training.recipe import load_recipe
from training.run import training_splits
from training.runlog import read_scalars
from training.samples import SceneSamples

CHANCE = 0.17  # mIoU of an answer that is always the commonest class


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_streets(tmp_path_factory.mktemp("own") / "streets", *(f"{number}.ply" for number in range(10)))


@pytest.fixture(scope="module")
def published(streets: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run directory, registry) of a model that was trained on a folder and published as streets@champion."""
    run_dir, registry = tmp_path_factory.mktemp("runs") / "streets", tmp_path_factory.mktemp("registry") / "made"
    publish = ("--publish", "streets@champion", "--registry", str(registry))
    assert fip_train(streets, run_dir, image_file, "epochs=8", "batch_size=1", more=publish) == 0
    return run_dir, registry


def test_it_learns(published: tuple[Path, Path]) -> None:
    metrics = made(published[0]).metrics
    assert metrics["test_miou"] > 0.6 > 3 * CHANCE
    assert metrics["test_accuracy"] > 0.8
    rows = read_scalars(published[0])
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[-1]["val_miou"] > rows[0]["val_miou"]


def test_validation_counts_as_the_score_does(published: tuple[Path, Path]) -> None:
    """What the log says of the last epoch is what the card says of the published model, but for rounding."""
    last, metrics = read_scalars(published[0])[-1], made(published[0]).metrics
    assert last["val_miou"] == pytest.approx(metrics["validation_miou"], abs=2e-3)
    assert last["val_accuracy"] == pytest.approx(metrics["validation_accuracy"], abs=2e-3)


def test_what_was_published(published: tuple[Path, Path], streets: Path, image_file: Path) -> None:
    run_dir, registry = published
    (model,) = open_registry(str(registry)).versions("streets")
    assert (model.version, model.aliases) == (1, ("champion",))
    folder = open_registry(str(registry)).folder(model)
    manifest = verify(folder)
    assert (manifest.task, manifest.labels) == ("segment", CLASSES)
    assert manifest.label_map is not None
    assert [each.ids for each in manifest.label_map.classes] == [(40,), (50,), (80,)]
    assert (manifest.network.decoder, manifest.network.name) == ("listing", "cifar_resnet20")
    assert [each.name for each in manifest.input.features] == ["x", "y", "z", "red", "green", "blue", "intensity"]
    provenance, recipe = manifest.provenance, load_recipe(str(run_dir / "recipe.yaml"))
    assert provenance.recipe_sha256 == recipe.digest == load_recipe(str(folder / "recipe.yaml")).digest
    assert provenance.weights_2d_sha256 == load_image_weights(str(image_file)).sha256
    assert (provenance.dataset, provenance.init, provenance.seed) == ("streets", "image", 0)
    assert not (run_dir / "cache").exists()


def test_the_card_has_the_facts(published: tuple[Path, Path]) -> None:
    folder = published[0] / "checkpoint"
    card, manifest = (folder / "README.md").read_text(), made(published[0])
    metrics, provenance = manifest.metrics, manifest.provenance
    for score in ("test_miou", "test_accuracy", "test_mean_class_accuracy", "validation_miou"):
        assert f"{metrics[score]:.2%}" in card, score
    for fact in (provenance.recipe_sha256, provenance.dataset_sha256, provenance.weights_2d_sha256, provenance.code_version):
        assert fact is not None
        assert fact in card
    for heading in ("Intended use", "Scores", "Data", "Limits", "Provenance", "Licences"):
        assert f"\n## {heading}\n" in card
    assert "streets: 7 to train, 1 to validate, 2 to test scenes." in card
    assert "2 of 10 files are set aside to test on by the seed" in card
    assert "as a U-Net, decoder of the listing" in card
    assert "Files may lack red, green, blue, intensity" in card
    assert f"Without intensity its mIoU on the test scenes is {metrics['test_miou_without_intensity']:.2%}." in card
    details = json.loads((folder / "metrics.json").read_text())
    for name, iou in details["class_iou"].items():
        assert f"{iou:.1%} |" in card, name
    assert details["class_iou"].keys() == set(CLASSES)
    assert np.mean(list(details["class_iou"].values())) == pytest.approx(metrics["test_miou"])
    assert len(details["epochs"]) == 8
    assert (folder / "curve.png").stat().st_size > 1000


def test_evaluate_repeats_the_numbers_of_the_manifest(
    published: tuple[Path, Path], streets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "streets", "--registry", str(published[1]), "--data", str(streets), "--json", "--threads", "1"]) == 0
    said = capsys.readouterr()
    found, metrics = json.loads(said.out), made(published[0]).metrics
    names = ("miou", "miou_low", "miou_high", "accuracy", "mean_class_accuracy", "scenes", "points")
    assert {name: found[name] for name in names} == {name: metrics[f"test_{name}"] for name in names}
    assert "the test split of the folder that the model was trained on" in said.err
    assert np.array(found["confusions"]).sum() == metrics["test_points"]
    assert run(["evaluate", "streets", "--registry", str(published[1]), "--data", str(streets), "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert f"mIoU {metrics['test_miou']:.2%}" in said.out
    assert "pole" in said.out


def test_elsewhere_the_note_says_so(published: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_streets(tmp_path, "test/a.ply", "train/b.ply", first=50)
    assert run(["evaluate", str(published[0] / "checkpoint"), "--data", str(tmp_path), "--json", "--threads", "1"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["scenes"] == 1
    assert "another folder than the model was trained on" in said.err
    assert json.loads(said.out)["miou"] > 0.5


def test_every_point_is_given_the_class_that_was_scored(published: tuple[Path, Path], streets: Path, tmp_path: Path) -> None:
    folder = open_registry(str(published[1])).folder(open_registry(str(published[1])).versions("streets")[0])
    predictor = Predictor.load(folder)
    path = write_street(tmp_path / "new.ply", 77)
    cloud = read_cloud(path)
    (found,) = predictor.segment([predictor.voxelize(cloud)])
    assert len(found.labels) == len(cloud)
    truth = np.asarray(cloud.extra["label"])
    assert (IDS[found.labels] == truth)[truth > 0].mean() > 0.8
    write_streets(tmp_path / "own", "test/a.ply", "train/a.ply", first=77)
    report = evaluate_scenes(predictor, read_scenes("labelled", tmp_path / "own", "test"))
    assert report.total.accuracy == (IDS[found.labels] == truth)[truth > 0].mean()


def test_the_model_is_served_the_voxels_that_it_learnt_from(published: tuple[Path, Path], streets: Path) -> None:
    """By its manifest and from the bytes of the files alone."""
    predictor = Predictor.load(published[0] / "checkpoint")
    scenes = read_scenes("labelled", streets, "train")
    samples = SceneSamples(scenes, load_recipe(str(published[0] / "recipe.yaml")).input)
    for row, title in enumerate(scenes.titles):
        served, trained = predictor.voxelize(read_cloud(streets / title)), samples.sample(row).voxels
        for name in ("coords", "feats", "inverse"):
            assert getattr(served, name).tobytes() == getattr(trained, name).tobytes(), (title, name)


def test_scores_without_a_feature_are_those_of_files_without_it(
    published: tuple[Path, Path], streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Feature dropout made the model one for such files; what its card says of them is what evaluation of them finds."""
    metrics = made(published[0]).metrics
    tested = training_data_of(published[0], streets)
    shutil.copytree(streets, tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*.ply"):
        write_street(path, int(path.stem), colour=False)
    bare = read_scenes("labelled", tmp_path / "bare", "test")
    assert bare.titles == tested
    report = evaluate_scenes(Predictor.load(published[0] / "checkpoint"), bare)
    assert report.miou == metrics["test_miou_without_rgb"]
    assert report.miou > 2 * CHANCE
    assert metrics["test_miou_without_intensity"] > 2 * CHANCE
    assert metrics["test_miou_without_intensity"] != metrics["test_miou"]


def training_data_of(run_dir: Path, root: Path) -> tuple[str, ...]:
    """Titles of the test scenes; the digest in the manifest is that of the training scenes."""
    train = read_scenes("labelled", root, "train")
    recipe = load_recipe(str(run_dir / "recipe.yaml"))
    assert training_splits(recipe, train).train.digest == made(run_dir).provenance.dataset_sha256
    return tuple(read_scenes("labelled", root, "test").titles)


def test_the_same_command_does_not_score_or_publish_twice(
    published: tuple[Path, Path], streets: Path, image_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (published[0] / "checkpoint" / "manifest.json").read_bytes()
    publish = ("--publish", "streets@champion", "--registry", str(published[1]))
    assert fip_train(streets, published[0], image_file, "epochs=8", "batch_size=1", more=publish) == 0
    assert (published[0] / "checkpoint" / "manifest.json").read_bytes() == before
    said = capsys.readouterr().out
    assert "streets:1 was published before" in said
    assert "scoring on" not in said
    assert "voxel_size 0." not in said  # it was given: what the data would have said is of no interest
