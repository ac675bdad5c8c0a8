"""One training of one net, and what is kept of it: a record, one JSON file, from which every page is made."""

import json
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
from training.datasets import Clouds
from training.loop import Compute, fit, validate
from training.publish import code_version
from training.recipe import Recipe, load_recipe
from training.reproduce.arms import ARMS
from training.run import start, training_splits
from training.runlog import read_scalars
from training.runstate import claim, write_text
from training.samples import CloudSamples

RECIPE = "paper-modelnet40"
FULL = "full"
SEARCH_STREAM = 1000
Up = Literal["y", "z"]


@dataclass(frozen=True)
class Trial:
    """An arm (training.reproduce.arms) of a network on `shots` clouds a class (None: all), at one learning rate and seed.

    search: it serves to choose the learning rate, on other draws than what is reported, and the test clouds are not looked at.
    curve: the held-out clouds are scored after every epoch.
    """

    network: str
    shots: int | None
    epochs: int
    arm: str
    lr: float
    seed: int
    search: bool = False
    curve: bool = False

    @property
    def name(self) -> str:
        """Where its record lies: `resnet18-10shot/scratch-30e-lr0.03-seed0`."""
        what = "search" if self.search else "seed"
        return f"{setting_name(self.network, self.shots)}/{self.arm}-{self.epochs}e-lr{self.lr:g}-{what}{self.seed}"

    def recipe(self, up: Up = "z") -> Recipe:
        """up: the axis that is up in the files; filters are laid by what is up, whichever axis that is."""
        seed = self.seed + SEARCH_STREAM * self.search
        shared = {"network": self.network, "data.shots": self.shots, "epochs": self.epochs, "optim.lr": self.lr, "seed": seed}
        recipe = load_recipe(RECIPE, shared | ARMS[self.arm])
        if up == "z":
            return recipe
        order = dict(zip(("repeat", "height", "width"), recipe.inflate.directions, strict=True))
        turned = {f"inflate.{role}": {"y": "z", "z": "y"}.get(axis, axis) for role, axis in order.items()}
        return load_recipe(RECIPE, shared | ARMS[self.arm] | turned | {"input.up": "y"})


@cache
def digest_of(trial: Trial, up: Up) -> str:
    return trial.recipe(up).digest


def setting_name(network: str, shots: int | None) -> str:
    return f"{network}-{FULL if shots is None else f'{shots}shot'}"


@dataclass(frozen=True)
class Record:
    """What one trial found. Accuracies are shares, test None where it was not looked at.

    inputs: digests of recipe, 2D weights and data; weights: the file of the 2D ones. diverged: the loss became infinite; accuracies
    are then those of a guess. seconds, cpu_seconds: of all training steps, by the clock and of the process, over all stops.
    curve: of every epoch the loss, its seconds and, where that was asked for, the held-out accuracy.
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


@dataclass(frozen=True)
class Inputs:
    """The clouds of ModelNet40 and 2D weights by network, with their digests. cache: of the test clouds as voxels."""

    train: Clouds
    test: Clouds
    weights: dict[str, Path]
    digests: dict[str, str]
    cache: Path
    up: Up = "z"

    def of(self, trial: Trial) -> dict[str, str | None]:
        """What makes the record of a trial this one and no other."""
        image = self.digests.get(trial.network) if starts_from_images(trial) else None
        return {"recipe": digest_of(trial, self.up), "weights": image, "train": self.digests["train"], "test": self.digests["test"]}

    def test_samples(self, recipe: Recipe) -> CloudSamples:
        """The test clouds, voxelized once. To be called by one process before several do."""
        return CloudSamples(self.test, recipe.input).cached(self.cache)


def starts_from_images(trial: Trial) -> bool:
    return ARMS[trial.arm]["init"] == "image"


def train_trial(trial: Trial, inputs: Inputs, run_dir: Path, device: str = "cpu") -> Record:
    """Train and score; what was saved of it in `run_dir` before is gone on with. A run that diverges is recorded as such.

    Products are in bfloat16 where the recipe trains so, in scoring as in training. Raises: what `fit` raises, KeyboardInterrupt
    among it, once it is saved.
    """
    recipe = trial.recipe(inputs.up)
    splits = training_splits(recipe, inputs.train)
    source = inputs.weights[trial.network] if starts_from_images(trial) else None
    beginning = start(recipe, len(inputs.train.names), str(source) if source else None)
    net, policy = beginning.net.to(device), beginning.policy
    watched = splits.validation if trial.curve else splits.validation.take(np.arange(0))
    claim(run_dir, inputs.of(trial))
    guess = 1 / len(inputs.train.names)
    held_out, test, diverged, name = guess, None if trial.search else guess, False, None
    try:
        name = fit(net, policy, recipe, splits.train, watched, run_dir, Compute(brief=True)).engine
        held_out, test = _scores(net, trial, recipe, inputs, CloudSamples(splits.validation, recipe.input), name, device)
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
        curve=[{key: round(row[key], 4) for key in ("epoch", "loss", "val_accuracy", "cpu_seconds") if key in row} for row in epochs],
        diverged=diverged,
    )


def total(epochs: list[dict[str, float]], what: str) -> float:
    """Of all epochs; one that was stopped after its last step says nothing, and counts as the others do on average."""
    known = [row[what] for row in epochs if what in row]
    return round(sum(known) / len(known) * len(epochs), 1) if known else 0.0


def _scores(
    net: torch.nn.Module, trial: Trial, recipe: Recipe, inputs: Inputs, held_out: CloudSamples, engine: str | None, device: str
) -> tuple[float, float | None]:
    """Accuracy on held-out clouds, and on the test clouds unless the trial belongs to a search."""
    chosen = engine_named(engine) if engine else None
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        on_held_out = validate(net, held_out, engine=chosen).accuracy
        if trial.search:
            return on_held_out, None
        test = inputs.test_samples(recipe)
        try:
            return on_held_out, validate(net, test, engine=chosen).accuracy
        finally:
            test.close()


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
        return Record(**json.loads((folder / f"{trial.name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, trial: Trial, record: Record) -> None:
    path = folder / f"{trial.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(record)) + "\n")
