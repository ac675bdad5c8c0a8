"""`fip train` on scans in SemanticKITTI's layout: frozen and tied filters, and the reference with all its quirks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.checkpoint import load_checkpoint
from models.cli import run
from models.predictor import Predictor
from models.registry.verify import verify
from tests.scene_training import fip_train, made
from tests.street_scenes import write_kitti, write_street
from training.recipe import load_recipe
from training.run import start
from training.runlog import read_scalars
from training.runstate import BEST, read_weights, write


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


def test_further_scenes_are_trained_on_and_never_scored(
    kitti: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither at the end nor to validate; and whoever scores the model need not have them."""
    shutil.copytree(kitti, tmp_path / "data")
    labels = "classes: [{name: road, colour: [1, 1, 1], ids: [40]}]\nignore: [0]\ngroups: [{classes: [building, pole], ids: [50, 80]}]\n"
    for place in range(12):
        write_street(tmp_path / "data" / "more" / f"{place}.ply", 100 + place, 400)
    (tmp_path / "data" / "more" / "labels.yaml").write_text(labels)
    changes = (*KITTI, "epochs=1", "data.extra=[more]")
    assert fip_train(tmp_path / "data", tmp_path / "run", image_file, *changes, recipe="bundled-lidar19") == 0
    card, metrics = (tmp_path / "run" / "checkpoint" / "README.md").read_text(), made(tmp_path / "run").metrics
    assert "16 to train, 1 to validate, 2 to test scenes" in card
    assert "12 further scenes of more, trained on as well" in card
    assert metrics["validation_points"] > 2000  # of a scan, where a further scene has 400 points
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run" / "checkpoint"), "--data", str(kitti), "--json", "--threads", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == metrics["test_miou"]
