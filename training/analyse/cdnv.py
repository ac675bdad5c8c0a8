"""Class-distance normalised variance (CDNV): how wide classes are against the distances between them.

V(i, j) = (Var_i + Var_j) / (2 ‖mu_i − mu_j‖²), mean over ordered pairs i ≠ j. Source: Galanti, György, Hutter, "On the role of neural
collapse in transfer learning", ICLR 2022; Image2Point (ECCV) reports it for its nets. D clouds, C features, K classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """counts (K,); means (K, C); variances (K,): mean squared distance to the mean, divided by n. NaN for a class without clouds."""

    counts: Ints
    means: Floats
    variances: Floats


def moments(features: Floats, targets: Ints, num_classes: int) -> Moments:
    counts = np.bincount(targets, minlength=num_classes)
    sums = np.zeros((num_classes, features.shape[1]))
    np.add.at(sums, targets, features)
    with np.errstate(invalid="ignore"):
        means = sums / counts[:, None]
        squared = ((features - means[targets]) ** 2).sum(1)
        variances = np.bincount(targets, squared, num_classes) / counts
    return Moments(counts, means, variances)


def cdnv(of: Moments, *, corrected: bool) -> Floats:
    """V of every pair of classes (K, K); NaN on the diagonal, and where a class has less than two clouds.

    corrected: variances divided by n − 1, and what the errors of two estimated means add to their squared distance, var / n each,
    taken off. Where nothing is left the pair is not told apart by that many clouds: infinite.
    """
    counts = np.where(of.counts >= 2, of.counts, np.nan)  # one cloud has no variance
    variances = of.variances * (counts / (counts - 1) if corrected else counts / counts)
    squared = ((of.means[:, None] - of.means[None]) ** 2).sum(2)  # (K, K)
    if corrected:
        error = variances / counts
        squared = squared - error[:, None] - error[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (variances[:, None] + variances[None]) / (2 * squared)
    ratio[squared <= 0] = np.inf
    ratio[np.isnan(squared) | np.eye(len(ratio), dtype=bool)] = np.nan
    return np.asarray(ratio)


@dataclass(frozen=True)
class Summary:
    """Over ordered pairs of classes. unresolved: pairs that are infinite, which mean and median leave out."""

    mean: float
    median: float
    pairs: int
    unresolved: int


def summary(pairs: Floats) -> Summary:
    """Of a matrix of pairs (K, K)."""
    values = pairs[~np.isnan(pairs)]
    finite = values[np.isfinite(values)]
    mean, median = (float(finite.mean()), float(np.median(finite))) if len(finite) else (np.nan, np.nan)
    return Summary(mean, median, len(values), len(values) - len(finite))


def nearest_centre(features: Floats, targets: Ints, centres: Floats) -> float:
    """Share of clouds whose nearest class centre is that of their class. centres (K, C), NaN rows are no class."""
    return float((_squared(features, centres).argmin(1) == targets).mean())


def nearest_centre_left_out(features: Floats, targets: Ints, of: Moments) -> float:
    """The same with the centres of the clouds themselves, each cloud left out of its own; one that is alone in its class is wrong."""
    squared = _squared(features, of.means)
    rows = np.arange(len(targets))
    n = of.counts[targets].astype(np.float64)
    own = squared[rows, targets]
    with np.errstate(divide="ignore", invalid="ignore"):
        squared[rows, targets] = np.where(n > 1, own * (n / (n - 1)) ** 2, np.inf)  # x − (n mu − x)/(n − 1) = (x − mu) n/(n − 1)
    return float((squared.argmin(1) == targets).mean())


def _squared(features: Floats, centres: Floats) -> Floats:
    """Squared distances (D, K), infinite to what is NaN."""
    found: Floats = (features**2).sum(1)[:, None] - 2 * features @ centres.T + (centres**2).sum(1)[None]
    return np.where(np.isnan(found), np.inf, found)
