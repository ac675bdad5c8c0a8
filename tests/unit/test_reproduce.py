"""What is compared and how: the search of learning rates, paired gaps, names of trials, arms."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from training.reproduce.arms import ARMS
from training.reproduce.search import FIRST, GRID, Group, choose, missing_of
from training.reproduce.stats import STUDENT, mean_of, paired
from training.reproduce.tables import TABLES, every_trial, missing_of_tables
from training.reproduce.trial import Record, Trial

GROUP = Group("cifar_resnet20", 10, 5, ("scratch", "fip-all"), seeds=3, searches=2)


def record(trial: Trial, score: float) -> Record:
    test = None if trial.search else score
    return Record(trial.name, {}, "", "", "", score, 100, test, 100, 10, 5, 1, 60.0, 60.0, [])


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


@pytest.mark.parametrize("best", [0.001, 0.01, 0.03, 0.1, 1.0])
def test_the_grid_is_extended_past_the_best_rate(best: float) -> None:
    _, found = done(GROUP, peak(best))
    chosen = choose(GROUP, "scratch", lambda trial: found.get(trial.name))
    assert chosen.lr == best
    assert min(chosen.scores) < best < max(chosen.scores)
    assert set(FIRST) <= set(chosen.scores)
    assert not chosen.missing


def test_a_best_rate_at_the_end_of_everything_is_kept() -> None:
    _, found = done(GROUP, lambda trial: trial.lr)
    assert choose(GROUP, "scratch", lambda trial: found.get(trial.name)).lr == GRID[-1]


def test_searches_come_first_and_pairs_are_whole() -> None:
    order, _ = done(GROUP, peak(0.03))
    reported = [trial for trial in order if not trial.search]
    assert order[-len(reported) :] == reported
    assert [(trial.seed, trial.arm) for trial in reported] == [(seed, arm) for seed in range(3) for arm in GROUP.arms]
    assert len({trial.name for trial in order}) == len(order)


def test_a_search_draws_other_clouds_than_what_is_reported() -> None:
    search, shown = (Trial("cifar_resnet20", 10, 5, "scratch", 0.1, 0, search=search) for search in (True, False))
    assert search.recipe().seed != shown.recipe().seed
    assert search.name != shown.name
    assert search.name.startswith("cifar_resnet20-10shot/")
    assert Trial("resnet18", None, 5, "scratch", 0.1, 0).name.startswith("resnet18-full/")


def test_an_arm_may_take_the_rate_of_another() -> None:
    group = Group("cifar_resnet20", 10, 5, ("fip-io-xyz",), seeds=1, rate_of={"fip-io-xyz": "fip-io"})
    order, _ = done(group, peak(0.01))
    assert [trial.arm for trial in order] == [*["fip-io"] * (len(order) - 1), "fip-io-xyz"]
    assert order[-1].lr == 0.01


def test_what_an_arm_says_is_a_recipe() -> None:
    """Freezing, filters, scale, axes and stages as their names have it."""
    recipes = {arm: Trial("resnet18", 10, 30, arm, 0.03, 0).recipe() for arm in ARMS}
    assert len({recipe.digest for recipe in recipes.values()}) == len(recipes) - 2  # the default order under its own name
    assert recipes["fip-io-yzx"].digest == recipes["fip-io"].digest
    for arm, recipe in recipes.items():
        assert recipe.init == {"fip": "image", "random": "random-frozen", "scratch": "scratch"}[arm.partition("-")[0]]
        assert recipe.mode == next((mode for mode in ("iobn", "ioms", "io") if mode in arm.split("-")), "all")
    assert recipes["fip-io-zyx"].inflate.directions == ("z", "y", "x")
    assert recipes["fip-all-stages34"].inflate.stages == (3, 4)


def test_tables_ask_for_nothing_twice_and_know_their_trials() -> None:
    known: dict[str, Record] = {}
    first = missing_of_tables(list(TABLES), lambda trial: known.get(trial.name))
    assert len({trial.name for trial in first}) == len(first)
    assert {trial.name for trial in first} <= {trial.name for trial in every_trial()}
    flags: dict[str, bool] = {}
    for trial in every_trial():  # one record serves all tables that want it
        assert flags.setdefault(trial.name, trial.curve) == trial.curve, trial.name


def test_gaps_are_paired_by_seed() -> None:
    found = paired({0: 70.0, 1: 71.0, 2: 75.0, 9: 0.0}, {0: 69.0, 1: 69.0, 2: 72.0})
    assert found is not None
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half == pytest.approx(4.303 * 1.0 / math.sqrt(3))
    assert not found.decided
    assert str(found) == "2.00 ± 1.00"
    assert found.interval == "+2.00 ± 2.48"
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 5, 10):
        means = [mean_of(list(rng.normal(1.0, 2.0, count))) for _ in range(2000)]
        covered = np.mean([abs(mean.mean - 1.0) <= mean.half for mean in means if mean])
        assert covered == pytest.approx(0.95, abs=0.02)
    assert list(STUDENT) == sorted(STUDENT, reverse=True)
