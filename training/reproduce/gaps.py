"""Gaps between the arms of a group: what is subtracted from what, and what may be said of it."""

from typing import NamedTuple

from training.datasets.kinds import SCENE_KINDS
from training.evaluate import counted
from training.reproduce.plots import Bar
from training.reproduce.search import Group
from training.reproduce.stats import FEW_PAIRS, Mean, paired
from training.reproduce.texts import NETWORKS, PAIRS, PUBLISHED, Published
from training.reproduce.trial import PAPER, kind_of
from training.reproduce.view import SHORT, Result, gap


def setting(group: Group) -> str:
    epochs = counted(group.epochs, "epoch")
    if is_of_scenes(group):
        return f"{NETWORKS[group.network]} U-Net, {counted(group.shots, 'scan') if group.shots else 'all scans'}, {epochs}"
    return f"{NETWORKS[group.network]}, {few_or_all(group.shots)}, {epochs}"


def few_or_all(shots: int | None) -> str:
    return "all clouds" if shots is None else f"{counted(shots, 'cloud')} a class"


def is_of_scenes(group: Group) -> bool:
    return kind_of(group.base) in SCENE_KINDS


def score_of(group: Group) -> str:
    """What its scores are called."""
    return "test mIoU" if is_of_scenes(group) else "test"


class Gap(NamedTuple):
    """first over second, in words; the mean over seeds; the paper's gap, where that is published. failed: runs that hardly learned, in
    words; without: the mean over the other pairs.
    """

    first: str
    second: str
    what: str
    value: Mean
    paper: Published | None
    failed: str = ""
    without: Mean | None = None

    @property
    def published(self) -> str:
        return f"{self.paper.interval} ({self.paper.scores})" if self.paper else "–"

    @property
    def told(self) -> str:
        """What can be said of it, and what cannot."""
        value = self.value
        said = f"**{value.interval}**" if value.decided else value.interval
        if value.count < FEW_PAIRS:
            said += ", too few pairs to tell"
        elif not value.decided:
            said += ", not told apart from zero"
        said += f" ({counted(value.count, 'pair')})"
        if self.without:
            said += f"; {self.failed}: without that {self.without.interval} ({counted(self.without.count, 'pair')})"
        return said + (f"; the paper has {self.paper.interval}" if self.paper else "")


Compared = list[tuple[Group, list[Gap]]]


def gaps_of(group: Group, of: dict[str, Result]) -> list[Gap]:
    """All pairs that the group has."""
    found = []
    for first, second, what in PAIRS:
        if (value := gap(of, first, second)) is not None:
            paper = PUBLISHED.get((group.network, group.shots or 0, first, second)) if group.base == PAPER else None
            found.append(Gap(first, second, what, value, paper, *_without_failed(of[first], of[second])))
    return found


def _without_failed(first: Result, second: Result) -> tuple[str, Mean | None]:
    """Which of the runs hardly learned, and the gap of the others."""
    lost = [(result, seed, score) for result in (first, second) for seed, score in result.failed.items()]
    seeds = {seed for _, seed, _ in lost}
    told = ", ".join(
        f"{SHORT.get(result.arm, result.arm)} of seed {seed} hardly learned (held-out {score:.1f} %)" for result, seed, score in lost
    )
    rest = [{seed: test for seed, test in result.tests.items() if seed not in seeds} for result in (first, second)]
    return told, paired(*rest) if lost else None


def each_once(compared: Compared) -> Compared:
    """Of gaps that two groups of one setting have, that of the most pairs."""
    best: dict[tuple[str, str], Mean] = {}
    for group, gaps in compared:
        for each in gaps:
            key = setting(group), each.what
            best[key] = each.value if key not in best or each.value.count > best[key].count else best[key]
    return [(group, [each for each in gaps if each.value is best[setting(group), each.what]]) for group, gaps in compared]


def verdicts(compared: Compared) -> list[str]:
    """One line for every gap of several seeds."""
    lines = [f"- {setting(group)}: {each.what} {each.told}." for group, gaps in compared for each in gaps if each.value.count > 2]
    if not lines:
        return []
    scores, draws = ("test mIoU", "scans") if is_of_scenes(compared[0][0]) else ("test accuracy", "training clouds")
    about = (
        f"In points of {scores}, with 95 % intervals of the paired gaps over draws of {draws} and seeds, at the learning rates that were "
        "chosen and on these test data: another choice of a rate can move a gap by more."
    )
    if len(lines) > 2:
        about += (
            f" They are {len(lines)} intervals: each misses in one case of twenty, and many share the trials of one arm; a "
            "bold one among them is no more than a hint."
        )
    return [about, "", *lines]


def by_budget(compared: Compared) -> list[str]:
    """The gaps of settings that differ in their epochs alone, where there are such."""
    found: dict[tuple[str, int | None, str], dict[int, str]] = {}
    for group, gaps in compared:
        for each in gaps:
            epochs = found.setdefault((group.network, group.shots, each.what), {})
            epochs[group.epochs] = f"{each.value.interval} ({counted(each.value.count, 'pair')})"
    rows = [
        f"| {NETWORKS[network]}, {few_or_all(shots)}: {what} | {epochs} | {text} |"
        for (network, shots, what), by_epochs in found.items()
        if len(by_epochs) > 1
        for epochs, text in sorted(by_epochs.items())
    ]
    if not rows:
        return []
    return ["## The gap by budget", "", "| gap, test % | epochs | mean ± half of the 95 % interval |", "|---|---|---|", *rows, ""]


def bars(compared: Compared) -> list[Bar]:
    return [
        Bar(f"{setting(group)}: {each.what}", each.value.mean, each.value.half, each.value.decided)
        for group, gaps in compared
        for each in gaps
        if each.value.count > 2
    ]
