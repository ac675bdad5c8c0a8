"""One class for every voxel, from those of its points."""

import numpy as np
import numpy.typing as npt

from models.labels import IGNORE
from models.manifest import Fidelity
from models.voxelize import Voxels


def vote(labels: npt.NDArray[np.int64], voxels: Voxels, num_classes: int, rule: Fidelity = "corrected") -> npt.NDArray[np.int64]:
    """Classes of points (N,) -> of voxels (M,).

    corrected: that of most points, of those that have one; IGNORE where two classes tie, or no point has one. reference: that of
    the first point in the file, whatever the others are.
    """
    if rule == "reference":
        first = np.empty(len(voxels), np.int64)
        first[voxels.inverse[::-1]] = labels[::-1]  # of the writes to one place the last one stays
        return first
    known = labels != IGNORE
    lowest = min(int(labels.min()), 0)  # groups of classes vote as classes do
    pairs, counts = np.unique(voxels.inverse[known] * (num_classes - lowest) + labels[known] - lowest, return_counts=True)
    rows, classes = np.divmod(pairs, num_classes - lowest)
    classes = classes + lowest
    most = np.zeros(len(voxels), np.int64)
    np.maximum.at(most, rows, counts)
    leads = counts == most[rows]
    winner = np.full(len(voxels), IGNORE)
    winner[rows[leads]] = classes[leads]
    winner[np.bincount(rows[leads], minlength=len(voxels)) > 1] = IGNORE
    return winner
