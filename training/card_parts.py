"""What cards are made of, whatever the model was made to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from models.manifest import InputSpec
from training.bodies import Body
from training.data import Data
from training.datasets import Scenes
from training.evaluate import Report, counted
from training.progress import progress
from training.recipe import Recipe

CLASSES_SHOWN = 100
WEAKEST_SHOWN = 5


@dataclass(frozen=True)
class Scores:
    """Reports of the published weights, each None where there is no data.

    best_published: whether they are those of the epoch best on validation (else of the last); other_test: the test report of
    the other of the two. epoch: which of the `epochs` that were trained is published; runs: how many of them there were,
    which are averaged. test_without: test reports of scenes that
    lack a column. chosen_on_test: validation was on the test data (a quirk of the reference), and has no report of its own.
    """

    test: Report | None
    validation: Report | None
    best_published: bool = False
    other_test: Report | None = None
    epoch: int = 0
    epochs: int = 0
    runs: int = 1
    test_without: Mapping[str, Report] = field(default_factory=dict)
    chosen_on_test: bool = False

    @property
    def other_name(self) -> str:
        return "last epoch" if self.best_published else "best validation epoch"

    @property
    def rows(self) -> list[tuple[str, Report]]:
        """What a table of scores shows, with the title of each row."""
        kind = f"best on {'test' if self.chosen_on_test else 'validation'}" if self.best_published else "the last"
        published = f"epoch {self.epoch} of {self.epochs}, {kind} (published)"
        if self.runs > 1:
            published = f"mean of {self.runs} runs of {counted(self.epochs // self.runs, 'epoch')} (published)"
        rows = [(f"test, {published}", self.test), (f"test, {self.other_name}", self.other_test)]
        rows += [(f"test, published, without {column}", report) for column, report in self.test_without.items()]
        rows.append((f"validation, {published}", self.validation))
        return [(title, report) for title, report in rows if report is not None]


@dataclass(frozen=True)
class Story:
    """What a card needs beside the manifest. validation: None where that was the test data. notes: what its user must know of the data.

    body: of the model that it began with, where that was one of ours.
    """

    recipe: Recipe
    train: Data
    validation: Data | None
    scores: Scores
    num_parameters: int
    notes: tuple[str, ...] = ()
    body: Body | None = None

    @cached_property
    def train_points(self) -> npt.NDArray[np.int64]:
        """(L,) labelled points of every class in the training scenes, all of which are read for it, once."""
        scenes = cast(Scenes, self.train)
        counts = np.zeros(len(scenes.label_map), np.int64)
        for row in progress(range(len(scenes)), "counting points for the card, scenes", len(scenes)):
            labels = scenes.scene(row).labels
            counts += np.bincount(labels[labels >= 0], minlength=len(counts))
        return counts


def input_words(spec: InputSpec) -> str:
    """What happens to the points before the net sees them."""
    sphere = spec.normalise == "unit_sphere"
    size = f"{spec.voxel_size:g} of the object's radius" if sphere else f"{spec.voxel_size:g} m"
    parts = [f"Its points become voxels of {size} with the features"]
    parts.append(", ".join(feature.name for feature in spec.features) + ";")
    if sphere:
        parts.append("clouds are centred on their mean and scaled to a unit sphere, so unit and place do not matter;")
    if spec.point_budget:
        parts.append(f"those of more than {spec.point_budget:,} points are sampled down to that, always the same way;")
    if spec.votes:
        parts.append(
            f"the answer is the mean over {spec.votes.count} variants of a cloud, which cost as many times as much; the scores here are of "
            "that mean, those of single epochs are not;"
        )
    parts.append(f"the up axis is {spec.up} (`?up=` tells otherwise).")
    return " ".join(parts)


def weakest_words(scores: list[tuple[float, str]]) -> str:
    """A sentence on the classes that it knows worst, of those that can be judged: (score, name)."""
    rest = "Every class and every epoch: `metrics.json`."
    below = [f"{cell(name)} {share:.0%}" for share, name in sorted(scores)[:WEAKEST_SHOWN] if share < 1]
    return f"Weakest classes: {', '.join(below)}. {rest}" if below else rest


def cell(text: str) -> str:
    """A class name (of a folder, so anything) as text in a Markdown table."""
    return "".join(f"\\{char}" if char in "\\|`*_[]<>" else char for char in text if char.isprintable())
