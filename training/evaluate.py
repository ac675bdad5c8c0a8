"""Scores of a checkpoint, measured through Predictor: the numbers are those of the service.

D clouds or scenes, N points of a scene, L classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.predictor import Predictor
from training.datasets import Clouds, Scenes
from training.datasets.file_scenes import naming
from training.metrics import Absent, Confusion, interval, scored_targets
from training.progress import progress

BATCH = 32
Z95 = 1.959964  # of the normal distribution


class Report(Protocol):
    """What is known of a model after it met labelled data."""

    @property
    def numbers(self) -> dict[str, float]:
        """Scores (shares) and counts by name, for `metrics.json`."""

    @property
    def class_scores(self) -> dict[str, float]:
        """Share of right clouds, or IoU, of every class that has one."""

    @property
    def summary(self) -> str:
        """One line for a terminal."""

    @property
    def details(self) -> dict[str, object]:
        """All there is, for JSON."""


@dataclass(frozen=True)
class ClassificationReport:
    """D clouds, L classes. predicted, targets (D,) int64."""

    predicted: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of clouds that are right."""
        return float((self.predicted == self.targets).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy over clouds such as these (Wilson's score interval)."""
        n, p = len(self.targets), self.accuracy
        middle, width = p + Z95**2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
        return max(0.0, (middle - width) / (1 + Z95**2 / n)), min(1.0, (middle + width) / (1 + Z95**2 / n))

    @property
    def class_accuracy(self) -> dict[str, float]:
        """Share of right clouds of every class that occurs."""
        right = self.predicted == self.targets
        return {name: float(right[self.targets == i].mean()) for i, name in enumerate(self.names) if (self.targets == i).any()}

    @property
    def mean_class_accuracy(self) -> float:
        return float(np.mean(list(self.class_accuracy.values())))

    @property
    def numbers(self) -> dict[str, float]:
        low, high = self.interval
        shares = {"accuracy": self.accuracy, "accuracy_low": low, "accuracy_high": high, "mean_class_accuracy": self.mean_class_accuracy}
        return {**shares, "clouds": float(len(self.targets))}

    @property
    def class_scores(self) -> dict[str, float]:
        return self.class_accuracy

    @property
    def summary(self) -> str:
        right = int((self.predicted == self.targets).sum())
        return f"accuracy {self.accuracy:.2%} ({right} of {len(self.targets)})  mean class accuracy {self.mean_class_accuracy:.2%}"

    @property
    def details(self) -> dict[str, object]:
        summary = {"accuracy": self.accuracy, "mean_class_accuracy": self.mean_class_accuracy, "class_accuracy": self.class_accuracy}
        return {**summary, "predicted": self.predicted.tolist(), "targets": self.targets.tolist()}


@dataclass(frozen=True)
class SegmentationReport:
    """Per point. confusions: of each of D scenes, points of IGNORE left out; absent: how the mean counts classes without points."""

    confusions: tuple[Confusion, ...]
    names: tuple[str, ...]
    absent: Absent = "left_out"

    @property
    def total(self) -> Confusion:
        """Of all points."""
        return sum(self.confusions, Confusion.none(len(self.names)))

    @property
    def miou(self) -> float:
        return self.total.mean_iou(self.absent)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mIoU over draws of such scenes, of two or more; see training.metrics.interval for what it is not."""
        if sum(each.num_points > 0 for each in self.confusions) < 2:
            return None
        return interval(self.confusions, seed=0, score=lambda total: total.mean_iou(self.absent))

    @property
    def numbers(self) -> dict[str, float]:
        total = self.total
        scores = {"miou": self.miou}
        if self.interval:
            scores |= dict(zip(("miou_low", "miou_high"), self.interval, strict=True))
        scores |= {"accuracy": total.accuracy, "mean_class_accuracy": total.mean_accuracy}
        return {**scores, "scenes": float(len(self.confusions)), "points": float(total.num_points)}

    @property
    def class_scores(self) -> dict[str, float]:
        return {name: float(iou) for name, iou in zip(self.names, self.total.iou, strict=True) if not math.isnan(iou)}

    @property
    def summary(self) -> str:
        total = self.total
        scores = f"mIoU {self.miou:.2%}  accuracy {total.accuracy:.2%}  mean class accuracy {total.mean_accuracy:.2%}"
        return f"{scores}  ({total.num_points:,} labelled points of {counted(len(self.confusions), 'scene')})"

    @property
    def details(self) -> dict[str, object]:
        counts = [confusion.counts.tolist() for confusion in self.confusions]
        numbers = {name: value for name, value in self.numbers.items() if not math.isnan(value)}  # JSON has no NaN
        return {**numbers, "class_iou": self.class_scores, "names": list(self.names), "confusions": counts}


def counted(number: int, what: str) -> str:
    """`1 scene`, `2 scenes`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def evaluate(predictor: Predictor, clouds: Clouds) -> ClassificationReport:
    """Classify every cloud as the service would. Raises: BadDataset (the classes are not the model's, in its order; no clouds)."""
    if clouds.names != predictor.manifest.labels:
        raise BadDataset(f"the data set names other classes than the model: {clouds.names[:3]}…, {predictor.manifest.labels[:3]}…")
    if not len(clouds):
        raise BadDataset("there are no clouds to evaluate on")
    predicted = [prediction for batch in _batches(predictor, clouds) for prediction in batch]
    return ClassificationReport(np.array(predicted, np.int64), clouds.targets, clouds.names)


def evaluate_scenes(
    predictor: Predictor, scenes: Scenes, absent: Absent = "left_out", *, without: Sequence[str] = ()
) -> SegmentationReport:
    """Segment every scene as the service would. without: columns (`rgb`, `intensity`) to take from the clouds first.

    Classes that the label map does not score are left out like unlabelled points. Raises: BadDataset (the classes are not the
    model's, in its order; no scenes), MissingFeature and other InputErrors, which name the scene.
    """
    labels, names = predictor.manifest.labels, scenes.label_map.names
    if names != labels:
        raise BadDataset(f"the data set names other classes than the model: {names[:3]}…, {labels[:3]}…")
    if not len(scenes):
        raise BadDataset("there are no scenes to evaluate on")
    confusions, titles = [], scenes.titles
    for row in progress(range(len(scenes)), "evaluating, scenes", len(scenes)):
        scene = scenes.scene(row)
        rgb, intensity = (None if name in without else getattr(scene.cloud, name) for name in ("rgb", "intensity"))
        with naming(titles[row]):
            voxels = predictor.voxelize(replace(scene.cloud, rgb=rgb, intensity=intensity))
        (found,) = predictor.segment([voxels])
        confusions.append(Confusion.of(found.labels, scored_targets(scene.labels, scenes.label_map), len(names)))
    return SegmentationReport(tuple(confusions), names, absent)


def _batches(predictor: Predictor, clouds: Clouds) -> Iterator[list[int]]:
    starts = range(0, len(clouds), BATCH)
    for start in progress(starts, f"evaluating, batches of {BATCH}", len(starts)):
        rows = range(start, min(start + BATCH, len(clouds)))
        batch = [predictor.voxelize(clouds.cloud(row)) for row in rows]
        yield [prediction.index for prediction in predictor.classify(batch)]
