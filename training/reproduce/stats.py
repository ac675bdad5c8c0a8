"""Means, spreads, and paired gaps with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Student's t at 97.5 %, by degrees of freedom from 1
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

FEW_PAIRS = 5


@dataclass(frozen=True)
class Mean:
    """Of `count` values: their mean, their standard deviation (n - 1; 0 of one), half the 95 % interval of the mean (inf of one)."""

    mean: float
    std: float
    half: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.std:.2f}" if self.count > 1 else f"{self.mean:.2f}"

    @property
    def interval(self) -> str:
        """Of a gap: with its sign."""
        return f"{self.mean:+.2f} ± {self.half:.2f}" if self.count > 1 else f"{self.mean:+.2f}"

    @property
    def p(self) -> float:
        """Of Student's test that the mean is 0, on both sides; 1 of a single value."""
        if self.count < 2:
            return 1.0
        return two_sided(abs(self.mean) * math.sqrt(self.count) / self.std, self.count - 1) if self.std else float(self.mean == 0)

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 0, and is of enough pairs: the spread of fewer may be narrow by luck."""
        return self.count >= FEW_PAIRS and abs(self.mean) > self.half


def two_sided(t: float, freedom: int) -> float:
    """How often |T| exceeds t >= 0. With T = sqrt(freedom) tan(angle) the density is cos(angle) to the power of freedom - 1."""
    angle = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 4001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * scale * float(np.trapezoid(np.cos(angle) ** (freedom - 1), angle)))


def holm(values: Sequence[float]) -> list[float]:
    """p values for as many tests as there are, in their order. Source: Holm, Scand. J. Statist. 6 (1979)."""
    adjusted, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        least = adjusted[place] = max(least, min(1.0, (len(values) - rank) * values[place]))
    return adjusted


def welch(spreads: tuple[float, float], count: int) -> float:
    """Half of the 95 % interval of the difference of two means of `count` values each, from their standard deviations."""
    variances = [spread**2 / count for spread in spreads]
    freedom = sum(variances) ** 2 / sum(variance**2 / (count - 1) for variance in variances)
    return STUDENT[max(1, int(freedom)) - 1] * math.sqrt(sum(variances))


def mean_of(values: Sequence[float]) -> Mean | None:
    """None of nothing."""
    count = len(values)
    if not count:
        return None
    if count == 1:
        return Mean(float(values[0]), 0.0, math.inf, 1)
    std = float(np.std(values, ddof=1))
    return Mean(float(np.mean(values)), std, STUDENT[min(count - 2, len(STUDENT) - 1)] * std / math.sqrt(count), count)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Mean | None:
    """Of first - second, seed by seed, over the seeds that both have; None where there is none."""
    return mean_of([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
