"""Trials of a table, done with scores of one's own."""

import math
from collections.abc import Callable

from training.reproduce.search import Group, missing_of
from training.reproduce.trial import Record, Trial

GROUP = Group("cifar_resnet20", 10, 5, ("scratch", "fip-all"), seeds=3, searches=2)


def record(trial: Trial, score: float) -> Record:
    test = None if trial.search else score
    return Record(
        trial.name, {"train": "a", "test": "b", "weights": None}, None, "", "", "1 thread", score, 100, test, 100, 10, 5, 60.0, 60.0, []
    )


def done(group: Group, score: Callable[[Trial], float]) -> tuple[list[Trial], dict[str, Record]]:
    """Every trial that the group asks for, in the order in which it does."""
    found: dict[str, Record] = {}
    order: list[Trial] = []
    while missing := missing_of(group, lambda trial: found.get(trial.name)):
        assert all(trial.name not in found for trial in missing)
        order.append(missing[0])
        found[missing[0].name] = record(missing[0], score(missing[0]))
    return order, found


def peak(at: float) -> Callable[[Trial], float]:
    """The best learning rate is `at`."""
    return lambda trial: 0.9 - 0.1 * abs(math.log10(trial.lr / at)) - 0.001 * trial.seed
