"""What each mode reaches by how much is labelled."""

import math

from training.reproduce.search import Group
from training.reproduce.stats import Mean
from training.reproduce.texts import NETWORKS
from training.reproduce.view import SHORT, Result


def by_labels(found: list[tuple[Group, dict[str, Result]]]) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Mean and standard deviation of the test scores by network, mode and how much is labelled, the least first, of three amounts or more;
    of several budgets of epochs the one that stands first.
    """
    curves: dict[str, dict[str, dict[int | None, Mean]]] = {}
    for group, of in found:
        arms = curves.setdefault(NETWORKS[group.network], {})
        for arm, name in SHORT.items():
            if arm in of and (score := of[arm].test) is not None:
                arms.setdefault(name, {}).setdefault(group.shots, score)
    return {
        network: {
            arm: {"all" if shots is None else str(shots): (score.mean, score.std) for shots, score in sorted(by_shots.items(), key=_amount)}
            for arm, by_shots in arms.items()
            if len(by_shots) > 2
        }
        for network, arms in curves.items()
        if any(len(by_shots) > 2 for by_shots in arms.values())
    }


def _amount(labelled: tuple[int | None, Mean]) -> float:
    return math.inf if labelled[0] is None else labelled[0]
