"""What pages and the summary say of records."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reproduced import GROUP, done, peak, record
from training.reproduce.besides import besides
from training.reproduce.explored import EXPLORED
from training.reproduce.labels import levels_of
from training.reproduce.pages import write_pages
from training.reproduce.plots import Level
from training.reproduce.search import Choice, Exploration, Group
from training.reproduce.speed import epochs_to, first_epochs, speed
from training.reproduce.summary import write_summary
from training.reproduce.tables import SCANS, every_trial, few, full, missing_of_tables
from training.reproduce.trial import Record, Trial
from training.reproduce.view import Result, results


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


def test_signs_are_counted_once_a_network_and_number_of_labels(tmp_path: Path) -> None:
    groups = tuple(few("cifar_resnet20", shots, ("scratch", "fip-all"), epochs=epochs) for shots, epochs in ((10, 30), (10, 100), (5, 40)))
    known: dict[str, Record] = {}
    for group in groups:
        known |= done(group, lambda trial: 0.5 + 0.01 * (trial.arm == "fip-all") * (1 if trial.shots == 10 else -1) + 0.001 * trial.seed)[1]
    page = write_summary(lambda trial: known.get(trial.name), tmp_path, {"fewshot": groups}).read_text()
    assert "At the usual budgets the mean gap is above zero in 1 of 2 with weights of CIFAR-10." in page
    assert "CIFAR ResNet20, 10 clouds a class (100)" not in page  # its rates were searched over as many epochs


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


def test_a_summary_of_nothing_says_so(tmp_path: Path) -> None:
    page = write_summary(lambda _: None, tmp_path).read_text()
    assert "No setting has three trials" in page
    assert "0 trials" in page


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


def with_curve(arm: str, seed: int, accuracies: list[float]) -> Record:
    trial = Trial("cifar_resnet20", None, 3, arm, 0.1, seed, curve=True)
    return replace(record(trial, 0.5), curve=[{"epoch": epoch, "val_accuracy": value / 100} for epoch, value in enumerate(accuracies, 1)])


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


def test_one_epoch_is_no_curve(tmp_path: Path) -> None:
    """It would take the place of the picture of the longer runs."""
    of = {"fip-all": Result("fip-all", Choice({}, [], 0.1), {0: with_curve("fip-all", 0, [70.0])})}
    group = Group("cifar_resnet20", None, 1, ("fip-all",), seeds=1, curve=True)
    (tmp_path / "speed").mkdir()
    assert not any("svg" in line for line in speed("speed", group, of, tmp_path))
    assert any("svg" in line for line in speed("speed", replace(group, epochs=3), of, tmp_path))
    assert [path.name for path in (tmp_path / "speed").iterdir()] == ["cifar_resnet20-full.svg"]


def labelled(arms: tuple[str, ...], *settings: tuple[int | None, int]) -> tuple[tuple[Group, ...], dict[str, Record]]:
    """Groups of (shots, epochs) and what was found: more with more labels and with every seed."""
    groups = tuple(
        replace(full("cifar_resnet20", arms) if shots is None else few("cifar_resnet20", shots, arms), epochs=e) for shots, e in settings
    )
    known: dict[str, Record] = {}
    for group in groups:
        known |= done(group, lambda trial: {1: 0.3, 5: 0.6, 10: 0.7, None: 0.9}[trial.shots] + 0.01 * trial.seed)[1]
    return groups, known


def levels(groups: tuple[Group, ...], known: dict[str, Record]) -> list[Level]:
    return levels_of([(group, results(group, lambda trial: known.get(trial.name))) for group in groups])


def test_scores_by_the_number_of_labels() -> None:
    groups, known = labelled(("scratch",), (None, 30), (10, 30), (1, 100), (5, 40))
    found = levels(groups, known)
    assert [(level.labelled, level.epochs, level.runs) for level in found] == [(1, 100, 10), (5, 40, 5), (10, 30, 5), (None, 30, 1)]
    assert [level.score for level in found] == pytest.approx([34.5, 62, 72, 90])
    assert [level.std for level in found] == pytest.approx([3.028, 1.581, 1.581, 0], abs=1e-3)


def test_only_usual_budgets_stand_beside_one_another() -> None:
    groups, known = labelled(("scratch",), (1, 100), (5, 40), (10, 100), (None, 10))
    assert levels(groups, known) == []  # those of 10 and of all are longer or shorter than the others', and two amounts are no curve


def test_two_runs_are_no_point_where_few_are_labelled() -> None:
    groups, known = labelled(("scratch", "fip-all"), (1, 100), (5, 40), (10, 30))
    few_runs = {name: record for name, record in known.items() if not ("5shot/fip" in name and re.search("seed[234]", name))}
    assert {(level.mode, level.labelled) for level in levels(groups, known)} - {
        (level.mode, level.labelled) for level in levels(groups, few_runs)
    } == {("FIP-ALL", 5)}


def test_pages_show_what_labels_bring(tmp_path: Path) -> None:
    groups, known = labelled(("fip-all", "scratch"), (5, 40), (10, 30), (1, 100), (None, 30))
    known = {name: record for name, record in known.items() if "5shot/fip-all-40e" not in name or "search" in name}

    def look(trial: Trial) -> Record | None:
        return known.get(trial.name)

    (page,) = write_pages(["fewshot"], look, tmp_path, {"fewshot": groups})
    summary = write_summary(look, tmp_path, {"fewshot": groups})
    for path, plot in ((page, "fewshot/labels.svg"), (summary, "labels.svg")):
        text = path.read_text(encoding="utf-8")
        assert f"({plot})" in text
        assert "deviations of 5 to 10 runs; hollow: a single run." in text
        drawn = re.findall(r">([^<>]*)</text>", (tmp_path / plot).read_text(encoding="utf-8"))
        ticks = [word for word in drawn if word in ("1", "5", "10", "all")]
        assert ticks == ["1", "5", "10", "all"]  # in this order, though one mode lacks the second
    scans = tuple(replace(group, base="paired-lidar19", epochs=SCANS[group.shots]) for group in groups if group.shots != 10)
    for group in scans:
        known |= done(group, lambda trial: 0.1 + 0.01 * trial.seed)[1]
    (page,) = write_pages(["segmentation"], look, tmp_path, {"segmentation": scans})
    assert "labelled scans" in (tmp_path / "segmentation" / "labels.svg").read_text(encoding="utf-8")


def test_three_pairs_prefer_nothing(tmp_path: Path) -> None:
    """However narrow their interval, and nobody else's correction is harder for them."""
    of_three = replace(GROUP, shots=5, epochs=40)
    groups = (replace(GROUP, seeds=5), of_three)
    known: dict[str, Record] = {}
    for group in groups:
        known |= done(group, lambda trial: 0.5 + 0.02 * (trial.arm == "scratch") + 0.0001 * trial.seed * (trial.arm == "scratch"))[1]
    page = write_summary(lambda trial: known.get(trial.name), tmp_path, {"fewshot": groups}).read_text()
    assert "over the 1 settings of 5 pairs or more" in page
    assert "5 clouds a class, 40 epochs: start from either, it is not known which is better; FIP-ALL over scratch -2.01 ± " in page
    assert "10 clouds a class, 5 epochs: start from random weights" in page


def test_controls_are_corrected_and_say_what_they_are(tmp_path: Path) -> None:
    """Of two gaps whose intervals exclude zero, the one that Holm's correction leaves is marked."""
    arms = ("fip-iobn", "random-iobn", "fip-io", "random-io")
    group = replace(GROUP, arms=arms, seeds=5)
    rng = np.random.default_rng(1)
    gains = {"fip-iobn": 0.1, "fip-io": 0.012}
    _, known = done(group, lambda trial: 0.5 + gains.get(trial.arm, 0) + rng.normal(0, 0.006))
    page = write_summary(lambda trial: known.get(trial.name), tmp_path, {"modes": (group,)}).read_text()
    section = page.partition("## Image filters")[2].partition("## Pages")[0]
    marked = {"IO+BN" in line: line.endswith(" \\*.") for line in section.splitlines() if line.startswith("- ")}
    assert marked[True]
    assert "With CIFAR ResNet20 those were not tried." in section
    assert "over the 2 gaps of 5 pairs or more" in section
