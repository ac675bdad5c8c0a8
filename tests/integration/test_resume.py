"""Runs that are stopped, by Ctrl-C, by an error, by kill -9, and go on: to the same bits, on the engine they began on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from models.errors import BadRunDir
from tests.training_runs import SMALL, Breaking, Broken, Interrupting, assert_same, begin, fitted
from training.datasets import read_split
from training.distributed import ALONE
from training.engine import engine_of_run
from training.loop import Compute, fit
from training.run import training_splits
from training.runlog import read_scalars
from training.runstate import BEST, STATE, held, read_state, write


@pytest.mark.parametrize("reads", [5, 38, 45, 95])  # in the first epoch of 38 or so clouds, in its last step, in the second and third
def test_ctrl_c_saves_and_going_on_gives_the_same_bits(whole: Path, data: Path, image_file: Path, tmp_path: Path, reads: int) -> None:
    recipe, beginning = begin(image_file)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Interrupting(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [reads])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path, Compute(cache=False))
    stopped = read_state(tmp_path / STATE)
    assert stopped["epoch"] == reads // 39
    assert stopped["step"] > 0
    assert len(stopped["losses"]) == stopped["step"]
    fitted(data, image_file, tmp_path, compute=Compute(cache=False))
    assert_same(whole, tmp_path)
    assert [(row["loss"], row["lr"]) for row in read_scalars(tmp_path)] == [(row["loss"], row["lr"]) for row in read_scalars(whole)]
    untold = [row["epoch"] for row in read_scalars(tmp_path) if not row.get("seconds")]
    assert untold == ([1] if reads == 38 else [])  # no step was left of it whose cost could tell that of the others


def test_what_is_saved_within_an_epoch_goes_on_to_the_same_bits(whole: Path, data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Breaking(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [39 + 20])
    with pytest.raises(Broken):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path, Compute(cache=False, save_every_s=0.0))
    stopped = read_state(tmp_path / STATE)
    assert (stopped["epoch"], stopped["step"]) == (1, 2)
    fitted(data, image_file, tmp_path, compute=Compute(cache=False))
    assert_same(whole, tmp_path)


@pytest.mark.parametrize("said", [None, "auto", "reference"])
def test_a_run_goes_on_on_the_engine_it_began_on(data: Path, image_file: Path, tmp_path: Path, said: str | None) -> None:
    """On `reference`, which `auto` never chooses: to the bits of a run that was not stopped."""
    reference = Compute(cache=False, engine="reference")
    fitted(data, image_file, tmp_path / "whole", {"epochs": 2}, reference)
    recipe, beginning = begin(image_file, {"epochs": 2})
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    clouds = Interrupting(splits.train.xyz, splits.train.targets, splits.train.names)  # type: ignore[attr-defined]
    object.__setattr__(clouds, "left", [39 + 10])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, clouds, splits.validation, tmp_path / "stopped", reference)
    fitted(data, image_file, tmp_path / "stopped", {"epochs": 2}, Compute(cache=False, engine=said))
    assert read_state(tmp_path / "stopped" / STATE)["engine"] == "reference"
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_on_an_engine_goes_on_on_no_other(data: Path, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(data, image_file, tmp_path, {"epochs": 1}, Compute(engine="reference"))
    before = (tmp_path / STATE).read_bytes()
    how = "began on engine 'reference', not 'torch': go on with --engine reference, or start anew in another --run-dir"
    with pytest.raises(BadRunDir, match=how):
        fitted(data, image_file, tmp_path, {"epochs": 2}, Compute(engine="torch"))
    monkeypatch.setenv("FIP_ENGINE", "torch")
    with pytest.raises(BadRunDir, match=how):
        fitted(data, image_file, tmp_path, {"epochs": 2})
    assert (tmp_path / STATE).read_bytes() == before
    fitted(data, image_file, tmp_path, {"epochs": 2}, Compute(engine="reference"))  # what is named wins over the environment
    assert read_state(tmp_path / STATE)["epoch"] == 2


def test_an_engine_that_is_not_to_be_had_is_not_replaced(data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path, {"epochs": 1}, Compute(engine="reference"))
    write(tmp_path / STATE, {**read_state(tmp_path / STATE), "engine": "abacus"})
    with pytest.raises(BadRunDir, match=r"began on engine 'abacus', which cannot go on here: .*no such engine .*start anew"):
        fitted(data, image_file, tmp_path, {"epochs": 2})
    with pytest.raises(BadRunDir, match="began on engine 'native', which cannot go on here: "):  # known, but not on this device
        engine_of_run(tmp_path, "native", None, torch.device("meta"), ALONE)


def test_a_state_from_before_engines_were_recorded_goes_on(data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path, {"epochs": 1}, Compute(engine="torch"))
    state = read_state(tmp_path / STATE)
    write(tmp_path / STATE, {key: value for key, value in state.items() if key != "engine"})
    fitted(data, image_file, tmp_path, {"epochs": 2}, Compute(engine="reference"))
    assert read_state(tmp_path / STATE)["engine"] == "reference"


RANKS = """
import os, sys
from pathlib import Path
os.environ["FIP_ENGINE"] = ("reference", "torch")[int(os.environ["RANK"])]
import torch
from training.distributed import world
from training.engine import engine_of_run

with world("cpu") as (here, device):
    engine = engine_of_run(Path("run"), None, None, torch.device(device), here)
    Path(sys.argv[1], str(here.rank)).write_text(engine.name)
"""


def test_all_processes_compute_on_the_engine_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "ranks.py")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["reference", "reference"]


def test_ctrl_c_while_the_last_epoch_is_validated_ends_the_run(data: Path, image_file: Path, tmp_path: Path) -> None:
    recipe, beginning = begin(image_file, {"epochs": 1})
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    held = Interrupting(splits.validation.xyz, splits.validation.targets, splits.validation.names)  # type: ignore[attr-defined]
    object.__setattr__(held, "left", [3])
    with pytest.raises(KeyboardInterrupt):
        fit(beginning.net, beginning.policy, recipe, splits.train, held, tmp_path, Compute(cache=False))
    assert read_state(tmp_path / STATE)["epoch"] == 1


def test_the_best_weights_are_not_simply_the_last(data: Path, image_file: Path, tmp_path: Path) -> None:
    fitted(data, image_file, tmp_path, {"schedule.kind": "constant", "schedule.warmup_epochs": 0, "epochs": 1})
    state = read_state(tmp_path / STATE)
    write(tmp_path / STATE, {**state, "best": 2.0})  # better than anything can be
    before = (tmp_path / BEST).read_bytes()
    recipe, beginning = begin(image_file, {"schedule.kind": "constant", "schedule.warmup_epochs": 0, "epochs": 2})
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    assert fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, tmp_path).best_epoch == 1
    assert (tmp_path / BEST).read_bytes() == before


def test_one_process_a_run_directory(tmp_path: Path) -> None:
    with held(tmp_path / "run"), pytest.raises(BadRunDir, match="another process trains here"), held(tmp_path / "run"):
        pass
    with held(tmp_path / "run"):
        pass


def train_process(data: Path, image_file: Path, run_dir: Path, *more: str) -> subprocess.Popen[bytes]:
    """`fip train` as a user starts it."""
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    command = [str(Path(sys.executable).with_name("fip")), "train", "bundled-modelnet40", "--data", str(data), "--weights", str(image_file)]
    command += ["--run-dir", str(run_dir), "--threads", "1", *settings, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def whole_process(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "process"
    assert train_process(data, image_file, run_dir).wait() == 0
    return run_dir


@pytest.mark.parametrize("epochs_done", [0, 1, 2])
def test_kill_9_and_going_on_gives_the_same_bits(
    data: Path, image_file: Path, tmp_path: Path, epochs_done: int, whole_process: Path
) -> None:
    run_dir = tmp_path / "run"
    process = train_process(data, image_file, run_dir)
    deadline = time.monotonic() + 120
    while len(read_scalars(run_dir)) < epochs_done or not (run_dir / "run.json").is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (run_dir / "checkpoint").exists()
    assert train_process(data, image_file, run_dir).wait() == 0
    assert_same(whole_process, run_dir)
    weights = [folder / "checkpoint" / "model.safetensors" for folder in (whole_process, run_dir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_sigterm_saves_too(data: Path, image_file: Path, tmp_path: Path) -> None:
    process = train_process(data, image_file, tmp_path, "--set", "epochs=500")
    deadline = time.monotonic() + 120
    while not read_scalars(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    state = read_state(tmp_path / STATE)
    assert state["epoch"] >= 1
