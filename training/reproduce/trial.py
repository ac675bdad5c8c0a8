"""One training of one net, and what is kept of it: a record, one JSON file, from which every page is made."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from models.sparse.backends import engine_for
from models.sparse.backends.native import NativeEngine
from training.datasets import Clouds
from training.loop import Compute, fit, validate
from training.publish import code_version
from training.recipe import Recipe, load_recipe
from training.reproduce.arms import ARMS
from training.run import start, training_splits
from training.runlog import read_scalars
from training.runstate import claim, held, write_text
from training.samples import CloudSamples

RECIPE = "paper-modelnet40"
FULL = "full"


@dataclass(frozen=True)
class Trial:
    """An arm (training.reproduce.arms) of a network on `shots` clouds a class (None: all), at one learning rate and seed.

    search: it serves to choose the learning rate, and the test clouds are not looked at. curve: the held-out clouds are scored
    after every epoch.
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

    def recipe(self) -> Recipe:
        shared = {"network": self.network, "data.shots": self.shots, "epochs": self.epochs, "optim.lr": self.lr, "seed": self.stream}
        return load_recipe(RECIPE, shared | ARMS[self.arm])

    @property
    def stream(self) -> int:
        """What everything random is drawn by: trials of a search see other clouds than those that are reported."""
        return self.seed + 1000 * self.search


def setting_name(network: str, shots: int | None) -> str:
    return f"{network}-{FULL if shots is None else f'{shots}shot'}"


@dataclass(frozen=True)
class Record:
    """What one trial found. Accuracies are shares, test None where it was not looked at; seconds of this process.

    inputs: digests of recipe, 2D weights and data. curve: per epoch, loss and, where it was asked for, held-out accuracy and the
    seconds from the beginning.
    """

    trial: str
    inputs: dict[str, str | None]
    code: str
    engine: str
    machine: str
    held_out: float
    held_out_clouds: int
    test: float | None
    test_clouds: int
    parameters: int
    trained: int
    steps: int
    seconds: float
    cpu_seconds: float
    curve: list[dict[str, float]]

    @classmethod
    def diverged(cls, trial: Trial, inputs: "Inputs") -> "Record":
        """Of a learning rate at which the loss became infinite: no cloud is right."""
        return cls(trial.name, inputs.of(trial), code_version(), "", "", 0.0, 0, None, 0, 0, 0, 0, 0.0, 0.0, [])


@dataclass(frozen=True)
class Inputs:
    """The clouds of ModelNet40 and 2D weights by network, with their digests. cache: of what can be computed once."""

    train: Clouds
    test: Clouds
    weights: dict[str, Path]
    digests: dict[str, str]
    cache: Path

    def of(self, trial: Trial) -> dict[str, str | None]:
        """What makes the record of a trial this one and no other."""
        recipe = trial.recipe()
        image = self.digests.get(trial.network) if recipe.init == "image" else None
        return {"recipe": recipe.digest, "weights": image, "train": self.digests["train"], "test": self.digests["test"]}


def train_trial(trial: Trial, inputs: Inputs, run_dir: Path, device: str = "cpu") -> Record:
    """Train and score; what was saved of it in `run_dir` before is gone on with.

    Products are in bfloat16 where the recipe trains so, in scoring as in training. Raises: what `fit` raises, KeyboardInterrupt
    among it, once it is saved.
    """
    recipe = trial.recipe()
    splits = training_splits(recipe, inputs.train)
    source = str(inputs.weights[trial.network]) if recipe.init == "image" else None
    beginning = start(recipe, len(inputs.train.names), source)
    net, policy = beginning.net.to(device), beginning.policy
    watched = splits.validation if trial.curve else splits.validation.take(np.arange(0))
    wall, cpu = time.monotonic(), time.process_time()
    with held(run_dir):
        claim(run_dir, inputs.of(trial))
        fit(net, policy, recipe, splits.train, watched, run_dir, Compute(brief=True))
        seconds, cpu_seconds = time.monotonic() - wall, time.process_time() - cpu
        epochs = read_scalars(run_dir)
    held_out = CloudSamples(splits.validation, recipe.input)
    test = CloudSamples(inputs.test, recipe.input).cached(inputs.cache)
    engine = engine_for(device)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        on_held_out = validate(net, held_out, engine=engine).accuracy
        on_test = None if trial.search else validate(net, test, engine=engine).accuracy
    test.close()
    return Record(
        trial=trial.name,
        inputs=inputs.of(trial),
        code=code_version(),
        engine=engine.name + (f" {engine.instruction_set}" if isinstance(engine, NativeEngine) else ""),
        machine=machine(device),
        held_out=on_held_out,
        held_out_clouds=len(held_out),
        test=on_test,
        test_clouds=0 if on_test is None else len(test),
        parameters=sum(p.numel() for p in net.parameters()),
        trained=sum(p.numel() for name, p in net.named_parameters() if name in policy.trained),
        steps=recipe.epochs * -(-len(splits.train) // recipe.batch_size),
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu_seconds, 1),
        curve=_curve(epochs),
    )


def _curve(epochs: list[dict[str, float]]) -> list[dict[str, float]]:
    began = epochs[0]["time"] if epochs else 0.0
    kept = ("loss", "val_accuracy")
    return [
        {"epoch": int(row["epoch"]), "after": round(row["time"] - began, 1)} | {key: round(row[key], 4) for key in kept if key in row}
        for row in epochs
    ]


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
