"""`fip train` end to end on small made-up clouds: the checkpoint, going on after a stop, evaluation as served."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import load_checkpoint
from models.cli import run
from models.errors import BadDataset
from models.io import read_cloud
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.sparse.tensor import SparseTensor
from tests.training_runs import begin, fitted
from training.batches import MicroBatch, train_batches
from training.datasets import read_split
from training.datasets.modelnet40 import read_modelnet40
from training.evaluate import evaluate
from training.recipe import load_recipe
from training.run import start, training_splits
from training.runlog import RunLog, read_scalars
from training.runstate import STATE, read_state
from training.samples import CloudSamples

SETTINGS = ["--set", "input.voxel_size=0.2", "--set", "batch_size=8", "--set", "data.validation=0.2", "--threads", "1"]


def fip_train(data: Path, image_file: Path, run_dir: Path, *more: str) -> int:
    args = ["train", "bundled-modelnet40", "--data", str(data), "--weights", str(image_file), "--run-dir", str(run_dir)]
    return run([*args, *SETTINGS, *more])


@pytest.fixture(scope="module")
def finished(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert fip_train(data, image_file, run_dir, "--set", "epochs=3") == 0
    return run_dir


def test_the_checkpoint_tells_where_it_comes_from(finished: Path, image_file: Path, data: Path) -> None:
    checkpoint = load_checkpoint(finished / "checkpoint")
    made = checkpoint.manifest.provenance
    recipe = load_recipe(str(finished / "recipe.yaml"))
    assert made.recipe_sha256 == recipe.digest
    assert made.weights_2d == image_file.name
    assert made.dataset_sha256 == training_splits(recipe, read_split("modelnet40", data, "train")).train.digest
    assert checkpoint.manifest.labels == ("sphere", "cube", "rod")
    assert {"README.md", "recipe.yaml", "metrics.json", "curve.png", "model.safetensors"} == checkpoint.manifest.files.keys()
    card = (finished / "checkpoint" / "README.md").read_text()
    assert made.weights_2d_sha256 is not None
    assert made.weights_2d_sha256 in card
    assert f"{checkpoint.manifest.metrics['test_accuracy']:.2%}" in card
    assert len((finished / "scalars.jsonl").read_text().splitlines()) == 3
    assert any((finished / "tensorboard").iterdir())


def test_evaluate_repeats_the_score_of_the_card(finished: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(finished / "checkpoint"), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == load_checkpoint(finished / "checkpoint").manifest.metrics["test_accuracy"]
    report = evaluate(Predictor.load(finished / "checkpoint"), read_modelnet40(data, "test"))
    assert found["predicted"] == report.predicted.tolist()
    assert report.class_accuracy.keys() == {"sphere", "cube", "rod"}


def test_another_recipe_may_not_take_over_a_run(finished: Path, data: Path, image_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fip_train(data, image_file, finished, "--set", "epochs=4") == 5
    assert "bad_run_dir" in (said := capsys.readouterr().err)
    assert "another recipe" in said
    other = image_file.with_name("other.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(image_file).items()}, other)
    assert fip_train(data, other, finished, "--set", "epochs=3") == 5
    assert "another weights" in capsys.readouterr().err


def test_a_finished_run_is_not_scored_again(finished: Path, data: Path, image_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "checkpoint" / "manifest.json").read_bytes()
    assert fip_train(data, image_file, finished, "--set", "epochs=3") == 0
    assert (finished / "checkpoint" / "manifest.json").read_bytes() == before
    assert "test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["state.pt", "run.json"])
def test_damaged_run_files_are_named(
    finished: Path, data: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    for name in ("state.pt", "run.json", "best.pt"):
        shutil.copy(finished / name, tmp_path / name)
    (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:-40])
    assert fip_train(data, image_file, tmp_path, "--set", "epochs=3") == 5
    assert "bad_run_dir" in capsys.readouterr().err


def test_a_torn_log_line_is_passed_over(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "scalars.jsonl", tmp_path / "scalars.jsonl")
    with (tmp_path / "scalars.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    with RunLog(tmp_path) as log:
        log.epoch(4, {"loss": 0.5})
        log.epoch(4, {"loss": 0.25})  # the epoch was repeated
    assert [row["loss"] for row in read_scalars(tmp_path)][3:] == [0.25]


def test_a_diverged_run_publishes_nothing(data: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fip_train(data, image_file, tmp_path / "run", "--set", "epochs=3", "--set", "optim.lr=1.0e+38") == 5
    assert "error [diverged]" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize("init", ["image", "scratch", "random-frozen", "random-inflated"])
def test_where_a_run_starts(image_file: Path, init: str) -> None:
    """Seeded random weights everywhere, but for the stages of `image`."""
    overrides = {"init": init, "mode": "all" if init == "scratch" else "iobn"}
    nets = [start(load_recipe("bundled-modelnet40", overrides | {"seed": seed}), 3, str(image_file)).net for seed in (0, 0, 1)]
    first, again, other = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], again[name]) for name in first)
    same = {name for name, parameter in nets[0].named_parameters() if parameter.std() > 0 and torch.equal(first[name], other[name])}
    stage_kernels = {name for name in first if name.startswith("layer") and ".conv" in name}
    assert same == (stage_kernels if init == "image" else set())
    assert (start(load_recipe("bundled-modelnet40", overrides), 3, str(image_file)).report is not None) == (init == "image")


def test_statistics_are_estimated_anew_and_then_kept(data: Path, image_file: Path, tmp_path: Path) -> None:
    """Those of the frozen norms, of what the training clouds make of them."""
    overrides: dict[str, object] = {"mode": "io", "recalibrate": True, "optim.lr": 1e-9}
    overrides |= {f"augment.{damage}": 0 for damage in ("drop", "cut", "strays", "rotate_deg", "tilt_deg")}
    of = {}
    for name, more in (("once", {"epochs": 1}), ("long", {"epochs": 3}), ("image", {"epochs": 1, "recalibrate": False})):
        fitted(data, image_file, tmp_path / name, overrides | more)
        of[name] = read_state(tmp_path / name / STATE)["net"]
    frozen = [name for name in of["once"] if name.startswith("layer") and "running" in name]
    assert frozen
    assert all(torch.equal(of["once"][name], of["long"][name]) for name in frozen)
    recipe, beginning = begin(image_file, overrides)
    train = CloudSamples(training_splits(recipe, read_split("modelnet40", data, "train")).train, recipe.input)
    rows = np.arange(len(train))
    batch = next(train_batches(train, [MicroBatch(rows, rows, 1.0)], seed=0, epoch=0, device=torch.device("cpu")))
    surprise = {}
    for name in ("once", "image"):
        beginning.net.load_state_dict(of[name])
        beginning.policy.set_train(beginning.net)
        norm = beginning.net.get_submodule("layer1.0.bn1")
        surprise[name] = statistics_off(beginning.net, norm, batch.inputs)
    assert surprise["once"] < 0.3
    assert surprise["once"] < surprise["image"] / 2


def statistics_off(net: torch.nn.Module, norm: torch.nn.Module, inputs: SparseTensor) -> float:
    """The logarithm of how many times larger or smaller the variance before a norm is than what it takes it for, a mean over channels."""
    assert isinstance(norm, torch.nn.BatchNorm1d)
    seen: list[torch.Tensor] = []
    first = net.get_submodule("layer1.0.conv1").register_forward_hook(lambda _, __, out: seen.append(out.feats))
    with torch.no_grad():
        net(inputs)
    first.remove()
    assert norm.running_var is not None
    return float((seen[0].var(0) / norm.running_var).log().abs().mean())


def test_labels_must_be_the_models(finished: Path, data: Path) -> None:
    clouds = replace(read_modelnet40(data, "test"), names=("cube", "sphere", "rod"))
    with pytest.raises(BadDataset, match="other classes than the model"):
        evaluate(Predictor.load(finished / "checkpoint"), clouds)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--set", "epoch=1"], 5, "did you mean 'epochs'"),
        (["--init", "scratch", "--mode", "io"], 5, "scratch trains everything"),
        (["--shots", "1000"], 5, "1000 shots asked for"),
        (["--weights", "nowhere.pth"], 5, "no such file"),
        (["--mode", "some"], 2, "'some' is not one of"),
    ],
)
def test_wrong_runs_say_why(
    data: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert fip_train(data, image_file, tmp_path / "run", *more) == code
    assert message in capsys.readouterr().err


def test_training_and_serving_make_the_same_voxels(finished: Path, data: Path, tmp_path: Path) -> None:
    """The same cloud through the training loop's batch (no augmentation) and through a file and Predictor."""
    clouds = read_modelnet40(data, "test")
    recipe = load_recipe(str(finished / "recipe.yaml"))
    micro = MicroBatch(np.arange(1), np.arange(1), 1.0)
    for samples in (CloudSamples(clouds, recipe.input), kept := CloudSamples(clouds, recipe.input).cached(tmp_path)):
        (trained,) = (batch.inputs for batch in train_batches(samples, [micro], seed=0, epoch=0, device=torch.device("cpu")))
        np.save(tmp_path / "cloud.npy", clouds.xyz[0])
        served = Predictor.load(finished / "checkpoint").voxelize(read_cloud(tmp_path / "cloud.npy"))
        assert np.array_equal(trained.coords[:, 1:].numpy(), served.coords)
        assert trained.feats.numpy().tobytes() == served.feats.tobytes()
    kept.close()


def test_batch_size_does_not_change_an_answer(finished: Path, data: Path) -> None:
    predictor = Predictor.load(finished / "checkpoint")
    clouds = read_modelnet40(data, "test")
    voxels = [predictor.voxelize(PointCloud(xyz)) for xyz in clouds.xyz]
    together = predictor.classify(voxels)
    for one, batched in zip(voxels, together, strict=True):
        alone = predictor.classify([one])[0]
        assert alone.index == batched.index
        np.testing.assert_allclose(alone.logits, batched.logits, atol=1e-4)
