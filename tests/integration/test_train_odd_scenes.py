"""`fip train` on scenes that are not as they should be: what is refused in words, and what ends no run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from models.cli import run
from models.io import read_cloud
from models.predictor import Predictor
from models.registry.verify import verify
from tests.scene_folders import write_ply
from tests.scene_training import fip_train, made
from tests.street_scenes import IDS, LABELS_YAML, street, write_street, write_streets
from training.runlog import read_scalars
from training.runstate import STATE, read_state


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


def test_test_scenes_with_intensities_of_another_range_are_scored_as_they_are_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_streets(tmp_path / "data", "train/a.ply", "train/b.ply", "test/a.ply", count=1500)
    xyz, _, intensity, classes = street(0, 1500)
    columns = {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], "intensity": 255 * intensity, "label": IDS[classes].astype(np.uint8)}
    write_ply(data / "test" / "a.ply", columns)
    changes = ("epochs=8", "batch_size=1", "data.validation=0", "input.features=[{name: intensity}]")
    assert fip_train(data, tmp_path / "run", None, *changes, "augment.drop_intensity=0") == 0
    manifest, predictor = made(tmp_path / "run"), Predictor.load(tmp_path / "run" / "checkpoint")
    assert predictor.voxelize(read_cloud(data / "test" / "a.ply")).scaled == ("intensity",)
    capsys.readouterr()
    assert run(["evaluate", str(tmp_path / "run" / "checkpoint"), "--data", str(data), "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["miou"] == manifest.metrics["test_miou"]
    assert len(np.flatnonzero(np.array(found["confusions"]).sum(axis=(0, 1)))) > 1  # not one answer for all


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
