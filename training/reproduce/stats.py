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
    def decided(self) -> bool:
        """Whether the interval excludes 0, and is of enough pairs: the spread of fewer may be narrow by luck."""
        return self.count >= FEW_PAIRS and abs(self.mean) > self.half


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
