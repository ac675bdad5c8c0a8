"""Network dissection without masks: which clouds answer a unit most strongly, and whether they are of one class.

Source: Image2Point, arXiv v1, shows top clouds of chosen units of the last stage; ModelNet has one label a cloud, so what can be
counted is how pure the top clouds of each unit are, against chance. D clouds, U units, K classes, k top clouds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
PERMUTATIONS = 20
SURE = 0.99  # quantile of units under permuted labels, above which a unit counts as selective


@dataclass(frozen=True)
class Units:
    """The top clouds of U units. rows (U, k), strongest first; majority (U,) class; purity (U,) its share of the k; entropy (U,) bits.

    alive (U,): whether at least k clouds raise the unit above its smallest value at all.
    """

    rows: Ints
    majority: Ints
    purity: Floats
    entropy: Floats
    alive: npt.NDArray[np.bool_]

    @property
    def order(self) -> Ints:
        """Living units, the purest first; of equally pure ones the one whose other clouds are of fewer classes."""
        units = np.lexsort((self.entropy, -self.purity))
        return np.asarray(units[self.alive[units]], np.int64)

    @property
    def mean_purity(self) -> float:
        return float(self.purity[self.alive].mean())

    @property
    def mean_entropy(self) -> float:
        return float(self.entropy[self.alive].mean())


def top_clouds(values: Floats, k: int) -> Ints:
    """Rows of the k largest of each column of (D, U), largest first: (U, k)."""
    return np.asarray(np.argsort(-values, axis=0, kind="stable")[:k].T, np.int64)


def dissect(values: Floats, targets: Ints, num_classes: int, k: int) -> Units:
    """values (D, U): the strongest answer of each unit in each cloud."""
    rows = top_clouds(values, k)
    majority, purity, entropy = mixture(targets[rows], num_classes)
    return Units(rows, majority, purity, entropy, (values > values.min(0)).sum(0) >= k)


def joined(several: Sequence[Units]) -> Units:
    """Units of several nets as those of one."""
    columns = zip(*((each.rows, each.majority, each.purity, each.entropy, each.alive) for each in several), strict=True)
    return Units(*(np.concatenate(column) for column in columns))


def mixture(classes: Ints, num_classes: int) -> tuple[Ints, Floats, Floats]:
    """Commonest class, its share, and the entropy in bits, of each row of classes (U, k)."""
    counts = (classes[:, :, None] == np.arange(num_classes)).sum(1)  # (U, K)
    shares = counts / classes.shape[1]
    logs = np.log2(np.where(shares > 0, shares, 1))
    return np.asarray(counts.argmax(1), np.int64), shares.max(1), -(shares * logs).sum(1) + 0.0


@dataclass(frozen=True)
class Chance:
    """Units under permuted labels, all permutations together. sure: purity that one in a hundred of them exceeds."""

    purity: Floats
    entropy: Floats
    sure: float


def chance(units: Units, targets: Ints, num_classes: int, seed: int, permutations: int = PERMUTATIONS) -> Chance:
    """The same top clouds of the living units, with the labels of all clouds shuffled."""
    rng = np.random.default_rng(seed)
    rows = units.rows[units.alive]
    found = [mixture(rng.permutation(targets)[rows], num_classes)[1:] for _ in range(permutations)]
    purity, entropy = (np.concatenate(each) for each in zip(*found, strict=True))
    return Chance(purity, entropy, float(np.quantile(purity, SURE)))


def random_basis(size: int, seed: int) -> npt.NDArray[np.float32]:
    """An orthogonal basis of the space of units, (size, size): no direction of it was trained to mean something."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return np.asarray(q * np.sign(np.diag(r)), np.float32)
