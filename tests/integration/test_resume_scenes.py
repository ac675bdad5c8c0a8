"""Runs on scenes that are stopped and go on, that have workers and caches, and that are of two processes: to the same bits."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.street_scenes import write_streets
from tests.training_runs import Broken, assert_same
from training.datasets import read_scenes
from training.datasets.file_scenes import FileScenes
from training.datasets.scenes import Scene
from training.loop import Compute, fit
from training.recipe import Recipe, read_draft
from training.run import start, training_splits
from training.runlog import read_scalars
from training.runstate import STATE, read_state

CHANGES: dict[str, object] = {
    "input.voxel_size": 0.5,
    "input.features": [{"name": "z"}, {"name": "red", "fill": 0}, {"name": "intensity", "fill": 0}],
    "init": "scratch",
    "epochs": 3,
    "batch_size": 2,
    "accumulate": 2,
    "data.validation": 0.2,
    "balance": "loss",
    "augment.crop": 12.0,
    "augment.mix": 0.5,
    "augment.max_voxels": 300,
}
RECIPE: Recipe = read_draft("finetune-points", CHANGES).resolve({})


@dataclass(frozen=True)
class Stopping(FileScenes):
    """Scenes that press Ctrl-C, or cannot be read any more, when scene number `reads` is read."""

    reads: int = 0
    breaks: bool = False

    def scene(self, index: int) -> Scene:
        SEEN.append(index)
        if len(SEEN) == self.reads:
            if self.breaks:
                raise Broken
            os.kill(os.getpid(), signal.SIGINT)
        return super().scene(index)


SEEN: list[int] = []


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> FileScenes:
    """Seven to train on, two to validate."""
    root = write_streets(tmp_path_factory.mktemp("streets"), *(f"train/{number}.ply" for number in range(9)), count=900)
    return read_scenes("labelled", root, "train")


def fitted(scenes: FileScenes, run_dir: Path, compute: Compute) -> Path:
    beginning, splits = start(RECIPE, 3, None), training_splits(RECIPE, scenes)
    SEEN.clear()
    fit(beginning.net, beginning.policy, RECIPE, splits.train, unstopped(splits.validation), run_dir, compute)
    return run_dir


def unstopped(scenes: FileScenes) -> FileScenes:
    return FileScenes(**fields_of(scenes))


def stopping(scenes: FileScenes, reads: int, *, breaks: bool = False) -> Stopping:
    return Stopping(**fields_of(scenes), reads=reads, breaks=breaks)


def fields_of(scenes: FileScenes) -> dict:
    return {name: getattr(scenes, name) for name in FileScenes.__dataclass_fields__}


PLAIN = Compute(cache=False)


@pytest.fixture(scope="module")
def whole(streets: FileScenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(streets, tmp_path_factory.mktemp("runs") / "whole", PLAIN)


def read_for_weights(scenes: FileScenes) -> int:
    """How many scenes are read before the first step: all, for the weights of the classes."""
    return len(training_splits(RECIPE, scenes).train)


@pytest.mark.parametrize("reads", [3, 12, 25])  # within the first epoch, and within later ones
def test_ctrl_c_saves_and_going_on_gives_the_same_bits(whole: Path, streets: FileScenes, tmp_path: Path, reads: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        fitted(stopping(streets, read_for_weights(streets) + reads), tmp_path, PLAIN)
    stopped = read_state(tmp_path / STATE)
    assert 0 <= stopped["epoch"] < 3
    assert stopped["epoch"] + stopped["step"] > 0
    fitted(streets, tmp_path, PLAIN)
    assert_same(whole, tmp_path)
    columns = ("loss", "lr", "val_miou", "val_accuracy")
    assert [[row[name] for name in columns] for row in read_scalars(tmp_path)] == [
        [row[name] for name in columns] for row in read_scalars(whole)
    ]


def test_what_is_saved_within_an_epoch_goes_on_to_the_same_bits(whole: Path, streets: FileScenes, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        fitted(stopping(streets, read_for_weights(streets) + 16, breaks=True), tmp_path, Compute(cache=False, save_every_s=0.0))
    stopped = read_state(tmp_path / STATE)
    assert (stopped["epoch"], stopped["step"]) == (1, 1)
    fitted(streets, tmp_path, PLAIN)
    assert_same(whole, tmp_path)


def test_workers_and_caches_change_nothing(whole: Path, streets: FileScenes, tmp_path: Path) -> None:
    fitted(streets, tmp_path / "workers", Compute(workers=2))
    assert_same(whole, tmp_path / "workers")
    assert len(list((tmp_path / "workers" / "cache").glob("scenes-*.bin"))) == 2  # to train, to validate


RANKS = """
import sys
from pathlib import Path
import torch
from training.data import learning
from training.datasets import read_scenes
from training.distributed import world
from training.loop import Compute, fit
from training.recipe import load_recipe, read_draft
from training.run import start, training_splits
from training.train import Job, train

data, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
with world("cpu") as (here, device):
    folder = train(Job(read_draft(str(out / "recipe.yaml")), data, None, out / "job", compute=Compute(world=here)))
    assert (folder is None) == (here.rank == 1)
    recipe = load_recipe(str(out / "recipe.yaml"))
    beginning = start(recipe, 3, None)
    splits = training_splits(recipe, read_scenes("labelled", data, "train"))
    end = fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, out / "fit", Compute(world=here))
    said = {"net": dict(beginning.net.named_parameters()), "best": end.best, "losses": end.epoch}
    torch.save(said, out / f"{here.rank}.pt")
"""


def test_two_processes_agree(streets: FileScenes, tmp_path: Path) -> None:
    """Under torchrun: a whole `train`, of which one process writes, and the weights that each of two has after `fit`."""
    recipe = RECIPE.model_copy(update={"epochs": 2, "batch_size": 4, "accumulate": 1})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "ranks.py")]
    arguments = [str(streets.clouds.root), str(tmp_path)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint in") == 1
    assert "val_miou" in done.stdout
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["best"] == second["best"] == max(row["val_miou"] for row in read_scalars(tmp_path / "fit"))
    before = dict(start(recipe, 3, None).net.named_parameters())
    for name, tensor in first["net"].items():
        assert tensor.equal(second["net"][name]), name
        assert not tensor.equal(before[name]), name
    jobs = read_scalars(tmp_path / "job")
    assert [row["loss"] for row in jobs] == [row["loss"] for row in read_scalars(tmp_path / "fit")]
    assert all(np.isfinite(row["loss"]) for row in jobs)
