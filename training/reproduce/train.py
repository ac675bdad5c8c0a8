"""Trains one trial and says what it found."""

import math
import platform
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from models.errors import Diverged
from models.predictor import Predictor
from models.sparse.backends import engine_named
from models.sparse.backends.native import NativeEngine
from training.data import Data, asking, class_names
from training.datasets import Clouds
from training.loop import Compute, fit
from training.metrics import Confusion
from training.publish import Made, code_version, describe
from training.recipe import Recipe
from training.reproduce.trial import Inputs, Record, Trial, teacher_of, weights_of
from training.run import Splits, Start, start, training_splits, without_labels
from training.runlog import read_scalars
from training.runstate import claim
from training.teaching import taught
from training.validation import validate


@dataclass(frozen=True)
class Beginning:
    """What a trial starts from. source: the 2D weights."""

    recipe: Recipe
    splits: Splits[Data]
    start: Start
    source: Path | None

    @classmethod
    def of(cls, trial: Trial, inputs: Inputs) -> "Beginning":
        recipe = trial.recipe(inputs.up)
        begins = weights_of(trial)
        source = inputs.weights[begins] if begins else None
        begun = start(recipe, len(class_names(inputs.train, recipe)), str(source) if source else None)
        return cls(recipe, training_splits(recipe, inputs.train), begun, source)


@dataclass(frozen=True)
class Scores:
    """Shares; None where that was not looked at. classes: IoU of each on the test scenes."""

    held_out: float
    test: float | None = None
    unvoted: float | None = None
    classes: dict[str, float] | None = None


@dataclass(frozen=True)
class Lesson:
    """What a trial learns from. teacher: the test score of who speaks of some of it; epochs: what that one's training logged."""

    clouds: Data
    teacher: float | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)


def train_trial(trial: Trial, inputs: Inputs, run_dir: Path, device: str = "cpu") -> Record:
    """Train and score; what was saved of it in `run_dir` before is gone on with. A run that diverges is recorded as such.

    Products are in bfloat16 where the recipe trains so, in scoring as in training. Raises: what `fit` raises, KeyboardInterrupt
    among it, once it is saved; Diverged of a teacher.
    """
    begun = Beginning.of(trial, inputs)
    recipe, splits, policy = begun.recipe, begun.splits, begun.start.policy
    net = begun.start.net.to(device)
    watched = splits.validation if trial.curve else splits.validation.take(np.arange(0))
    claim(run_dir, inputs.of(trial))
    guess = 1 / len(class_names(inputs.train, recipe)) if recipe.task == "classify" else 0.0
    scores, diverged, name = Scores(guess, None if trial.search else guess), False, None
    lesson = _taught(trial, begun, inputs, run_dir, device)
    try:
        name = fit(net, policy, recipe, lesson.clouds, watched, run_dir, Compute(brief=True)).engine
        scores = _scored(net, trial, begun, inputs, name, device)
    except Diverged:
        diverged = True
    epochs = read_scalars(run_dir)
    return Record(
        trial=trial.name,
        inputs=inputs.of(trial),
        weights=begun.source.name if begun.source else None,
        code=code_version(),
        engine=_engine(name),
        machine=machine(device),
        held_out=scores.held_out,
        held_out_clouds=len(splits.validation),
        test=scores.test,
        test_clouds=0 if scores.test is None else len(inputs.test),
        parameters=sum(p.numel() for p in net.parameters()),
        trained=sum(p.numel() for name, p in net.named_parameters() if name in policy.trained),
        seconds=total(epochs, "seconds") + total(lesson.epochs, "seconds"),
        cpu_seconds=total(epochs, "cpu_seconds") + total(lesson.epochs, "cpu_seconds"),
        curve=[
            {key: round(row[key], 4) for key in ("epoch", "loss", "val_accuracy", "val_miou", "cpu_seconds") if key in row}
            for row in epochs
        ],
        diverged=diverged,
        classes=scores.classes,
        unvoted=scores.unvoted,
        teacher=lesson.teacher,
    )


def _taught(trial: Trial, begun: Beginning, inputs: Inputs, run_dir: Path, device: str) -> Lesson:
    """The labelled clouds, and with a teacher, which is trained first, those without labels too."""
    teacher = teacher_of(trial)
    if teacher is None or begun.recipe.distill is None:
        return Lesson(begun.splits.train)
    own = Beginning.of(teacher, inputs)
    net, unwatched = own.start.net.to(device), own.splits.validation.take(np.arange(0))
    name = fit(net, own.start.policy, own.recipe, own.splits.train, unwatched, run_dir / "teacher", Compute(brief=True)).engine
    score = _scored(net, teacher, own, inputs, name, device).test
    made = Made("teacher", own.recipe, own.start, own.splits.train, own.splits.validation, inputs.kind)
    others = without_labels(begun.recipe, cast(Clouds, inputs.train))
    labelled = cast(Clouds, begun.splits.train)
    speaks = Predictor(net, describe(made), device, name)
    clouds = taught(speaks, labelled, others, begun.recipe.distill, run_dir, own.recipe.digest)
    return Lesson(clouds, score, read_scalars(run_dir / "teacher"))


def total(epochs: list[dict[str, float]], what: str) -> float:
    """Of all epochs; one that was stopped after its last step says nothing, and counts as the others do on average."""
    known = [row[what] for row in epochs if what in row]
    return round(sum(known) / len(known) * len(epochs), 1) if known else 0.0


def _scored(net: nn.Module, trial: Trial, begun: Beginning, inputs: Inputs, engine: str | None, device: str) -> Scores:
    """On held-out data, and on the test data unless the trial belongs to a search."""
    recipe, chosen = begun.recipe, engine_named(engine) if engine else None
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        held_out = _score(validate(net, asking(begun.splits.validation, recipe), engine=chosen), recipe)
        if trial.search:
            return Scores(held_out)
        with closing(inputs.test_samples(recipe)) as samples:
            plain = validate(net, samples, engine=chosen)
        if recipe.input.votes is None:
            return Scores(held_out, _score(plain, recipe), None, _ious(plain, inputs, recipe))
        voted = validate(net, asking(inputs.test, recipe), engine=chosen)
        return Scores(held_out, _score(voted, recipe), _score(plain, recipe))


def _ious(found: Confusion, inputs: Inputs, recipe: Recipe) -> dict[str, float] | None:
    if recipe.task == "classify":
        return None
    classes = class_names(inputs.test, recipe)
    return {each: float(iou) for each, iou in zip(classes, found.iou, strict=True) if not math.isnan(iou)}


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
