"""Generated shapes, from nothing to the start of another net: `fip train shapes-cifar20`, `fip weights body`, `--weights`."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.artefact import read_manifest
from models.checkpoint import load_checkpoint
from models.cli import run
from models.pointcloud import PointCloud
from models.predictor import Predictor
from tests.integration.test_train import fip_train
from training.datasets.generated import GeneratedClouds, generated
from training.image_weights import OWN, load_image_weights
from training.recipe import load_recipe
from training.runstate import STATE, read_state

SMALL = ("data.classes=5", "data.shapes=8", "epochs=2", "batch_size=8", "init=scratch", "schedule.warmup_epochs=0")


def settings(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("shapes") / "run"
    assert run(["train", "shapes-cifar20", "--run-dir", str(run_dir), *settings(*SMALL)]) == 0
    return run_dir / "checkpoint"


def test_a_net_learns_generated_shapes_and_is_a_model_like_any(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, _ = read_manifest(shapes)
    assert (manifest.network.layout, manifest.labels) == (3, ("shape0", "shape1", "shape2", "shape3", "shape4"))
    assert manifest.provenance.dataset == "generated"
    assert "nobody's data" in manifest.provenance.licences[0]
    assert manifest.metrics["test_clouds"] == 10
    capsys.readouterr()
    assert run(["evaluate", str(shapes), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == manifest.metrics["test_accuracy"]
    assert run(["evaluate", "modelnet40"]) != 0
    assert "--data is missing" in capsys.readouterr().err
    predictor = Predictor.load(shapes)
    clouds = [predictor.voxelize(generated(5, 9).cloud(row)) for row in (42, 3, 20)]
    alone = [predictor.classify([cloud])[0].logits for cloud in clouds]
    for together, one in zip(predictor.classify(clouds), alone, strict=True):
        assert together.logits.shape == (5,)
        np.testing.assert_allclose(together.logits, one, atol=1e-4)


def test_it_goes_on_where_it_was_stopped_and_reads_no_folder(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "shapes-cifar20", "--run-dir", str(tmp_path / "run"), *settings(*SMALL)]
    assert run([*command, "--data", str(tmp_path)]) == 2
    assert "generated shapes come from no folder" in capsys.readouterr().err
    assert run(["train", "finetune-cifar20", "--run-dir", str(tmp_path / "other")]) == 2
    assert "Missing option '--data'" in capsys.readouterr().err
    made, left = GeneratedClouds.cloud, [50]

    def stopping(self: GeneratedClouds, index: int) -> PointCloud:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return made(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(GeneratedClouds, "cloud", stopping)
        assert run(command) != 0
    assert read_state(tmp_path / "run" / STATE)["epoch"] == 1
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert run(command) == 0
    ours, whole = (load_checkpoint(folder).tensors for folder in (tmp_path / "run" / "checkpoint", shapes))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
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
    assert "generated shapes: made by this project's own code (training/shapes), of nobody's data" in manifest.provenance.licences
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert "began with what `shapes-cifar20` (sha256 of its manifest `" in card
    assert "`shapes-cifar20` itself was taught to tell generated shapes apart from random weights." in card
    assert "trained on images" not in card


def test_a_body_begins_nets_of_its_kind_alone(shapes: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "body.safetensors"
    assert run(["weights", "body", str(shapes), str(file)]) == 0
    heights = "input.features=[{name: z}, {name: one}, {name: x}]"
    for settings, said in (
        (("network=cifar_resnet32",), "weights of a cifar_resnet20, and no start for a cifar_resnet32"),
        (("inflate.stem=copy", heights), "its stem reads x, y, z, the recipe's reads z, one, x: leave out inflate.stem=copy"),
    ):
        more = [word for setting in settings for word in ("--set", setting)]
        assert fip_train(data, file, tmp_path / "none", *more) != 0
        assert said in capsys.readouterr().err
    assert fip_train(data, file, tmp_path / "run", "--set", "epochs=1", "--set", heights) == 0
    assert run(["weights", "body", "lidar19", str(file)]) != 0
    assert "only classifiers have a body" in capsys.readouterr().err
    assert fip_train(data, file, tmp_path / "tied", "--set", "epochs=1", "--set", "inflate.tied=true", "--set", "init=image") != 0
    assert "cannot be tied" in capsys.readouterr().err


def test_the_weights_of_the_package_are_known_by_what_they_are(tmp_path: Path) -> None:
    own = load_image_weights("shapes20")
    assert own.body
    assert (own.body.model, own.body.network, own.body.provenance.dataset) == ("shapes-cifar20", "cifar_resnet20", "generated")
    assert own.body.provenance.recipe_sha256 == load_recipe("shapes-cifar20").digest
    renamed = tmp_path / "start.safetensors"
    shutil.copy(OWN["shapes20"], renamed)
    assert load_image_weights(str(renamed)).body == own.body
    other = tmp_path / "shapes20.safetensors"
    save_file({"conv1.weight": torch.zeros(27, 3, 16)}, other)
    assert load_image_weights(str(other)).body is None
