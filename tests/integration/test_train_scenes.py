"""`fip train` on scenes, end to end on small made-up streets: what is learnt, published, scored, refused, and gone on with."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint
from models.cli import run
from models.io import read_cloud
from models.manifest import Manifest
from models.predictor import Predictor
from models.registry import open_registry
from models.registry.verify import verify
from tests.street_scenes import CLASSES, IDS, LABELS_YAML, write_kitti, write_street, write_streets
from training.datasets import read_scenes
from training.evaluate import evaluate_scenes
from training.image_weights import load_image_weights
from training.recipe import load_recipe
from training.run import start, training_splits
from training.runlog import read_scalars
from training.runstate import BEST, STATE, read_state, read_weights, write

SMALL = ("input.voxel_size=0.4", "batch_size=2", "half=false", "augment.drop=0")
CHANCE = 0.17  # mIoU of an answer that is always the commonest class


def settings(*changes: str) -> list[str]:
    return ["--threads", "1", *(part for change in (*SMALL, *changes) for part in ("--set", change))]


def fip_train(
    data: Path, run_dir: Path, image_file: Path | None, *changes: str, recipe: str = "finetune-points", more: tuple[str, ...] = ()
) -> int:
    """From random weights where there is no image file."""
    weights = ["--init", "scratch"] if image_file is None else ["--weights", str(image_file)]
    return run(["train", recipe, "--data", str(data), "--run-dir", str(run_dir), *weights, *settings(*changes), *more])


def made(run_dir: Path) -> Manifest:
    return load_checkpoint(run_dir / "checkpoint").manifest


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
    assert "of another folder than the model was trained on" in said.err
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


# SemanticKITTI


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kitti(tmp_path_factory.mktemp("kitti"), *(f"00/{frame:06d}" for frame in range(5)), "08/000000", "08/000001", "08/000007")


KITTI = ("epochs=2", "data.validation=0.2", "data.exclude=[08/000007]", "augment.mix=0.5", "augment.max_voxels=600")


def test_scans_with_frozen_filters(kitti: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mode iobn on SemanticKITTI: filters of the stages stay as they were inflated, their batch norms and all else move."""
    assert fip_train(kitti, tmp_path / "run", image_file, *KITTI, recipe="bundled-lidar19", more=("--mode", "iobn")) == 0
    manifest = verify(tmp_path / "run" / "checkpoint")
    assert (manifest.provenance.dataset, len(manifest.labels)) == ("semantickitti", 19)
    assert "CC BY-NC-SA" in " ".join(manifest.provenance.licences)
    assert manifest.metrics["test_scenes"] == 2  # of three, one is excluded
    recipe = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    before, after = start(recipe, 19, str(image_file)).net.state_dict(), load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, expanded(before[name], tensor))}
    filters = {name for name, tensor in before.items() if name.startswith("layer") and tensor.dim() == 3}
    assert len(filters) == 18
    assert not moved & filters
    assert {name for name in before if name.startswith("layer") and name.endswith("running_mean")} <= moved
    assert {"conv1.weight", "conv2.weight", "down.0.weight", "up1.up.0.weight", "up3.blocks.1.conv2.weight", "fc.bias"} <= moved
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run" / "checkpoint"), "--data", str(kitti), "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == manifest.metrics["test_miou"]


def expanded(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A filter as it is stored where repetitions are left out."""
    return tensor if tensor.shape == like.shape else tensor.unflatten(0, (3, 3, 3))[:, 0].flatten(0, 1)


@pytest.fixture(scope="module")
def as_the_reference(kitti: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a small copy of the recipe with all quirks."""
    run_dir = tmp_path_factory.mktemp("runs") / "reference"
    changes = ("network=cifar_resnet20", "epochs=3", "optim.lr=0.05", "schedule.warmup_epochs=0", "augment.max_voxels=900")
    assert fip_train(kitti, run_dir, image_file, *changes, recipe="semantickitti-reference") == 0
    return run_dir


def test_selection_as_the_reference_publishes_the_epoch_that_is_best_on_test(as_the_reference: Path, kitti: Path, image_file: Path) -> None:
    rows, metrics = read_scalars(as_the_reference), made(as_the_reference).metrics
    best = max(rows, key=lambda row: (row["val_miou"], row["epoch"]))
    assert metrics["epoch"] == best["epoch"]
    assert metrics["test_miou"] == pytest.approx(best["val_miou"], abs=2e-3)  # validation was on the test scans
    assert metrics["test_scenes"] == 3
    assert "validation_miou" not in metrics
    card = (as_the_reference / "checkpoint" / "README.md").read_text()
    assert "**The published epoch was chosen on the test scenes, as the reference code does: its test score is flattered.**" in card
    assert f"| test, epoch {best['epoch']:.0f} of 3, best on test (published) | 3 |" in card
    assert "validation" not in card.partition("## Scores")[2].partition("![")[0]
    assert "5 to train, 3 to test scenes" in card
    assert "decoder of the reference, with its blur" in card


def test_it_is_the_best_epoch_whose_weights_are_published(as_the_reference: Path, kitti: Path, image_file: Path, tmp_path: Path) -> None:
    shutil.copytree(as_the_reference, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    best = read_weights(tmp_path / "run" / BEST)
    best["fc.bias"] += 1.0  # so that best and last surely differ
    write(tmp_path / "run" / BEST, best)
    changes = ("network=cifar_resnet20", "epochs=3", "optim.lr=0.05", "schedule.warmup_epochs=0", "augment.max_voxels=900")
    assert fip_train(kitti, tmp_path / "run", image_file, *changes, recipe="semantickitti-reference") == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint").tensors["fc.bias"].equal(best["fc.bias"])


def test_empty_classes_as_the_reference_counts_them(as_the_reference: Path, kitti: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 of 19 classes have no points, and make most of the mean."""
    assert run(["evaluate", str(as_the_reference / "checkpoint"), "--data", str(kitti), "--json", "--threads", "1"]) == 0
    found, metrics = json.loads(capsys.readouterr().out), made(as_the_reference).metrics
    counts = np.array(found["confusions"]).sum(axis=0)
    right, points, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    there = points > 0
    assert there.sum() == 3
    ious = right[there] / (points + said - right)[there]
    assert metrics["test_miou"] == found["miou"] == pytest.approx((ious.sum() + 16) / 19)
    any_of_both = (points + said) > 0
    assert ious.sum() / any_of_both.sum() < metrics["test_miou"] - 0.2  # what it would be otherwise


def test_tied_filters(kitti: Path, image_file: Path, tmp_path: Path) -> None:
    assert fip_train(kitti, tmp_path / "run", image_file, *KITTI, "epochs=1", "inflate.tied=true", recipe="bundled-lidar19") == 0
    manifest = verify(tmp_path / "run" / "checkpoint")
    assert manifest.network.tied == "y"
    assert manifest.tied_filters is not None
    assert len(manifest.tied_filters) == 18
    assert all(name.startswith("layer") for name in manifest.tied_filters)
    assert "tied along y" in (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    Predictor.load(tmp_path / "run" / "checkpoint")


# Own folders that are not as they should be, and options


def test_shots_and_files_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_streets(tmp_path / "data", *(f"{number}.ply" for number in range(7)), count=1500)
    (data / "torn.ply").write_bytes((data / "0.ply").read_bytes()[:-7])
    write_street(data / "strange.ply", 3, 1500)
    (data / "strange.ply").write_bytes((data / "strange.ply").read_bytes()[:-1] + b"\x07")  # a label that no class has
    assert fip_train(data, tmp_path / "run", None, "epochs=1") == 5
    said = capsys.readouterr()
    assert "error [bad_dataset]" in said.err
    assert "torn.ply" in said.err
    assert "strange.ply" in said.err
    assert not (tmp_path / "run" / "checkpoint").exists()
    more = ("--skip-bad", "--shots", "3")
    assert fip_train(data, tmp_path / "run", None, "epochs=1", "data.exclude=[2.ply]", more=more) == 0
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "3 to train, 1 to validate scenes." in card  # the only one that was set aside to test on is excluded
    assert "2 files that cannot be used are left out" in card
    assert "It learnt from 3 scenes, which is few." in card
    assert fip_train(data, tmp_path / "many", None, "epochs=1", more=("--skip-bad", "--shots", "30")) == 5
    assert "30 scenes asked for, there are " in capsys.readouterr().err


def test_an_excluded_scene_is_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_streets(tmp_path / "data", "train/a.ply", "train/b.ply", "test/c.ply", "test/d.ply", count=800)
    changes = ("epochs=1", "data.validation=0", "data.exclude=[train/b.ply, test/d.ply]")
    assert fip_train(data, tmp_path / "run", None, *changes) == 0
    assert "data: 1 to train, 1 to test scenes." in (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert fip_train(data, tmp_path / "other", None, "epochs=1", "data.exclude=[train/z.ply]") == 5
    assert "no scene to exclude of the title train/z.ply" in capsys.readouterr().err


def test_a_scene_without_classes_single_batches_weights_and_an_early_end(tmp_path: Path) -> None:
    data = write_streets(tmp_path / "data", *(f"{split}/{n}.ply" for split in ("train", "val", "test") for n in range(2)), count=1200)
    write_street(data / "train" / "0.ply", 0, 1200, unlabelled=True)
    changes = ("epochs=9", "batch_size=1", "balance=loss", "early_stop={patience: 1, min_delta: 1.0}")  # nothing gains 100 %
    assert fip_train(data, tmp_path / "run", None, *changes) == 0
    metrics, rows = made(tmp_path / "run").metrics, read_scalars(tmp_path / "run")
    assert metrics["epochs"] == len(rows) == 2
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert metrics["epoch"] == max(rows, key=lambda row: (row["val_miou"], row["epoch"]))["epoch"]
    assert metrics["validation_scenes"] == 2
    for name, tensor in load_file(tmp_path / "run" / "checkpoint" / "model.safetensors").items():
        assert tensor.isfinite().all(), name


def test_validation_and_test_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be measured is not said, and ends no run."""
    data = write_streets(tmp_path / "data", "train/a.ply", "val/a.ply", "test/a.ply", "test/b.ply", count=800)
    for name in ("val/a.ply", "test/a.ply"):
        write_street(data / name, 1, 800, unlabelled=True)
    assert fip_train(data, tmp_path / "run", None, "epochs=2") == 0
    metrics = verify(tmp_path / "run" / "checkpoint").metrics
    assert metrics["test_scenes"] == 2
    assert metrics["test_points"] < 800
    assert 0 < metrics["test_miou"] < 1
    assert not {"test_miou_low", "validation_miou"} & metrics.keys()  # of one scene that says something no interval follows
    assert "val_miou" not in read_scalars(tmp_path / "run")[-1]
    assert read_state(tmp_path / "run" / STATE)["best_epoch"] == 2  # without validation the last is the best
    write_street(data / "test" / "b.ply", 1, 800, unlabelled=True)
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run" / "checkpoint"), "--data", str(data), "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["points"] == 0
    assert fip_train(data, tmp_path / "blind", None, "epochs=1") == 0
    card = (tmp_path / "blind" / "checkpoint" / "README.md").read_text()
    assert "| 2 | 0 | not measured: no point has a class | | |" in card
    assert "nan%" not in card


def test_selection_on_test_scenes_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_streets(tmp_path / "data", "train/a.ply", "train/b.ply", count=500)
    assert fip_train(data, tmp_path / "run", None, "epochs=1", "selection=reference") == 5
    assert "chooses the epoch on the test data, and there are none" in capsys.readouterr().err


def test_a_scene_that_is_one_voxel_to_the_net_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_streets(tmp_path / "data", "train/a.ply", count=300)
    assert fip_train(data, tmp_path / "run", None, "epochs=1", "batch_size=1", "input.voxel_size=20") == 5
    said = capsys.readouterr().err
    assert "error [bad_dataset]" in said
    assert "input.voxel_size" in said


def test_labels_yaml_that_does_not_name_an_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_streets(tmp_path / "data", "a.ply", "b.ply", count=300)
    (data / "labels.yaml").write_text(LABELS_YAML.replace("ignore: [0]\n", ""))
    assert fip_train(data, tmp_path / "run", None, "epochs=1") == 5
    assert "ids that labels.yaml gives neither to a class nor to ignore: 0 (" in capsys.readouterr().err
