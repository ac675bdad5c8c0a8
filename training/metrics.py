"""Scores of a segmentation, counted per point.

N points, L classes, D frames. Shares are between 0 and 1. A class is *predicted* where a counted point got it, and has *ground truth*
where a counted point is of it. A class with neither is absent: it has no IoU, and three rules are in use for the mean:

- `left_out`: over the classes that are not absent. One that is predicted but has no ground truth counts with its IoU, 0.
  As torchmetrics' `JaccardIndex(average="macro")`. The mean accuracy is by this rule too, as its `Accuracy(average="macro")`.
- `zero`: over all L, absent classes as 0. As `evaluate_semantics.py` of SemanticKITTI's semantic-kitti-api.
- `one`: over all L, classes without ground truth as 1, whether they are predicted or not. As the code of Image2Point, whose S3DIS has 14
  classes of which one is ignored: it reports (13 · mIoU + 1) / 14, 55.09 % where 51.64 % is meant.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.labels import IGNORE, LabelMap

Absent = Literal["left_out", "zero", "one"]
Score = Callable[["Confusion"], float]
DRAWS = 1000


def scored_targets(targets: npt.NDArray[np.int64], label_map: LabelMap) -> npt.NDArray[np.int64]:
    """Targets (N,), IGNORE for those of classes that scores leave out, and for those that leave their class open."""
    return np.where((targets >= 0) & label_map.scored[np.maximum(targets, 0)], targets, IGNORE)


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts (L, L) int64: how many points of the class of the row were given the class of the column. Ignored points are not in it."""

    counts: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.counts),) * 2 or self.counts.dtype != np.int64:
            raise ValueError(f"counts must be (L, L) int64, got {self.counts.shape} {self.counts.dtype}")

    @classmethod
    def none(cls, num_classes: int) -> "Confusion":
        """Of no points: where a sum starts."""
        return cls(np.zeros((num_classes, num_classes), np.int64))

    @classmethod
    def of(cls, predicted: npt.NDArray[np.integer], targets: npt.NDArray[np.integer], num_classes: int) -> "Confusion":
        """predicted (N,) in [0, L), targets (N,) in [0, L) or IGNORE; the points of IGNORE are left out, whatever they were given.

        Raises: ValueError (the lengths differ, a class is none of L).
        """
        if predicted.shape != targets.shape or predicted.ndim != 1:
            raise ValueError(f"one class per point: predicted {predicted.shape}, targets {targets.shape}")
        _check("predicted", predicted, 0, num_classes)
        _check("targets", targets, IGNORE, num_classes)
        counted = targets != IGNORE
        cells = targets[counted].astype(np.int64) * num_classes + predicted[counted].astype(np.int64)
        return cls(np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64, copy=False))

    def __len__(self) -> int:
        """L"""
        return len(self.counts)

    def __add__(self, other: "Confusion") -> "Confusion":
        """Of the points of both."""
        if len(self) != len(other):
            raise ValueError(f"confusions of {len(self)} and of {len(other)} classes do not add")
        return Confusion(self.counts + other.counts)

    @property
    def num_points(self) -> int:
        """Points that count: N without those of IGNORE."""
        return int(self.counts.sum())

    @property
    def ground_truth(self) -> npt.NDArray[np.bool_]:
        """(L,) has points."""
        return np.asarray(self._points > 0)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(L,) has points or was predicted: not absent."""
        return np.asarray(self._union > 0)

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """(L,) right points over points that are or were said to be of the class; NaN for an absent class."""
        return _ratio(self._right, self._union)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that are not absent; NaN where no point counts."""
        return self.mean_iou("left_out")

    def mean_iou(self, absent: Absent) -> float:
        """Mean IoU by one of the three rules above; NaN where no point counts."""
        if not self.num_points:
            return float("nan")
        if absent == "left_out":
            return float(self.iou[self.present].mean())
        if absent == "zero":
            return float(np.where(self.present, self.iou, 0.0).mean())
        return float(np.where(self.ground_truth, self.iou, 1.0).mean())

    @property
    def accuracy(self) -> float:
        """Share of points that are right; NaN where no point counts."""
        return float(_ratio(self._right.sum(), self._points.sum()))

    @property
    def class_accuracy(self) -> npt.NDArray[np.float64]:
        """(L,) share of right points of each class; NaN for one without ground truth."""
        return _ratio(self._right, self._points)

    @property
    def mean_accuracy(self) -> float:
        """Mean share of right points over the classes that are not absent, 0 for one without ground truth; NaN where no point counts."""
        if not self.num_points:
            return float("nan")
        return float(np.where(self.ground_truth, self.class_accuracy, 0.0)[self.present].mean())

    @property
    def _right(self) -> npt.NDArray[np.int64]:
        return np.diag(self.counts)

    @property
    def _points(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=1))

    @property
    def _union(self) -> npt.NDArray[np.int64]:
        return np.asarray(self._points + self.counts.sum(axis=0) - self._right)


def interval(confusions: Sequence[Confusion], seed: int, *, score: Score = lambda all_frames: all_frames.miou) -> tuple[float, float]:
    """The middle 95 % of a score (default: mIoU) over sets of D frames that are drawn, with replacement, from the D given.

    Points of a frame say much the same thing, so frames are drawn, not points. Successive frames of one street say much the same thing
    too: this interval is of the frames given, and too narrow for streets in general. Frames of which no point counts say nothing and
    are not drawn; NaN where all are such. Raises: ValueError (no frames).
    """
    if not confusions:
        raise ValueError("no frames to draw from")
    telling = [each.counts for each in confusions if each.num_points]
    if not telling:
        return math.nan, math.nan
    counts = np.stack(telling)  # (D, L, L)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=DRAWS)  # (DRAWS, D): how often each frame was drawn
    scores = [score(Confusion(np.tensordot(each, counts, axes=1))) for each in times]
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _check(what: str, classes: npt.NDArray[np.integer], lowest: int, num_classes: int) -> None:
    wrong = (classes < lowest) | (classes >= num_classes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{what} must be in [{lowest}, {num_classes}), found {classes[row]} at point {row}")


def _ratio(part: npt.NDArray[np.integer], whole: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """part / whole, NaN where whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0))
