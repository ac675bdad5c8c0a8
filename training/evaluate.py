"""Scores of a checkpoint, measured through Predictor: the numbers are those of the service."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.predictor import Predictor
from training.datasets import Clouds
from training.progress import progress

BATCH = 32
Z95 = 1.959964  # of the normal distribution


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


def evaluate(predictor: Predictor, clouds: Clouds) -> ClassificationReport:
    """Classify every cloud as the service would. Raises: BadDataset (the classes are not the model's, in its order; no clouds)."""
    if clouds.names != predictor.manifest.labels:
        raise BadDataset(f"the data set names other classes than the model: {clouds.names[:3]}…, {predictor.manifest.labels[:3]}…")
    if not len(clouds):
        raise BadDataset("there are no clouds to evaluate on")
    predicted = [prediction for batch in _batches(predictor, clouds) for prediction in batch]
    return ClassificationReport(np.array(predicted, np.int64), clouds.targets, clouds.names)


def _batches(predictor: Predictor, clouds: Clouds) -> Iterator[list[int]]:
    starts = range(0, len(clouds), BATCH)
    for start in progress(starts, f"evaluating, batches of {BATCH}", len(starts)):
        rows = range(start, min(start + BATCH, len(clouds)))
        batch = [predictor.voxelize(clouds.cloud(row)) for row in rows]
        yield [prediction.index for prediction in predictor.classify(batch)]
