"""What a labelled cloud holds, class by class: the numbers of a JSON answer.

N points, L classes, P of them present.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.labels import LabelMap


@dataclass(frozen=True)
class Bounds:
    """Minimum and maximum corner of a bounding box, in the units and frame of the file."""

    min: tuple[float, float, float]
    max: tuple[float, float, float]


@dataclass(frozen=True)
class ClassSummary:
    """One class that occurs. id: as label files call it; share: of all points, 0..1; confidence: mean over its points."""

    name: str
    index: int
    id: int
    colour: tuple[int, int, int]
    points: int
    share: float
    bounds: Bounds
    confidence: float


def summary(
    xyz: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    confidence: npt.NDArray[np.float32],
    label_map: LabelMap,
) -> tuple[ClassSummary, ...]:
    """The P classes that occur, by index. xyz (N, 3); labels (N,) in 0..L-1; confidence (N,)."""
    counts = np.bincount(labels, minlength=len(label_map))  # (L,)
    present = np.flatnonzero(counts)  # (P,)
    if not len(present):
        return ()
    sure = np.bincount(labels, weights=confidence, minlength=len(label_map))  # (L,)
    order = np.argsort(labels.astype(np.uint16, copy=False), kind="stable")  # by radix: the points of a class side by side
    starts = np.cumsum(counts[present]) - counts[present]
    grouped = [column[order] for column in xyz.T]
    low = np.stack([np.minimum.reduceat(column, starts) for column in grouped], axis=1).tolist()  # (P, 3)
    high = np.stack([np.maximum.reduceat(column, starts) for column in grouped], axis=1).tolist()
    found = []
    for row, index in enumerate(present.tolist()):
        each = label_map.classes[index]
        points = int(counts[index])
        bounds = Bounds(tuple(low[row]), tuple(high[row]))
        found.append(
            ClassSummary(each.name, index, each.ids[0], each.colour, points, points / len(labels), bounds, float(sure[index]) / points)
        )
    return tuple(found)
