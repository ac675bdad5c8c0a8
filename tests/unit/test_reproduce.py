"""What is compared and how: the search of learning rates, paired gaps, names of trials, arms."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from models.manifest import ViewSpec
from tests.reproduced import GROUP, done, peak
from training.optim import lr_factor
from training.reproduce.arms import ARMS, CHANGES, TEACHERS
from training.reproduce.search import FIRST, GRID, Group, choose
from training.reproduce.stats import STUDENT, Mean, holm, mean_of, paired, two_sided, welch
from training.reproduce.tables import TABLES, every_trial, missing_of_tables
from training.reproduce.texts import FIRST_EPOCH, PAIRS, PUBLISHED
from training.reproduce.train import total
from training.reproduce.trial import PAPER, Record, Trial, digest_of, teacher_of, weights_of


@pytest.mark.parametrize("best", [0.001, 0.01, 0.03, 0.1, 1.0])
def test_the_grid_is_extended_past_the_best_rate(best: float) -> None:
    _, found = done(GROUP, peak(best))
    chosen = choose(GROUP, "scratch", lambda trial: found.get(trial.name))
    assert chosen.lr == best
    assert min(chosen.scores) < best < max(chosen.scores)
    assert set(FIRST) <= set(chosen.scores)
    assert not chosen.missing


def test_only_the_two_best_rates_are_tried_on_every_draw() -> None:
    """And the mean of all draws decides between them, though each alone may say otherwise."""
    held_out = {0.01: (0.5, 0.9), 0.03: (0.7, 0.6), 0.1: (0.6, 0.8), 0.3: (0.1, 0.9)}
    _, found = done(GROUP, lambda trial: held_out[trial.lr][trial.seed] if trial.search else 0.5)
    chosen = choose(GROUP, "scratch", lambda trial: found.get(trial.name))
    assert chosen.scores == {0.01: [0.5], 0.03: [0.7, 0.6], 0.1: [0.6, 0.8], 0.3: [0.1]}  # 0.3, because 0.1 was at the end
    assert chosen.lr == 0.1


@pytest.mark.parametrize("late", [0.3, 0.003])
def test_a_rate_that_won_on_every_draw_is_not_forgotten_for_a_later_one(late: float) -> None:
    """The later one is second best on the first draw alone."""
    held_out = {0.01: (0.5, 0.9), 0.03: (0.7, 0.6), 0.1: (0.6, 0.8), 0.3: (0.65, 0.1)}
    if late < 0.01:
        held_out = {0.1: held_out[0.01], 0.03: held_out[0.03], 0.01: held_out[0.1], 0.003: held_out[0.3]}
    _, found = done(GROUP, lambda trial: held_out[trial.lr][trial.seed] if trial.search else 0.5)
    chosen = choose(GROUP, "scratch", lambda trial: found.get(trial.name))
    assert late in chosen.scores
    assert chosen.lr == (0.1 if late > 0.01 else 0.01)


def test_of_equal_rates_the_one_at_the_end_goes_on() -> None:
    one = replace(GROUP, searches=1)
    _, found = done(one, lambda trial: 0.5 if trial.lr in (FIRST[-1], FIRST[-2]) else 0.4)
    scores = choose(one, "scratch", lambda trial: found.get(trial.name)).scores
    assert max(scores) > FIRST[-1]


def test_a_best_rate_at_the_end_of_everything_is_kept() -> None:
    _, found = done(GROUP, lambda trial: trial.lr)
    assert choose(GROUP, "scratch", lambda trial: found.get(trial.name)).lr == GRID[-1]


def test_searches_come_first_and_pairs_are_whole() -> None:
    order, _ = done(GROUP, peak(0.03))
    reported = [trial for trial in order if not trial.search]
    assert order[-len(reported) :] == reported
    assert [(trial.seed, trial.arm) for trial in reported] == [(seed, arm) for seed in range(3) for arm in GROUP.arms]
    assert len({trial.name for trial in order}) == len(order)


def test_an_arm_may_have_more_seeds_than_the_others() -> None:
    order, _ = done(replace(GROUP, more_seeds={"fip-all": 5}), peak(0.03))
    reported = [(trial.seed, trial.arm) for trial in order if not trial.search]
    assert reported == [*((seed, arm) for seed in range(3) for arm in GROUP.arms), (3, "fip-all"), (4, "fip-all")]


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
    ours = {"souped": "image", "shaped": "image", "imaged": "image"}  # arms of a recipe of our own
    recipes = {arm: Trial("resnet18", 10, 30, arm, 0.03, 0, base="few-modelnet40" if arm in ours else PAPER).recipe() for arm in ARMS}
    assert len({recipe.digest for recipe in recipes.values()}) == len(recipes)
    for arm, recipe in recipes.items():
        inits = {"fip": "image", "random": "random-frozen", "random2d": "random-inflated", "scratch": "scratch", **ours}
        assert recipe.init == inits[arm.partition("-")[0]]
        assert recipe.mode == next((mode for mode in ("iobn", "ioms", "io") if mode in arm.split("-")), "all")
    assert recipes["fip-io"].inflate.directions == ("y", "z", "x")
    assert recipes["fip-io-zyx"].inflate.directions == ("z", "y", "x")
    of_y_up = Trial("resnet18", 10, 30, "fip-io-xzy", 0.03, 0).recipe("y")
    assert (of_y_up.input.up, of_y_up.inflate.directions) == ("y", ("x", "y", "z"))  # heights of images stay along what is up
    assert recipes["fip-all-stages34"].inflate.stages == (3, 4)


def test_what_is_added_to_an_arm_changes_its_recipe() -> None:
    plain = Trial("resnet18", 1, 5, "fip-all", 0.1, 0).recipe()
    added = Trial("resnet18", 1, 5, "fip-all+unsmoothed+fine+unsmoothed", 0.1, 0).recipe()
    assert (added.label_smoothing, added.input.voxel_size) == (0, 0.035)
    coarse = added.input.model_copy(update={"voxel_size": plain.input.voxel_size})
    assert plain == added.model_copy(update={"label_smoothing": plain.label_smoothing, "input": coarse})
    shaped = Trial("cifar_resnet20", 1, 5, "shaped", 0.1, 0, base="few-modelnet40")
    pictures = Trial("resnet18", 1, 5, "fip-all-few", 0.1, 0)
    for few, same in ((pictures, {"mean", "layout2", "layout4"}), (shaped, {"solid", "votes"})):
        digests = [few.recipe().digest, *(replace(few, arm=f"{few.arm}+{name}").recipe().digest for name in CHANGES if name not in same)]
        assert len(set(digests)) == len(digests)
    assert (shaped.recipe().layout, replace(shaped, arm="shaped+mean").recipe().layout) == (3, None)
    begins = [weights_of(replace(shaped, arm=arm)) for arm in ("souped", "imaged", "scratch")]
    assert begins == ["shapes20", "cifar_resnet20", None]


def test_every_trial_has_a_recipe_for_files_with_y_up() -> None:
    kinds = {(trial.base, trial.network, trial.shots, trial.arm): trial for trial in every_trial()}
    for trial in kinds.values():
        assert trial.recipe("y").input.up == "y" or trial.recipe().task == "segment"
    few = Trial("resnet18", 1, 5, "fip-all-few", 0.1, 0).recipe("y").input
    assert few.views == ViewSpec(count=4, depth="z")
    assert [feature.name for feature in few.features] == ["one", "near", "far", "y"]  # heights


def test_names_of_trials_are_names_of_files_everywhere() -> None:
    assert all(re.fullmatch(r"[a-z0-9_.+/-]+", trial.name) for trial in every_trial())


def test_a_trial_is_another_one_with_another_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("cifar_resnet20", 10, 5, "shaped-distilled", 0.1, 3)
    teacher = teacher_of(trial)
    assert teacher is not None
    assert teacher_of(teacher) is None
    assert (teacher.arm, teacher.seed, teacher.shots) == ("shaped", 3, 10)
    before = digest_of(trial, "z")
    assert before != trial.recipe().digest
    monkeypatch.setitem(TEACHERS, "shaped-distilled", (teacher.arm, teacher.epochs + 1, teacher.lr))
    digest_of.cache_clear()
    assert digest_of(trial, "z") != before


def test_a_rate_that_is_part_of_the_recipe_is_not_searched() -> None:
    group = Group("resnet18", 1, 5, ("scratch", "fip-all"), seeds=2, lr=0.25)
    order, _ = done(group, peak(0.01))
    assert [(trial.seed, trial.arm, trial.lr, trial.search) for trial in order] == [
        (seed, arm, 0.25, False) for seed in (0, 1) for arm in ("scratch", "fip-all")
    ]


def test_tables_ask_for_nothing_twice_and_know_their_trials() -> None:
    known: dict[str, Record] = {}
    first = missing_of_tables(list(TABLES), lambda trial: known.get(trial.name))
    assert len({trial.name for trial in first}) == len(first)
    assert {trial.name for trial in first} <= {trial.name for trial in every_trial()}
    flags: dict[str, bool] = {}
    for trial in every_trial():  # one record serves all tables that want it
        assert flags.setdefault(trial.name, trial.curve) == trial.curve, trial.name


def test_the_cyclic_rate_has_fallen_to_nothing_after_the_first_epoch() -> None:
    """That is what makes the public code's first epoch."""
    recipe = Trial("resnet18", None, 10, "fip-all-cyclic", 0.1, 0, curve=True).recipe()
    assert lr_factor(recipe.schedule, recipe.epochs, 277)(277) < 0.005


@pytest.mark.parametrize(
    ("table", "networks", "shots"),
    [
        ("fewshot", {"resnet18", "cifar_resnet20", "cifar_resnet56"}, {1, 5, 10}),
        ("modes", {"resnet18", "cifar_resnet20"}, {1, 10, None}),
        ("speed", {"resnet18", "cifar_resnet20"}, {None}),
        ("axes", {"resnet18"}, {10}),
        ("stages", {"resnet18"}, {10}),
        ("segmentation", {"cifar_resnet20"}, {1, 5, None}),
        ("recipe", {"cifar_resnet20"}, {1, 5, 10}),
        ("full", {"resnet18", "cifar_resnet20"}, {None}),
        ("distill", {"cifar_resnet20"}, {10}),
        ("backbones", {"resnet18", "resnet50", *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56))}, {10}),
    ],
)
def test_what_the_tables_hold(table: str, networks: set[str], shots: set[int | None]) -> None:
    groups = TABLES[table]
    assert {group.network for group in groups} == networks
    assert {group.shots for group in groups} == shots
    assert all({arm.partition("+")[0] for arm in group.arms} <= ARMS.keys() for group in groups)
    few = [group for group in groups if group.shots]
    searches = {(group.network, group.searches) for group in few}
    assert len(searches) == len({group.network for group in few})  # the same search of a net for every arm and every number of shots
    budgets: dict[object, set[int]] = {}
    for group in few:
        budgets.setdefault(group.shots, set()).add(group.epochs)
    assert table == "fewshot" or all(len(epochs) == 1 for epochs in budgets.values())


def test_every_control_is_compared_somewhere() -> None:
    """An arm that no pair of its group subtracts, or subtracts from, tells nothing, unless it has a teacher."""
    for table, groups in TABLES.items():
        for group in groups:
            pairs = [pair[:2] for pair in (*PAIRS, *FIRST_EPOCH) if set(pair[:2]) <= set(group.arms)]
            assert {arm for pair in pairs for arm in pair} == set(group.arms) - TEACHERS.keys(), (table, group)


def test_p_values() -> None:
    """Against published tables of Student's t; Holm's own steps."""
    assert two_sided(2.776, 4) == pytest.approx(0.05, abs=1e-4)
    assert two_sided(12.706, 1) == pytest.approx(0.05, abs=1e-4)
    assert two_sided(3.250, 9) == pytest.approx(0.01, abs=1e-4)
    assert two_sided(0, 3) == pytest.approx(1)
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert welch((1.0, 1.0), 3) == pytest.approx(2.776 * math.sqrt(2 / 3))
    assert PUBLISHED["resnet18", 1, "fip-all", "scratch"].interval == "+10.0 ± 11.0"
    assert Mean(1.0, 0.0, 0.0, 3).p == 0.0


def test_an_epoch_that_was_stopped_counts_as_the_others() -> None:
    assert total([{"seconds": 2.0}, {"loss": 1.0}, {"seconds": 4.0}], "seconds") == 9.0
    assert total([], "seconds") == 0.0


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
