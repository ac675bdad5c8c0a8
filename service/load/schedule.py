"""When each request is due and what it is, drawn from the seed before anything is sent: N requests."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from service.load.plan import LoadPlan
from service.load.records import DISCONNECTED, MALFORMED, WHOLE, Kind

BLOCK = 1024  # requests drawn at a time
ARRIVAL_STREAM, DRAW_STREAM = 0, 1  # so that the moments do not depend on what is sent, nor the other way round


def arrival_times(plan: LoadPlan) -> np.ndarray:
    """(N,) float64, ascending seconds from the start of the run: a Poisson process of the plan's rate, or evenly spaced in its integral.

    The integral of the rate, L(t) = a t + c t^2 / 2, makes either of them from one of rate 1: t = L^-1(s).
    """
    total = plan.expected_requests
    if plan.arrivals == "even":
        return _moments(plan, np.arange(np.ceil(total)))
    rng = np.random.default_rng((plan.seed, ARRIVAL_STREAM))
    blocks, reached = list[np.ndarray](), 0.0
    while reached < total:
        blocks.append(reached + np.cumsum(rng.standard_exponential(BLOCK)))
        reached = float(blocks[-1][-1])
    unit = np.concatenate(blocks)
    return _moments(plan, unit[unit < total])


def _moments(plan: LoadPlan, unit: np.ndarray) -> np.ndarray:
    """L^-1 of (N,) values. The root is written so that neither a constant rate (c = 0) nor a start at 0 (a = 0) divides by 0."""
    start = plan.start_rate
    growth = (plan.end_rate - start) / plan.duration_s
    speed = np.sqrt(np.maximum(start * start + 2 * growth * unit, 0.0))  # the rate at that moment
    return 2 * unit / np.where(unit > 0, start + speed, 1.0)


@dataclass(frozen=True, slots=True)
class Draw:
    """One request. body: index into the plan's; spare: uniform in [0, 1), which picks the damage, or when the client leaves."""

    body: int
    kind: Kind
    spare: float


def draws(plan: LoadPlan) -> Iterator[Draw]:
    """Without end; the same for the same seed, bodies and shares."""
    rng = np.random.default_rng((plan.seed, DRAW_STREAM))
    weights = np.array([body.weight for body in plan.bodies])
    edges = np.cumsum(weights / weights.sum())[:-1]
    while True:
        uniform = rng.random((BLOCK, 3))
        for which, fate, spare in zip(np.searchsorted(edges, uniform[:, 0], side="right"), uniform[:, 1], uniform[:, 2], strict=True):
            kind = MALFORMED if fate < plan.malformed else DISCONNECTED if fate < plan.malformed + plan.disconnect else WHOLE
            yield Draw(int(which), kind, float(spare))
