"""Generated shapes, from nothing to the start of another net: `fip train shapes-cifar20`, `fip weights body`, `--weights`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.artefact import read_manifest
from models.checkpoint import load_checkpoint
from models.cli import run
from models.predictor import Predictor
from tests.integration.test_train import fip_train
from training.datasets.generated import generated

SMALL = ("data.classes=5", "data.shapes=8", "epochs=2", "batch_size=8", "init=scratch", "schedule.warmup_epochs=0")


def settings(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("shapes") / "run"
    assert run(["train", "shapes-cifar20", "--run-dir", str(run_dir), *settings(*SMALL)]) == 0
    return run_dir / "checkpoint"


def test_a_net_learns_generated_shapes_and_is_a_model_like_any(shapes: Path) -> None:
    manifest, _ = read_manifest(shapes)
    assert (manifest.network.layout, manifest.labels) == (3, ("shape0", "shape1", "shape2", "shape3", "shape4"))
    assert manifest.provenance.dataset == "generated"
    assert "nobody's data" in manifest.provenance.licences[0]
    assert manifest.metrics["test_clouds"] == 10
    predictor = Predictor.load(shapes)
    clouds = [predictor.voxelize(generated(5, 9).cloud(row)) for row in (42, 3, 20)]
    alone = [predictor.classify([cloud])[0].logits for cloud in clouds]
    for together, one in zip(predictor.classify(clouds), alone, strict=True):
        assert together.logits.shape == (5,)
        np.testing.assert_allclose(together.logits, one, atol=1e-4)


def test_it_goes_on_where_it_was_stopped_and_reads_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "shapes-cifar20", "--run-dir", str(tmp_path / "run"), *settings(*SMALL)]
    assert run([*command, "--data", str(tmp_path)]) == 2
    assert "generated shapes come from no folder" in capsys.readouterr().err
    assert run(["train", "finetune-cifar20", "--run-dir", str(tmp_path / "other")]) == 2
    assert "Missing option '--data'" in capsys.readouterr().err
    assert run(command) == 0
    first = load_checkpoint(tmp_path / "run" / "checkpoint").digest
    assert run(command) == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint").digest == first
    assert run([*command, "--set", "data.split_seed=1"]) == 5  # other shapes: another run
    assert "another" in capsys.readouterr().err


def test_another_net_begins_with_what_it_learnt(shapes: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "body.safetensors"
    assert run(["weights", "body", str(shapes), str(tmp_path / "body.npz")]) != 0
    assert ".safetensors" in capsys.readouterr().err
    assert run(["weights", "body", str(shapes), str(file)]) == 0
    kept = load_file(file)
    assert {name.partition(".")[0] for name in kept} == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    stored = load_checkpoint(shapes).tensors
    assert all(torch.equal(tensor, stored[name]) for name, tensor in kept.items())
    capsys.readouterr()
    assert fip_train(data, file, tmp_path / "run", "--set", "epochs=1", "--set", "layout=2", "--set", "inflate.stem=copy") == 0
    said = capsys.readouterr().out
    assert "copied" in said
    assert "start fresh: layout_bn.weight, layout_bn.bias" in said
    manifest, _ = read_manifest(tmp_path / "run" / "checkpoint")
    assert manifest.network.layout == 2
    assert manifest.provenance.weights_2d == "body.safetensors"
