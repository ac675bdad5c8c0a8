"""`--set inflate.tied=true`: from 2D weights to a published model whose stages are 2D filters to the end."""

import json
from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint
from models.cli import run
from models.predictor import Predictor
from training.datasets.modelnet40 import read_modelnet40
from training.evaluate import evaluate
from training.recipe import load_recipe

SETTINGS = ["epochs=2", "input.voxel_size=0.2", "batch_size=8", "data.validation=0.2"]


def fip_train(data: Path, image_file: Path, root: Path, name: str, *more: str) -> int:
    args = ["train", "bundled-modelnet40", "--data", str(data), "--weights", str(image_file), "--run-dir", str(root / name)]
    settings = [item for setting in SETTINGS for item in ("--set", setting)]
    return run([*args, *settings, "--threads", "1", "--publish", f"{name}@champion", "--registry", str(root / "registry"), *more])


@pytest.fixture(scope="module")
def trained(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tied")
    assert fip_train(data, image_file, root, "tied", "--set", "inflate.tied=true") == 0
    assert fip_train(data, image_file, root, "iobn", "--set", "inflate.tied=true", "--mode", "iobn") == 0
    assert fip_train(data, image_file, root, "whole", "--mode", "iobn") == 0
    return root


def test_the_model_says_what_it_is(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "registry" / "tied" / "1")
    assert checkpoint.manifest.network.tied == "y"
    ties = checkpoint.manifest.tied_filters
    assert ties is not None
    assert len(ties) == 18
    assert set(ties.values()) == {"y"}
    assert {tuple(tensor.shape[:1]) for name, tensor in checkpoint.tensors.items() if name in ties} == {(9,)}
    card = (trained / "registry" / "tied" / "1" / "README.md").read_text()
    parameters = 27 * 3 * 16 + 32 + 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2) + 1_344 + 64 * 3 + 3 + 6
    assert f"cifar_resnet20, filters of the stages tied along y, {parameters:,} parameters" in card
    assert load_recipe(str(trained / "tied" / "recipe.yaml")).inflate.tied


def test_it_is_served_as_it_was_scored(trained: Path, data: Path) -> None:
    folder = trained / "registry" / "tied" / "1"
    report = evaluate(Predictor.load(folder), read_modelnet40(data, "test"))
    assert report.accuracy == load_checkpoint(folder).manifest.metrics["test_accuracy"]


def test_commands_tell_it_apart(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = ["--registry", str(trained / "registry")]
    assert run(["models", "verify", *registry]) == 0
    capsys.readouterr()
    assert run(["models", "list", *registry]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "cifar_resnet20 tied along y" in lines["tied:1"]
    assert "tied" not in lines["whole:1"].removeprefix("whole:1")
    assert run(["models", "diff", "whole", "iobn", *registry, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["network"] == {"tied": [None, "y"]}
    assert facts["tied_filters"] == {}  # frozen filters repeat themselves where they are whole, too
    assert run(["models", "diff", "tied", "modelnet40", *registry]) == 0
    assert "along y: 18 | None" in capsys.readouterr().out


def test_frozen_filters_are_recorded_as_tied_whichever_way_they_are_stored(trained: Path) -> None:
    whole, iobn = (load_checkpoint(trained / "registry" / name / "1") for name in ("whole", "iobn"))
    assert whole.manifest.tied_filters == iobn.manifest.tied_filters
    for name in iobn.manifest.tied_filters or {}:
        cube = whole.tensors[name].unflatten(0, (3, 3, 3))
        assert iobn.tensors[name].equal(cube[:, 0].flatten(0, 1))
