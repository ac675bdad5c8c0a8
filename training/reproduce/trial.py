"""One training of one net, and what is kept of it: a record, one JSON file, from which every page is made."""

import json
import math
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.errors import Diverged
from models.sparse.backends import engine_named
from models.sparse.backends.native import NativeEngine
from training.data import Data, asking, class_names
from training.loop import Compute, fit
from training.metrics import Confusion
from training.publish import code_version
from training.recipe import Recipe, load_recipe
from training.reproduce.arms import overrides_of
from training.run import start, training_splits
from training.runlog import read_scalars
from training.runstate import claim, write_text
from training.samples import Samples
from training.validation import validate

PAPER = "paper-modelnet40"
FULL = "full"
SEARCH_STREAM = 1000
HELD_SCENES = 0.5  # of the training scenes, where they choose a learning rate: most are of one street
Up = Literal["y", "z"]


@dataclass(frozen=True)
class Trial:
    """An arm (training.reproduce.arms) of a network on `shots` clouds a class, or scenes (None: all), at one learning rate and seed.

    search: it serves to choose the learning rate, on other draws than what is reported, and the test data is not looked at.
    curve: the held-out clouds are scored after every epoch. base: the bundled recipe that the arm changes.
    """

    network: str
    shots: int | None
    epochs: int
    arm: str
    lr: float
    seed: int
    search: bool = False
    curve: bool = False
    base: str = PAPER

    @property
    def name(self) -> str:
        """Where its record lies: `resnet18-10shot/scratch-30e-lr0.03-seed0`."""
        what = "search" if self.search else "seed"
        return f"{setting_name(self.network, self.shots, self.base)}/{self.arm}-{self.epochs}e-lr{self.lr:g}-{what}{self.seed}"

    def recipe(self, up: Up = "z") -> Recipe:
        """up: the axis that is up in the files; filters are laid by what is up, whichever axis that is."""
        seed = self.seed + SEARCH_STREAM * self.search
        shared = {"network": self.network, "data.shots": self.shots, "epochs": self.epochs, "optim.lr": self.lr, "seed": seed}
        if self.search and load_recipe(self.base).task == "segment":
            shared["data.validation"] = HELD_SCENES
        recipe = load_recipe(self.base, shared | overrides_of(self.arm))
        if up == "z" or recipe.task == "segment":
            return recipe
        order = dict(zip(("repeat", "height", "width"), recipe.inflate.directions, strict=True))
        turned = {f"inflate.{role}": {"y": "z", "z": "y"}.get(axis, axis) for role, axis in order.items()}
        return load_recipe(self.base, shared | overrides_of(self.arm) | turned | {"input.up": "y"})


@cache
def digest_of(trial: Trial, up: Up) -> str:
    return trial.recipe(up).digest


def setting_name(network: str, shots: int | None, base: str = PAPER) -> str:
    return f"{'' if base == PAPER else f'{base}-'}{network}-{FULL if shots is None else f'{shots}shot'}"


@cache
def kind_of(base: str) -> str:
    """The kind of data that a recipe is for."""
    return load_recipe(base).data.kind


@dataclass(frozen=True)
class Record:
    """What one trial found. Scores are shares, accuracies of clouds or mIoU of points; test None where it was not looked at.

    inputs: digests of recipe, 2D weights and data; weights: the file of the 2D ones. diverged: the loss became infinite; accuracies
    are then those of a guess. seconds, cpu_seconds: of all training steps, by the clock and of the process, over all stops.
    curve: of every epoch the loss, its seconds and, where that was asked for, the held-out score. classes: IoU on the test scenes.
    """

    trial: str
    inputs: dict[str, str | None]
    weights: str | None
    code: str
    engine: str
    machine: str
    held_out: float
    held_out_clouds: int
    test: float | None
    test_clouds: int
    parameters: int
    trained: int
    seconds: float
    cpu_seconds: float
    curve: list[dict[str, float]]
    diverged: bool = False
    classes: dict[str, float] | None = None


@dataclass(frozen=True)
class Inputs:
    """The data of one kind and 2D weights by network, with their digests. cache: of the test clouds as voxels."""

    kind: str
    train: Data
    test: Data
    weights: dict[str, Path]
    digests: dict[str, str]
    cache: Path
    up: Up = "z"

    def of(self, trial: Trial) -> dict[str, str | None]:
        """What makes the record of a trial this one and no other."""
        image = self.digests.get(trial.network) if starts_from_images(trial) else None
        return {"recipe": digest_of(trial, self.up), "weights": image, "train": self.digests["train"], "test": self.digests["test"]}

    def test_samples(self, recipe: Recipe) -> Samples:
        """The test data, prepared once. To be called by one process before several do."""
        return asking(self.test, recipe).cached(self.cache)


def starts_from_images(trial: Trial) -> bool:
    return overrides_of(trial.arm)["init"] == "image"


def train_trial(trial: Trial, inputs: Inputs, run_dir: Path, device: str = "cpu") -> Record:
    """Train and score; what was saved of it in `run_dir` before is gone on with. A run that diverges is recorded as such.

    Products are in bfloat16 where the recipe trains so, in scoring as in training. Raises: what `fit` raises, KeyboardInterrupt
    among it, once it is saved.
    """
    recipe = trial.recipe(inputs.up)
    splits = training_splits(recipe, inputs.train)
    source = inputs.weights[trial.network] if starts_from_images(trial) else None
    classes = class_names(inputs.train, recipe)
    beginning = start(recipe, len(classes), str(source) if source else None)
    net, policy = beginning.net.to(device), beginning.policy
    watched = splits.validation if trial.curve else splits.validation.take(np.arange(0))
    claim(run_dir, inputs.of(trial))
    guess = 1 / len(classes) if recipe.task == "classify" else 0.0
    held_out, test, diverged, name, ious = guess, None if trial.search else guess, False, None, None
    try:
        name = fit(net, policy, recipe, splits.train, watched, run_dir, Compute(brief=True)).engine
        on_held_out, on_test = _scored(net, trial, recipe, inputs, asking(splits.validation, recipe), name, device)
        held_out, test = _score(on_held_out, recipe), _score(on_test, recipe) if on_test else None
        if on_test and recipe.task == "segment":
            ious = {each: float(iou) for each, iou in zip(classes, on_test.iou, strict=True) if not math.isnan(iou)}
    except Diverged:
        diverged = True
    epochs = read_scalars(run_dir)
    return Record(
        trial=trial.name,
        inputs=inputs.of(trial),
        weights=source.name if source else None,
        code=code_version(),
        engine=_engine(name),
        machine=machine(device),
        held_out=held_out,
        held_out_clouds=len(splits.validation),
        test=test,
        test_clouds=0 if test is None else len(inputs.test),
        parameters=sum(p.numel() for p in net.parameters()),
        trained=sum(p.numel() for name, p in net.named_parameters() if name in policy.trained),
        seconds=total(epochs, "seconds"),
        cpu_seconds=total(epochs, "cpu_seconds"),
        curve=[
            {key: round(row[key], 4) for key in ("epoch", "loss", "val_accuracy", "val_miou", "cpu_seconds") if key in row}
            for row in epochs
        ],
        diverged=diverged,
        classes=ious,
    )


def total(epochs: list[dict[str, float]], what: str) -> float:
    """Of all epochs; one that was stopped after its last step says nothing, and counts as the others do on average."""
    known = [row[what] for row in epochs if what in row]
    return round(sum(known) / len(known) * len(epochs), 1) if known else 0.0


def _scored(
    net: torch.nn.Module, trial: Trial, recipe: Recipe, inputs: Inputs, held_out: Samples, engine: str | None, device: str
) -> tuple[Confusion, Confusion | None]:
    """On held-out data, and on the test data unless the trial belongs to a search."""
    chosen = engine_named(engine) if engine else None
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        on_held_out = validate(net, held_out, engine=chosen)
        if trial.search:
            return on_held_out, None
        test = inputs.test_samples(recipe)
        try:
            return on_held_out, validate(net, test, engine=chosen)
        finally:
            test.close()


def _score(found: Confusion, recipe: Recipe) -> float:
    """Accuracy, or mIoU over the classes that occur; 0 of nothing."""
    if not found.num_points:
        return 0.0
    return found.accuracy if recipe.task == "classify" else found.mean_iou("left_out")


def _engine(name: str | None) -> str:
    engine = engine_named(name) if name else None
    return "" if engine is None else engine.name + (f" ({engine.instruction_set})" if isinstance(engine, NativeEngine) else "")


def machine(device: str) -> str:
    """What it was computed on, and by which torch."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{_processor()}, torch {torch.__version__}, {torch.get_num_threads()} thread"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_record(folder: Path, trial: Trial) -> Record | None:
    """What is known of a trial; None where there is nothing, or something that another version of the code wrote in another form."""
    try:
        found = Record(**json.loads((folder / f"{trial.name}.json").read_text(encoding="utf-8")))
        whole = found.inputs.keys() >= {"recipe", "weights", "train", "test"}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return found if whole else None


def write_record(folder: Path, trial: Trial, record: Record) -> None:
    path = folder / f"{trial.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(record)) + "\n")
