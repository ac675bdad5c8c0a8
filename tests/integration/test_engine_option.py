"""`--engine` and FIP_ENGINE: every command runs on the engine that is named, and refuses an unknown one before it loads anything."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.artefact import read_manifest
from models.cli import run
from models.commands.options import ENGINE_NAMES
from models.sparse.backends import ENGINES
from service.pool import Pool
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.device import Device
from training.batches import MicroBatch, train_batches
from training.datasets import read_split
from training.loop import Compute, fit
from training.recipe import load_recipe
from training.run import start, training_splits
from training.samples import CloudSamples

USABLE = [name for name, engine in ENGINES.items() if engine.unavailable() is None]
SETTINGS = {"input.voxel_size": 0.2, "batch_size": 8, "epochs": 1, "data.validation": 0.2}


@pytest.fixture
def cloud_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32))
    return tmp_path / "cloud.npy"


def test_the_names_in_the_help_are_those_there_are() -> None:
    assert ENGINE_NAMES[0] == "auto"
    assert set(ENGINE_NAMES[1:]) == set(ENGINES)


def test_predict_answers_the_same_on_every_engine(tiny_registry: Path, cloud_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(cloud_file), "--registry", str(tiny_registry), "--model", "tiny", "--json", "--top", "3"]
    scores = []
    for name in ("auto", *USABLE):
        assert run([*command, "--engine", name]) == 0
        answer = json.loads(capsys.readouterr().out)["predictions"]
        scores.append({entry["label"]: entry["score"] for entry in answer})
    assert all(found == pytest.approx(scores[0], abs=1e-5) for found in scores)


@pytest.mark.parametrize("low", ["bf16", "fp16"])
def test_low_precision_is_close_but_not_the_same(
    low: str, tiny_registry: Path, cloud_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(cloud_file), "--registry", str(tiny_registry), "--model", "tiny", "--json"]
    scores = []
    for precision in ("fp32", low):
        assert run([*command, "--precision", precision]) == 0
        scores.append(json.loads(capsys.readouterr().out)["predictions"][0]["score"])
    assert scores[0] != scores[1]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
    assert Settings(precision=low).precision == low
    assert run([*command, "--precision", "bf17"]) == 2
    assert run([*command, "--precision", "tf32", "--device", "cpu"]) != 0
    assert "on a CPU take bf16" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "FILE", "--model", "no-such-model"],
        ["evaluate", "no-such-model", "--data", "FOLDER"],
        ["train", "no-such-recipe", "--data", "FOLDER"],
        ["serve", "--model", "no-such-model"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_unknown_engine_is_refused_first(
    command: list[str], by: str, cloud_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the model, the recipe or the data, which are not there either."""
    args = [{"FILE": str(cloud_file), "FOLDER": str(cloud_file.parent)}.get(arg, arg) for arg in command]
    if by == "option":
        args += ["--engine", "touch"]
    else:
        monkeypatch.setenv("FIP_ENGINE", "touch")
    assert run(args) == 2
    said = capsys.readouterr().err
    assert "--engine" in said
    assert "unknown engine 'touch'; did you mean 'torch'?" in said
    assert all(name in said for name in ENGINE_NAMES)


def test_the_option_wins_over_the_environment(
    tiny_registry: Path, cloud_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIP_ENGINE", "touch")
    for name in ("torch", "auto"):
        assert run(["predict", str(cloud_file), "--registry", str(tiny_registry), "--model", "tiny", "--engine", name]) == 0


def test_the_service_loads_models_for_the_engine_of_its_settings(tiny_registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_ENGINE", "reference")
    settings = Settings(registry=str(tiny_registry), model="tiny")
    device = Device(settings, Telemetry())
    pool = Pool(settings, Telemetry(), device)
    try:
        assert set(pool.load().values()) == {"reference"}
    finally:
        device.close()
    assert Settings(engine="torch").engine == "torch"


def test_batches_of_training_are_for_the_engine_that_is_asked_for(data: Path) -> None:
    recipe = load_recipe("bundled-modelnet40", SETTINGS)
    samples, micro = CloudSamples(read_split("modelnet40", data, "train"), recipe.input), MicroBatch(np.arange(4), np.arange(4), 1.0)
    for workers in (0, 1):
        made = train_batches(samples, [micro], seed=0, epoch=0, device=torch.device("cpu"), engine=ENGINES["reference"], workers=workers)
        assert [batch.inputs.sites.engine.name for batch in made] == ["reference"]


def test_training_computes_the_same_on_every_engine(data: Path, image_file: Path, tmp_path: Path) -> None:
    """One epoch from the same start; the runs differ in the order of sums alone."""
    recipe = load_recipe("bundled-modelnet40", SETTINGS | {"optim.lr": 0.01})
    nets = {}
    for name in USABLE:
        beginning = start(recipe, 3, str(image_file))
        splits = training_splits(recipe, read_split("modelnet40", data, "train"))
        compute = Compute(cache=False, engine=name)
        fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, tmp_path / name, compute)
        nets[name] = beginning.net.state_dict()
    for name, state in nets.items():
        for key, tensor in state.items():
            torch.testing.assert_close(tensor, nets["reference"][key], atol=2e-3, rtol=1e-3, msg=f"{name} {key}")


def test_train_and_evaluate_take_the_option(data: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["train", "bundled-modelnet40", "--data", str(data), "--weights", str(image_file), "--run-dir", str(tmp_path / "run")]
    changes = [item for key, value in SETTINGS.items() for item in ("--set", f"{key}={value}")]
    assert run([*args, *changes, "--engine", "torch"]) == 0
    manifest, _ = read_manifest(tmp_path / "run" / "checkpoint")
    assert manifest.provenance.engine == "torch"
    assert "| engine | torch |" in (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    capsys.readouterr()
    found = []
    for name in ("torch", "reference"):
        assert run(["evaluate", str(tmp_path / "run" / "checkpoint"), "--data", str(data), "--json", "--engine", name]) == 0
        found.append(json.loads(capsys.readouterr().out)["predicted"])
    assert found[0] == found[1]
