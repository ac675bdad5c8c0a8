"""`fip train --teacher`: clouds without labels, learnt from what another model says of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.artefact import read_manifest
from models.cli import run
from models.errors import BadDataset
from models.predictor import Predictor
from tests.integration.test_train import fip_train
from tests.predicting import save_cloud
from training.datasets import LabelledClouds, all_but_few, few_shot, read_split
from training.losses import batch_loss
from training.recipe import DistillSpec
from training.samples import CloudSamples
from training.teaching import TAUGHT, taught, unlabelled_folder

FEW = ("--shots", "3", "--seed", "1")


@pytest.fixture(scope="module")
def teacher(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    assert fip_train(data, image_file, run_dir, "--set", "epochs=8", "--set", "batch_size=4", *FEW) == 0
    return run_dir / "checkpoint"


def test_shares_weigh_as_classes_do() -> None:
    logits, targets = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0])
    shares = torch.nn.functional.one_hot(targets, 4).float()
    for smoothing in (0.0, 0.1):
        exact = batch_loss(logits, targets, 6, label_smoothing=smoothing)
        torch.testing.assert_close(batch_loss(logits, shares, 6, label_smoothing=smoothing), exact)
    torch.testing.assert_close(batch_loss(logits, shares, 6, weights=weights), batch_loss(logits, targets, 6, weights=weights))
    half = (shares + shares.roll(1, 1)) / 2
    expected = -(half * logits.log_softmax(1)).sum()
    torch.testing.assert_close(batch_loss(logits, half, 6), expected)


def test_a_student_learns_what_its_teacher_says(
    data: Path, image_file: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--set", "epochs=2", *FEW, "--teacher", str(teacher))
    assert fip_train(data, image_file, tmp_path / "run", *options) == 0
    manifest, _ = read_manifest(tmp_path / "run" / "checkpoint")
    name = f"modelnet40 (sha256 {read_manifest(teacher)[1]})"
    assert manifest.provenance.teacher == name
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert f"30 clouds without labels: learnt is what {name} says of them" in card  # 48, less a fifth of each class, less three of each
    assert "9 train" in card
    assert len(json.loads((tmp_path / "run" / "checkpoint" / "metrics.json").read_text())["epochs"]) == 2
    capsys.readouterr()
    assert fip_train(data, image_file, tmp_path / "run", *options, "--set", "distill.temperature=2") == 5
    assert "another" in capsys.readouterr().err


def test_what_is_taught_is_what_the_teacher_answers(data: Path, teacher: Path, tmp_path: Path) -> None:
    train = read_split("modelnet40", data, "train")
    labelled, others = few_shot(train, 3, 1), all_but_few(train, 3, 1)
    assert (len(labelled), len(others)) == (9, 39)
    predictor = Predictor.load(teacher)
    answers = [predictor.classify([predictor.voxelize(others.cloud(row))])[0].logits for row in range(len(others))]
    expected = torch.from_numpy(np.stack(answers)).div(0.5).softmax(1).numpy()
    least = float(np.median(expected.max(1))) - 1e-4
    found = taught(predictor, labelled, others, DistillSpec(temperature=0.5, least=least, copies=2), tmp_path, "key")
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    sure = np.flatnonzero(expected.max(1) >= least)
    assert 0 < len(sure) < len(others)
    assert found.rows.tolist() == [*range(9), *range(9), *(9 + sure)]
    assert np.array_equal(found.cloud(18).xyz, others.cloud(int(sure[0])).xyz)
    samples = CloudSamples(found, predictor.manifest.input, shares=found.shares)
    np.testing.assert_allclose(samples.sample(18).targets, expected[sure[:1]], atol=1e-5)
    assert samples.sample(10).targets.tolist() == [np.eye(3)[labelled.targets[1]].tolist()]
    assert np.array_equal(found.targets[:9], labelled.targets)


def test_the_teacher_is_asked_once(data: Path, teacher: Path, tmp_path: Path) -> None:
    train = read_split("modelnet40", data, "train")
    predictor, spec = Predictor.load(teacher), DistillSpec()
    first = taught(predictor, few_shot(train, 3, 1), all_but_few(train, 3, 1), spec, tmp_path, "key")
    with np.load(tmp_path / TAUGHT) as kept:
        changed = {name: kept[name] for name in kept.files}
    np.savez(tmp_path / TAUGHT, **(changed | {"logits": changed["logits"][:, ::-1]}))
    again = taught(predictor, few_shot(train, 3, 1), all_but_few(train, 3, 1), spec, tmp_path, "key")
    np.testing.assert_allclose(again.scores, first.scores[:, ::-1], atol=1e-6)
    anew = taught(predictor, few_shot(train, 3, 1), all_but_few(train, 3, 1), spec, tmp_path, "another")
    np.testing.assert_array_equal(anew.scores, first.scores)


def test_clouds_without_labels_from_a_folder(
    data: Path, image_file: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / "scans" / "deep"
    scans.mkdir(parents=True)
    for number in range(4):
        save_cloud((scans if number % 2 else scans.parent) / f"{number}.ply", 64, number)
    assert len(unlabelled_folder(tmp_path / "scans")) == 4
    options = ("--set", "epochs=1", *FEW, "--teacher", str(teacher), "--unlabelled", str(tmp_path / "scans"))
    assert fip_train(data, image_file, tmp_path / "run", *options) == 0
    assert "4 clouds without labels" in capsys.readouterr().out
    with pytest.raises(BadDataset, match="no file of a readable format"):
        unlabelled_folder(Path(__file__).parent)


def test_a_teacher_of_other_classes_is_refused(teacher: Path, tmp_path: Path) -> None:
    clouds = LabelledClouds(np.zeros((2, 5, 3), np.float32), np.array([0, 1]), ("cat", "dog"))
    with pytest.raises(BadDataset, match="knows other classes"):
        taught(Predictor.load(teacher), clouds, clouds, DistillSpec(), tmp_path, "")


def test_distilling_takes_a_teacher_and_clouds(
    data: Path, image_file: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fip_train(data, image_file, tmp_path / "a", "--set", "distill={}", *FEW) != 0
    assert "--teacher" in capsys.readouterr().err
    assert fip_train(data, image_file, tmp_path / "b", "--teacher", str(teacher)) != 0
    assert "no clouds without labels" in capsys.readouterr().err
    assert run(["train", "finetune-points", "--data", str(data), "--teacher", str(teacher), "--run-dir", str(tmp_path / "c")]) != 0
    assert "distill" in capsys.readouterr().err
