"""What one training of one net is called, and what is kept of it: a record, one JSON file, from which every page is made."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from training.data import Data, checking
from training.recipe import Recipe, load_recipe
from training.reproduce.arms import TEACHERS, overrides_of
from training.runstate import write_text
from training.samples import Samples

PAPER = "paper-modelnet40"
FULL = "full"
SEARCH_STREAM = 1000
HELD_SCENES = 0.5  # of the training scenes, where they choose a learning rate: most are of one street
Up = Literal["y", "z"]
TURNED = {"y": "z", "z": "y"}  # axes of files with the other one up


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
        turned: dict[str, object] = {f"inflate.{role}": TURNED.get(axis, axis) for role, axis in order.items()}
        if recipe.input.views is not None:
            features = [feature.model_dump() for feature in recipe.input.features]
            turned["input.views"] = {"count": recipe.input.views.count, "depth": TURNED[recipe.input.views.depth]}
            turned["input.features"] = [each | {"name": TURNED.get(each["name"], each["name"])} for each in features]
        return load_recipe(self.base, shared | overrides_of(self.arm) | turned | {"input.up": "y"})


@cache
def digest_of(trial: Trial, up: Up) -> str:
    """Of its recipe, and of that of its teacher, where it has one."""
    own, teacher = trial.recipe(up).digest, teacher_of(trial)
    return own if teacher is None else hashlib.sha256(f"{own} {digest_of(teacher, up)}".encode()).hexdigest()


def teacher_of(trial: Trial) -> Trial | None:
    """Who speaks of the clouds without labels: another arm, trained on the same labelled ones."""
    name, *added = trial.arm.split("+")
    if name not in TEACHERS:
        return None
    arm, epochs, lr = TEACHERS[name]
    return replace(trial, arm="+".join([arm, *added]), epochs=epochs, lr=lr)


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
    are then those of a guess. seconds, cpu_seconds: of all training steps, by the clock and of the process, over all stops, those of a
    teacher among them. curve: of every epoch the loss, its seconds and, where that was asked for, the held-out score. classes: IoU on
    the test scenes.
    unvoted: the test score of clouds as they are, where a recipe asks for votes; teacher: that of who taught it.
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
    unvoted: float | None = None
    teacher: float | None = None


@dataclass(frozen=True)
class Inputs:
    """The data of one kind, and 2D weights by network beside the package's own by name, with their digests. cache: of the test clouds as
    voxels.
    """

    kind: str
    train: Data
    test: Data
    weights: dict[str, Path]
    digests: dict[str, str]
    cache: Path
    up: Up = "z"

    def of(self, trial: Trial) -> dict[str, str | None]:
        """What makes the record of a trial this one and no other."""
        begun = weights_of(trial)
        weights = None if begun is None else self.digests.get(begun)
        return {"recipe": digest_of(trial, self.up), "weights": weights, "train": self.digests["train"], "test": self.digests["test"]}

    def test_samples(self, recipe: Recipe) -> Samples:
        """The test data as it is, without votes, prepared once. To be called by one process before several do."""
        return checking(self.test, recipe).cached(self.cache)


@cache
def weights_of(trial: Trial) -> str | None:
    """What it starts from: its network stands for the 2D weights of that, else the name of weights of the package; None from nothing."""
    recipe = trial.recipe()
    return (recipe.weights or trial.network) if recipe.init == "image" else None


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
