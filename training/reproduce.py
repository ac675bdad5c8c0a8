"""Reruns of the paper's tables. Each finished cell is one JSON file, so nothing is computed twice and a stop loses one cell.

Today one table: `ten-shot`, FIP against its controls on ten clouds a class.
"""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

from models.predictor import Predictor
from training.datasets import Clouds, read_split
from training.evaluate import evaluate
from training.loop import accuracy_of, fit
from training.publish import Made, code_version, describe
from training.recipe import Recipe, load_recipe
from training.run import Splits, facts, start, training_splits
from training.runstate import BEST, claim, read_weights, write_text

ARMS: dict[str, dict[str, object]] = {
    "scratch": {"init": "scratch", "mode": "all"},
    "fip-all": {"init": "image", "mode": "all"},
    "fip-iobn": {"init": "image", "mode": "iobn"},
    "random-frozen-iobn": {"init": "random-frozen", "mode": "iobn"},
}
LEARNING_RATES = (0.03, 0.1)
RECIPE = "ten-shot-resnet18"


@dataclass(frozen=True)
class Cell:
    """One trained net: an arm at one learning rate. Accuracies are shares; test only for the chosen learning rate.

    inputs: digests of recipe, 2D weights and clouds; a cell of other inputs is computed again. code: the version that trained it.
    """

    arm: str
    lr: float
    seed: int
    inputs: dict[str, str | None]
    code: str
    held_out_accuracy: float
    frozen_tensors: int
    frozen_unchanged: bool
    minutes: float
    test_accuracy: float | None = None
    test_clouds: int = 0


@dataclass(frozen=True)
class Setting:
    """What all cells share. overrides: recipe keys, for a smaller rerun."""

    splits: Splits[Clouds]
    data: Path
    weights: str
    seed: int
    device: str
    overrides: dict[str, object]
    cells: Path
    runs: Path

    def recipe(self, arm: str, lr: float) -> Recipe:
        return _recipe(arm, lr, self.seed, self.overrides)

    def cell(self, arm: str, lr: float) -> Path:
        return self.cells / f"{arm}-lr{lr:g}-seed{self.seed}.json"

    def run_dir(self, arm: str, lr: float) -> Path:
        return self.runs / self.cell(arm, lr).stem


def ten_shot(
    data: Path,
    weights: str,
    out: Path,
    run_dir: Path,
    seed: int = 0,
    device: str = "cpu",
    overrides: dict[str, object] | None = None,
) -> Path:
    """Train all arms, choose each arm's learning rate on held-out train clouds, and write the table to `out`/ten-shot.md.

    The net that was chosen is the one reported: its last epoch, on the whole test split, read once an arm.
    """
    changes = overrides or {}
    recipe = _recipe("scratch", LEARNING_RATES[0], seed, changes)
    splits = training_splits(recipe, read_split(recipe.data.kind, data, "train"))
    setting = Setting(splits, data, weights, seed, device, changes, out / "ten-shot", run_dir)
    setting.cells.mkdir(parents=True, exist_ok=True)
    trials = {arm: [_trial(setting, arm, lr) for lr in LEARNING_RATES] for arm in ARMS}
    chosen = [_tested(setting, max(cells, key=lambda cell: cell.held_out_accuracy)) for cells in trials.values()]
    report = out / "ten-shot.md"
    report.write_text(_table(setting, chosen, [cell for cells in trials.values() for cell in cells]), encoding="utf-8")
    return report


def _recipe(arm: str, lr: float, seed: int, overrides: dict[str, object]) -> Recipe:
    return load_recipe(RECIPE, {**overrides, **ARMS[arm], "optim.lr": lr, "seed": seed})


def _trial(setting: Setting, arm: str, lr: float) -> Cell:
    """Train one cell, or read it where it is finished."""
    recipe, splits = setting.recipe(arm, lr), setting.splits
    beginning = start(recipe, len(splits.train.names), setting.weights)
    inputs = facts(recipe, beginning, splits)
    path = setting.cell(arm, lr)
    finished = _read(path)
    if finished is not None and finished.inputs == inputs:
        return finished
    click.echo(f"{arm}, lr {lr:g}")
    began = time.monotonic()
    run_dir = setting.run_dir(arm, lr)
    claim(run_dir, inputs)
    net = beginning.net.to(setting.device)
    before = {name: p.detach().clone() for name, p in net.named_parameters() if name not in beginning.policy.trained}
    nothing = splits.validation.take(np.arange(0))  # no choice is made between epochs
    fit(net, beginning.policy, recipe, splits.train, nothing, run_dir)
    after = dict(net.named_parameters())
    cell = Cell(
        arm=arm,
        lr=lr,
        seed=setting.seed,
        inputs=inputs,
        code=code_version(),
        held_out_accuracy=accuracy_of(net, splits.validation, recipe.input),
        frozen_tensors=len(before),
        frozen_unchanged=all(torch.equal(tensor, after[name]) for name, tensor in before.items()),
        minutes=(time.monotonic() - began) / 60,
    )
    _write(path, cell)
    return cell


def _tested(setting: Setting, cell: Cell) -> Cell:
    """The cell with its accuracy on the test split, measured as served. Raises: BadRunDir (its weights are gone)."""
    if cell.test_accuracy is not None:
        return cell
    recipe = setting.recipe(cell.arm, cell.lr)
    trained = start(recipe, len(setting.splits.train.names), setting.weights)
    trained.net.load_state_dict(read_weights(setting.run_dir(cell.arm, cell.lr) / BEST))
    test = read_split(recipe.data.kind, setting.data, "test")
    manifest = describe(Made(recipe.name, recipe, trained, setting.splits.train, setting.splits.validation, recipe.data.kind))
    report = evaluate(Predictor(trained.net, manifest, setting.device), test)
    tested = replace(cell, test_accuracy=report.accuracy, test_clouds=len(test))
    _write(setting.cell(cell.arm, cell.lr), tested)
    return tested


def _read(path: Path) -> Cell | None:
    """A finished cell; None where there is none, or one that another version of the code wrote in another form."""
    try:
        return Cell(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, cell: Cell) -> None:
    write_text(path, json.dumps(asdict(cell), indent=1) + "\n")


def _table(setting: Setting, chosen: list[Cell], trials: list[Cell]) -> str:
    """The report in Markdown: the chosen cells, the gaps, every trial, and how it was made."""
    recipe, splits = setting.recipe("scratch", LEARNING_RATES[0]), setting.splits
    accuracy = {cell.arm: 100 * (cell.test_accuracy or 0) for cell in chosen}
    rows = [
        f"| {cell.arm} | {cell.lr:g} | {100 * cell.held_out_accuracy:.2f} | {accuracy[cell.arm]:.2f} "
        f"| {_frozen(cell)} | {cell.minutes:.1f} |"
        for cell in chosen
    ]
    codes = sorted({cell.code for cell in trials})
    lines = [
        "# ten-shot: does image pretraining help with ten clouds a class?",
        "",
        f"{recipe.network} inflated from 2D weights, ModelNet40 with {recipe.data.shots} training clouds a class "
        f"({len(splits.train)} clouds of {len(splits.train.cloud(0)):,} points), {recipe.epochs} epochs, **one seed ({setting.seed})**: no "
        "spread is known, and gaps of a point or two mean nothing here. The learning rate of each arm was chosen from "
        f"{' and '.join(f'{lr:g}' for lr in LEARNING_RATES)} on {len(splits.validation)} held-out *train* clouds; the last epoch of the "
        f"chosen run was then measured on the {chosen[0].test_clouds} test clouds, through the served Predictor.",
        "",
        "| arm | learning rate | held-out % | test % | frozen tensors bit-identical after training | minutes |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "| gap | points, test % | paper, ResNet18, three seeds |",
        "|---|---|---|",
        f"| FIP-ALL over scratch | {accuracy['fip-all'] - accuracy['scratch']:+.2f} | +1.0 (72.2 → 73.2; 2,048 points) |",
        f"| IO+BN, image over random frozen filters | {accuracy['fip-iobn'] - accuracy['random-frozen-iobn']:+.2f} | not in the paper |",
        "",
        *_edge(chosen),
        "All trials (held-out %): " + ", ".join(f"{cell.arm} at {cell.lr:g}: {100 * cell.held_out_accuracy:.2f}" for cell in trials) + ".",
        "",
        f"Recipe `{RECIPE}`, trained by {' and '.join(codes)}; torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} "
        f"thread(s) of {os.cpu_count()} cores, shared with other work, so the minutes are an upper bound. Again with: "
        f"`fip reproduce ten-shot --seed {setting.seed} --data MODELNET40_HDF5 --weights imagenet1k_resnet18_pq_small.npz`.",
        "",
    ]
    return "\n".join(lines)


def _edge(chosen: list[Cell]) -> list[str]:
    """A warning where the chosen learning rates lie on one side of the two that were tried."""
    picked = {cell.lr for cell in chosen}
    if len(picked) > 1:
        return []
    other = "lower" if picked == {min(LEARNING_RATES)} else "higher"
    return [f"Every arm chose {picked.pop():g}, so a still {other} learning rate may be better for all of them.", ""]


def _frozen(cell: Cell) -> str:
    if not cell.frozen_tensors:
        return "– (none frozen)"
    return f"yes, all {cell.frozen_tensors}" if cell.frozen_unchanged else "**no**"
