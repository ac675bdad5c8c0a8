"""Small runs of the training loop on made-up clouds, ways to stop them, and what it means that two are the same."""

import os
import signal
from pathlib import Path

import torch

from models.pointcloud import PointCloud
from training.datasets import LabelledClouds, read_split
from training.loop import Compute, fit
from training.recipe import Recipe, load_recipe
from training.run import Start, start, training_splits
from training.runstate import BEST, STATE, read_state, read_weights

SMALL: dict[str, object] = {"input.voxel_size": 0.2, "batch_size": 8, "data.validation": 0.2, "epochs": 3}


def begin(image_file: Path, overrides: dict[str, object] | None = None) -> tuple[Recipe, Start]:
    recipe = load_recipe("bundled-modelnet40", SMALL | (overrides or {}))
    return recipe, start(recipe, 3, str(image_file))


def fitted(data: Path, image_file: Path, run_dir: Path, overrides: dict[str, object] | None = None, compute: Compute | None = None) -> Path:
    recipe, beginning = begin(image_file, overrides)
    splits = training_splits(recipe, read_split("modelnet40", data, "train"))
    fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, run_dir, compute or Compute())
    return run_dir


def flat(state: object, prefix: str = "") -> dict[str, object]:
    """Every tensor and number of a state, however deep, by its path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: leaf for key, value in items for path, leaf in flat(value, f"{prefix}/{key}").items()}
    return {prefix: state}


def assert_same(run_dir: Path, other: Path) -> None:
    """Weights, buffers, momenta, schedule and best weights, bit for bit."""
    for read, name in ((read_state, STATE), (read_weights, BEST)):
        first, second = flat(read(run_dir / name)), flat(read(other / name))
        assert first.keys() == second.keys()
        for path, leaf in first.items():
            same = torch.equal(leaf, second[path]) if isinstance(leaf, torch.Tensor) else leaf == second[path]
            assert same, path
    assert any("momentum_buffer" in path for path in flat(read_state(run_dir / STATE)))


class Interrupting(LabelledClouds):
    """Clouds that press Ctrl-C when cloud number `count` is read."""

    count = 0
    left: list[int]

    def cloud(self, index: int) -> PointCloud:
        self.left[0] -= 1
        if self.left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().cloud(index)


class Breaking(LabelledClouds):
    """Clouds of which a few can be read."""

    left: list[int]

    def cloud(self, index: int) -> PointCloud:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Broken
        return super().cloud(index)


class Broken(Exception):
    pass
