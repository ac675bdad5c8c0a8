"""What is compared and how: the search of learning rates, paired gaps, names of trials, arms."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.manifest import ViewSpec
from training.optim import lr_factor
from training.reproduce.arms import ARMS, CHANGES, TEACHERS
from training.reproduce.besides import besides
from training.reproduce.explored import EXPLORED
from training.reproduce.pages import write_pages
from training.reproduce.search import FIRST, GRID, Choice, Exploration, Group, choose, missing_of
from training.reproduce.speed import epochs_to, first_epochs, speed
from training.reproduce.stats import STUDENT, Mean, holm, mean_of, paired, two_sided, welch
from training.reproduce.summary import write_summary
from training.reproduce.tables import TABLES, every_trial, missing_of_tables
from training.reproduce.texts import FIRST_EPOCH, PAIRS, PUBLISHED
from training.reproduce.train import total
from training.reproduce.trial import Record, Trial, digest_of, teacher_of
from training.reproduce.view import Result, results

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
    recipes = {arm: Trial("resnet18", 10, 30, arm, 0.03, 0).recipe() for arm in ARMS}
    assert len({recipe.digest for recipe in recipes.values()}) == len(recipes)
    for arm, recipe in recipes.items():
        inits = {"fip": "image", "random": "random-frozen", "random2d": "random-inflated", "scratch": "scratch"}
        assert recipe.init == inits[arm.partition("-")[0]]
        assert recipe.mode == next((mode for mode in ("iobn", "ioms", "io") if mode in arm.split("-")), "all")
    assert recipes["fip-io"].inflate.directions == ("y", "z", "x")
    assert recipes["fip-io-zyx"].inflate.directions == ("z", "y", "x")
    of_y_up = Trial("resnet18", 10, 30, "fip-io-xzy", 0.03, 0).recipe("y")
    assert (of_y_up.input.up, of_y_up.inflate.directions) == ("y", ("x", "y", "z"))  # heights of images stay along what is up
    assert recipes["fip-all-stages34"].inflate.stages == (3, 4)


def test_what_is_added_to_an_arm_changes_its_recipe() -> None:
    plain = Trial("resnet18", 1, 5, "fip-all", 0.1, 0).recipe()
    added = Trial("resnet18", 1, 5, "fip-all+unsmoothed+views8+unsmoothed", 0.1, 0).recipe()
    assert (added.label_smoothing, added.input.views) == (0, ViewSpec(count=8))
    views_left_out = added.input.model_copy(update={"views": None})
    assert plain == added.model_copy(update={"label_smoothing": plain.label_smoothing, "input": views_left_out})
    few = Trial("resnet18", 1, 5, "fip-all-few", 0.1, 0).recipe()
    changed = {name: Trial("resnet18", 1, 5, f"fip-all-few+{name}", 0.1, 0).recipe().digest for name in CHANGES}
    assert few.digest not in changed.values()
    assert len(set(changed.values())) == len(changed)


def test_every_trial_has_a_recipe_for_files_with_y_up() -> None:
    kinds = {(trial.base, trial.network, trial.shots, trial.arm): trial for trial in every_trial()}
    for trial in kinds.values():
        assert trial.recipe("y").input.up == "y" or trial.recipe().task == "segment"
    few = Trial("resnet18", 1, 5, "fip-all-few", 0.1, 0).recipe("y").input
    assert few.views == ViewSpec(count=4, depth="z")
    assert [feature.name for feature in few.features] == ["one", "near", "far", "y"]  # heights


def test_names_of_trials_are_names_of_files_everywhere() -> None:
    assert all(re.fullmatch(r"[a-z0-9_.+/-]+", trial.name) for trial in every_trial())


def test_times_of_another_processor_are_not_mixed_in(tmp_path: Path) -> None:
    group = Group("cifar_resnet20", 1, 5, ("scratch", "fip-all"), seeds=3, lr=0.1)
    _, found = done(group, peak(0.1))
    timed = {
        name: replace(one, engine="slow", cpu_seconds=6000.0) if name.endswith("fip-all-5e-lr0.1-seed2") else replace(one, engine="quick")
        for name, one in found.items()
    }
    of = results(group, lambda trial: timed.get(trial.name))
    assert [of[arm].timed for arm in group.arms] == [(1.0, "quick"), (1.0, "quick")]
    (page,) = write_pages(["fewshot"], lambda trial: timed.get(trial.name), tmp_path, {"fewshot": (group,)})
    assert "100.0 |" not in page.read_text()
    slow = {name: replace(one, engine="native (amx)") if "fip-all" in name else replace(one, engine="quick") for name, one in found.items()}
    assert [each.minutes for each in results(group, lambda trial: slow.get(trial.name)).values()] == ["1.0 (quick)", "1.0 (amx)"]


def test_a_trial_is_another_one_with_another_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial("cifar_resnet20", 10, 5, "fip-all-distilled", 0.1, 3)
    teacher = teacher_of(trial)
    assert teacher is not None
    assert teacher_of(teacher) is None
    assert (teacher.arm, teacher.seed, teacher.shots) == ("fip-all", 3, 10)
    before = digest_of(trial, "z")
    assert before != trial.recipe().digest
    monkeypatch.setitem(TEACHERS, "fip-all-distilled", ("fip-all", teacher.epochs + 1, teacher.lr))
    digest_of.cache_clear()
    assert digest_of(trial, "z") != before


def test_a_rate_that_is_part_of_the_recipe_is_not_searched() -> None:
    group = Group("resnet18", 1, 5, ("scratch", "fip-all"), seeds=2, lr=0.25)
    order, _ = done(group, peak(0.01))
    assert [(trial.seed, trial.arm, trial.lr, trial.search) for trial in order] == [
        (seed, arm, 0.25, False) for seed in (0, 1) for arm in ("scratch", "fip-all")
    ]


def test_what_was_tried_is_told_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was tried on more draws before what was tried on fewer."""
    tried = (("scratch", 0.1, 5), ("fip-all+unsmoothed", 0.1, 5), ("fip-all", 0.1, 5), ("fip-io", 0.1, 5))
    exploration = Exploration("resnet18", 1, tried, draws=2)
    monkeypatch.setitem(EXPLORED, "speed", (exploration,))
    wanted = {trial for trial in missing_of_tables(["speed"], lambda trial: None) if trial.shots == 1}
    assert wanted == set(exploration.every_trial())
    assert all(trial.search for trial in wanted)
    assert wanted <= set(every_trial())
    scores = {"scratch": 0.5, "fip-all+unsmoothed": 0.75, "fip-io": 0.9}
    known = {trial: record(trial, scores[trial.arm] + trial.seed / 10) for trial in wanted if trial.arm in scores}
    del known[next(trial for trial in known if trial.arm == "fip-io" and trial.seed == 1)]
    (page,) = write_pages(["speed"], known.get, tmp_path)
    assert [line for line in page.read_text().splitlines() if " | 0.1 | 5 | " in line] == [
        "| fip-all+unsmoothed | 0.1 | 5 | 75.0 / 85.0 | 80.0 |",
        "| scratch | 0.1 | 5 | 50.0 / 60.0 | 55.0 |",
        "| fip-io | 0.1 | 5 | 90.0 | 90.0 |",
    ]


def test_what_votes_and_teachers_bring_is_told(tmp_path: Path) -> None:
    group = Group("cifar_resnet20", 1, 5, ("scratch", "fip-all"), seeds=3, lr=0.1)
    _, found = done(group, peak(0.1))
    taught = {name: replace(one, unvoted=one.held_out - 0.02, teacher=0.5) if "fip-all" in name else one for name, one in found.items()}
    (page,) = write_pages(["fewshot"], lambda trial: taught.get(trial.name), tmp_path, {"fewshot": (group,)})
    arm = "FIP-ALL: image weights, everything trained"
    assert f"With votes over without: {arm} +2.00 ± 0.00 over 87.90 ± 0.10 (3 pairs)." in page.read_text()
    assert f"Over its teacher: {arm} +39.90 ± 0.25 over 50.00 ± 0.00 (3 pairs)." in page.read_text()
    (page,) = write_pages(["fewshot"], lambda trial: found.get(trial.name), tmp_path, {"fewshot": (group,)})
    assert "votes" not in page.read_text()
    assert "teacher" not in page.read_text()


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
        ("recipe", {"resnet18"}, {1, 5, 10}),
        ("full", {"resnet18", "cifar_resnet20"}, {None}),
        ("distill", {"cifar_resnet20"}, {10}),
        ("backbones", {"resnet18", "resnet50", *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56))}, {10}),
    ],
)
def test_what_the_tables_hold(table: str, networks: set[str], shots: set[int | None]) -> None:
    groups = TABLES[table]
    assert {group.network for group in groups} == networks
    assert {group.shots for group in groups} == shots
    assert all(set(group.arms) <= ARMS.keys() for group in groups)
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


def shown(tmp_path: Path, group: Group, score: Callable[[Trial], float]) -> str:
    """The summary of a group of which everything is done."""
    _, found = done(group, score)
    return write_summary(lambda trial: found.get(trial.name), tmp_path, {"fewshot": (group, group), "stages": (group,)}).read_text()


def test_the_summary_has_every_setting_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    page = shown(tmp_path, replace(GROUP, seeds=5), lambda trial: peak(0.03)(trial) - 0.1 * (trial.arm == "scratch") + rng.normal(0, 0.001))
    assert page.count("| CIFAR ResNet20, 10 clouds a class, 5 epochs | FIP-ALL | 0.03 |") == 1
    assert "**+10." in page or "**+9.9" in page
    assert "not measured yet" in page
    assert (tmp_path / "summary.svg").is_file()


def test_a_page_tells_a_gap_once(tmp_path: Path) -> None:
    """Of two groups of one setting, that of the most pairs; each group has its own title."""
    rng = np.random.default_rng(0)
    most = replace(GROUP, seeds=5)
    _, found = done(most, lambda trial: peak(0.03)(trial) - 0.1 * (trial.arm == "scratch") + rng.normal(0, 0.001))
    groups = {"modes": (replace(GROUP, seeds=3, part="again"), most)}
    page = write_pages(["modes"], lambda trial: found.get(trial.name), tmp_path, groups)[0].read_text()
    assert page.count(" (5 pairs).") == 1
    assert page.count(" (3 pairs).") == 0
    assert page.count("## CIFAR ResNet20, 10 clouds a class, 5 epochs: again\n") == 1


@pytest.mark.parametrize(
    ("scratch", "frozen", "said"),
    [
        (-0.1, -0.2, "start from image weights; FIP-ALL over scratch **+"),
        (0.1, -0.2, "start from random weights; FIP-ALL over scratch **-"),
    ],
)
def test_the_summary_says_what_to_do(tmp_path: Path, scratch: float, frozen: float, said: str) -> None:
    rng = np.random.default_rng(0)
    worth = {"scratch": scratch, "fip-all": 0.0, "fip-iobn": frozen}
    group = replace(GROUP, arms=tuple(worth), seeds=5)
    page = shown(tmp_path, group, lambda trial: peak(0.03)(trial) + worth[trial.arm] + rng.normal(0, 0.001))
    assert f"- CIFAR ResNet20, 10 clouds a class, 5 epochs: {said}" in page
    assert "FIP-IO+BN over FIP-ALL -20." in page or "FIP-IO+BN over FIP-ALL -19.9" in page
    alike = shown(tmp_path, group, lambda trial: peak(0.03)(trial) + rng.normal(0, 0.002))
    assert "start from either, alike; FIP-ALL over scratch" in alike
    unknown = shown(tmp_path, group, lambda trial: peak(0.03)(trial) + rng.normal(0, 0.03))
    assert "start from either, it is not known which is better; FIP-ALL over scratch" in unknown


def test_a_preference_is_corrected_for_the_number_of_settings(tmp_path: Path) -> None:
    """An interval that excludes zero in one setting of nine is bold there, and no reason to prefer anything."""
    groups = tuple(Group("cifar_resnet20", shots, 5, ("scratch", "fip-all"), seeds=5, lr=0.1) for shots in range(1, 10))
    gaps = (0.01, 0.03, 0.02, 0.05, 0.03)  # p 0.016
    found = {name: one for group in groups for name, one in done(group, lambda trial: 0.5)[1].items()}
    for seed, by in enumerate(gaps):
        name = groups[0].reported("fip-all", 0.1)[seed].name
        found[name] = replace(found[name], test=0.5 + by)
    one, every = (write_summary(lambda trial: found.get(trial.name), tmp_path, {"fewshot": of}).read_text() for of in (groups[:1], groups))
    assert "start from image weights; FIP-ALL over scratch **+2.80" in one
    assert "start from either, it is not known which is better; FIP-ALL over scratch **+2.80" in every
    assert "The mean gap is above zero in 1 of 9 with weights of CIFAR-10." in every


def test_a_run_that_hardly_learned_is_named(tmp_path: Path) -> None:
    """By its held-out clouds; the gap is told with it and without it."""
    group = Group("cifar_resnet20", 1, 5, ("scratch", "fip-all"), seeds=6, lr=0.1)
    rng = np.random.default_rng(0)
    _, found = done(group, lambda trial: 0.3 + 0.05 * (trial.arm == "scratch") + rng.normal(0, 0.003))
    name = group.reported("scratch", 0.1)[2].name
    found[name] = replace(found[name], held_out=0.14, test=0.15)
    page = write_pages(["fewshot"], lambda trial: found.get(trial.name), tmp_path, {"fewshot": (group,)})[0].read_text()
    assert "not told apart from zero (6 pairs); scratch of seed 2 hardly learned (held-out 14.0 %): without that -5." in page
    assert " (5 pairs)." in page


def test_gaps_of_several_budgets_stand_together(tmp_path: Path) -> None:
    groups = tuple(Group("cifar_resnet20", 10, epochs, ("scratch", "fip-all"), seeds=3, lr=0.1) for epochs in (100, 30))
    found = {name: one for group in groups for name, one in done(group, peak(0.1))[1].items()}
    page = write_pages(["fewshot"], lambda trial: found.get(trial.name), tmp_path, {"fewshot": groups})[0].read_text()
    rows = [line for line in page.splitlines() if line.startswith("| CIFAR ResNet20, 10 clouds a class: FIP-ALL over scratch |")]
    assert [line.split(" | ")[1] for line in rows] == ["30", "100"]
    alone = write_pages(["fewshot"], lambda trial: found.get(trial.name), tmp_path, {"fewshot": groups[:1]})[0].read_text()
    assert "by budget" not in alone


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


def test_a_summary_of_nothing_says_so(tmp_path: Path) -> None:
    page = write_summary(lambda _: None, tmp_path).read_text()
    assert "No setting has three trials" in page
    assert "0 trials" in page


def test_epochs_to_a_target() -> None:
    curves = {"scratch": [[50.0, 76.0, 81.0], [74.0, 74.0, 82.0]], "fip-all": [[80.0, 85.0, 86.0], [76.0, 79.0, 84.0]]}
    of = {
        arm: Result(arm, Choice({}, [], 0.1), {seed: with_curve(arm, seed, run) for seed, run in enumerate(runs)})
        for arm, runs in curves.items()
    }
    of["fip-all"] = replace(of["fip-all"], records={seed: replace(one, engine="quick") for seed, one in of["fip-all"].records.items()})
    scratch, fip = epochs_to(of)[2:4]
    engine = of["scratch"].records[0].engine
    assert scratch.endswith(f"| 62.0 | 3 (60) | 3 (60) | not reached | {engine} |")
    assert fip.endswith("| 78.0 | 1 (20) | 3 (60) | reached by 1 of 2 | quick |")
    gaps = first_epochs(of)
    assert gaps[2].startswith("| FIP-ALL over scratch, one fall | +16.00 ± ")
    assert len(gaps) == 4


def test_the_summary_tells_what_is_asked_beside_the_mode() -> None:
    """How soon, in one run each; the first epoch alone; the lowest and the highest of several variants."""
    curves = Group("cifar_resnet20", None, 3, ("scratch", "fip-all"), seeds=1, lr=0.1, curve=True)
    first = replace(curves, epochs=1, seeds=3, arms=("scratch-cyclic", "fip-all-cyclic"))
    _, found = done(curves, peak(0.1))
    found = {name: replace(with_curve("", 0, [80.0, 86.0 if "scratch" in name else 84.0, 87.0]), trial=name) for name in found}
    _, ones = done(first, peak(0.1))
    found |= {name: replace(with_curve("", 0, [60.0 if "scratch" in name else 61.0]), trial=name) for name in ones}
    varied = replace(GROUP, arms=("fip-all", "fip-all-stages1", "fip-all-stages4"), seeds=3)
    shift = {"fip-all": 0.0, "fip-all-stages1": 0.03, "fip-all-stages4": -0.02}
    found |= done(varied, lambda trial: peak(0.03)(trial) + shift[trial.arm])[1]
    assert besides({"speed": (curves, first), "stages": (varied,)}, lambda trial: found.get(trial.name)) == [
        "- CIFAR ResNet20, all clouds, 3 epochs: epochs until 85 % of 985 held-out clouds: scratch 2; FIP-ALL 3. One run each, at rates of "
        "a search over one epoch, and a score is off by 2 points by chance: differences of a few epochs tell nothing.",
        "- CIFAR ResNet20, all clouds, 1 epoch, held-out clouds: FIP-ALL over scratch, cyclic +1.00 ± 0.00, too few pairs to tell "
        "(3 pairs).",
        "- CIFAR ResNet20, 10 clouds a class, 5 epochs: FIP-ALL, some stages from image weights over all four: from -2.00 ± 0.00 (stage 4) "
        "to +3.00 ± 0.00 (stage 1), too few pairs to tell.",
    ]
    assert besides({"speed": (curves,), "stages": (varied,)}, lambda _: None) == []


def test_an_epoch_that_was_stopped_counts_as_the_others() -> None:
    assert total([{"seconds": 2.0}, {"loss": 1.0}, {"seconds": 4.0}], "seconds") == 9.0
    assert total([], "seconds") == 0.0


def with_curve(arm: str, seed: int, accuracies: list[float]) -> Record:
    trial = Trial("cifar_resnet20", None, 3, arm, 0.1, seed, curve=True)
    return replace(record(trial, 0.5), curve=[{"epoch": epoch, "val_accuracy": value / 100} for epoch, value in enumerate(accuracies, 1)])


def test_one_epoch_is_no_curve(tmp_path: Path) -> None:
    """It would take the place of the picture of the longer runs."""
    of = {"fip-all": Result("fip-all", Choice({}, [], 0.1), {0: with_curve("fip-all", 0, [70.0])})}
    group = Group("cifar_resnet20", None, 1, ("fip-all",), seeds=1, curve=True)
    (tmp_path / "speed").mkdir()
    assert not any("svg" in line for line in speed("speed", group, of, tmp_path))
    assert any("svg" in line for line in speed("speed", replace(group, epochs=3), of, tmp_path))
    assert [path.name for path in (tmp_path / "speed").iterdir()] == ["cifar_resnet20-full.svg"]


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
