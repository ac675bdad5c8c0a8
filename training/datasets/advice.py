"""What a scan says that its owner may want to act on before training. Lines for people; nothing is decided here.

F files, D usable ones, L classes.
"""

import numpy as np
import numpy.typing as npt

from training.datasets.folder import all_clouds, duplicate_notes
from training.datasets.listing import Listing
from training.datasets.scan import Scan

TINY = 10  # clouds of a class, below which it is pointed out
IMBALANCE = 5.0  # largest class over smallest
UNITS = 100.0  # largest diagonal over smallest; a foot is 0.3 m, and mm stand against m as 1,000 to 1
TELLING = 0.3  # share of the variance of log size that classes explain, from which size is worth keeping
SPREAD = 0.05  # standard deviation of log size, below which all clouds count as equally large
SHOWN = 5


def advice(listing: Listing, scan: Scan, whole: Listing | None = None) -> list[str]:
    """One line for each thing worth knowing about the usable files. whole: the folder, where `listing` is a sample of it."""
    usable = scan.usable
    if not usable.any():
        return ["no file can be used"]
    targets = listing.targets[usable].astype(np.int64)
    extents = scan.extents[usable]
    diagonals: npt.NDArray[np.float64] = np.maximum(np.linalg.norm(extents, axis=1), np.finfo(np.float64).tiny)
    return [
        *_balance(listing.names, targets if whole is None else whole.targets),
        *_units(listing, np.flatnonzero(usable), diagonals),
        *_size(targets, np.asarray(scan.facts["radius"][usable], np.float64)),
        *_columns(scan),
        *duplicate_notes(listing, all_clouds(listing, scan)),
        "files do not say which way is up: the recipe takes input.up (z unless set); a wrong one costs accuracy without an error",
    ]


def explained(targets: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> float:
    """Share of the variance of values (D,) that classes (D,) explain: eta², corrected for the number of classes. 0 to 1.

    1 - (SS_within / (D - L)) / (SS_total / (D - 1)), over the L classes that occur; 0 where no class has two.
    """
    _, inverse, counts = np.unique(targets, return_inverse=True, return_counts=True)
    free = len(values) - len(counts)
    total = float(((values - values.mean()) ** 2).sum())
    if free < 1 or not total > 0:
        return 0.0
    means = np.bincount(inverse, weights=values) / counts
    within = float(((values - means[inverse]) ** 2).sum())
    return max(0.0, 1 - (within / free) / (total / (len(values) - 1)))


def _balance(names: tuple[str, ...], targets: npt.NDArray[np.integer]) -> list[str]:
    lines = []
    counts = np.bincount(targets, minlength=len(names))
    order = np.argsort(counts, kind="stable")
    small, large = order[0], order[-1]
    if counts[large] > IMBALANCE * counts[small]:
        lines.append(
            f"classes are of unequal size, {counts[large]:,} clouds of {names[large]} and {counts[small]:,} of "
            f"{names[small]}; the recipe's `balance` weighs against that"
        )
    tiny = [f"{names[target]} ({counts[target]})" for target in order if counts[target] < TINY]
    if tiny:
        more = f" and {len(tiny) - SHOWN:,} more" if len(tiny) > SHOWN else ""
        lines.append(f"fewer than {TINY} clouds, too few to judge a score by: {', '.join(tiny[:SHOWN])}{more}")
    return lines


def _units(listing: Listing, rows: npt.NDArray[np.int64], diagonals: npt.NDArray[np.float64]) -> list[str]:
    """A spread of sizes over orders of magnitude, with a file from either end."""
    small, large = int(diagonals.argmin()), int(diagonals.argmax())
    if not diagonals[large] > UNITS * diagonals[small]:
        return []
    return [
        f"sizes spread over a factor of {diagonals[large] / diagonals[small]:.1g}; are the units mixed? "
        f"{listing.relative(int(rows[small]))} has a diagonal of {diagonals[small]:.3g}, "
        f"{listing.relative(int(rows[large]))} of {diagonals[large]:.3g}"
    ]


def _size(targets: npt.NDArray[np.int64], radii: npt.NDArray[np.float64]) -> list[str]:
    """Whether the radius, which normalising to the unit sphere takes away, says something of the class. Both (D,)."""
    logs = np.log(np.maximum(radii, np.finfo(np.float64).tiny))
    share = explained(targets, logs) if logs.std() > SPREAD else 0.0
    if share < TELLING:
        return []
    return [
        f"size tells classes apart (they explain {share:.0%} of the variance of the logarithm of the radius), and normalise unit_sphere "
        f"hides it; where all files share one unit, input.normalise=none keeps it, with input.voxel_size in that unit: the voxel size "
        f"below times the median radius, {np.median(radii):.3g}"
    ]


def _columns(scan: Scan) -> list[str]:
    """Columns that some files have and others lack."""
    usable = int(scan.usable.sum())
    lines = []
    for field, name in (("has_rgb", "colour"), ("has_intensity", "intensity")):
        count = int(scan.facts[field].sum())
        if 0 < count < usable:
            lines.append(f"{count:,} of {usable:,} files have {name}: as an input feature it needs a fill value for the others")
    return lines
