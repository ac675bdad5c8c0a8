"""Which trials of a comparison are still to be done: first those that choose each arm's learning rate, then those that are reported.

A learning rate is chosen by accuracy on held-out train clouds, on draws of clouds that are not reported: every rate is tried on one
draw, the grid goes on past a best rate that lies at its end, and the two best are tried on the other draws, too. The best mean over
all draws decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from training.reproduce.trial import PAPER, Record, Trial

GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FIRST = (0.01, 0.03, 0.1)
Known = Callable[[Trial], Record | None]


@dataclass(frozen=True)
class Group:
    """Arms of one network at one number of shots and one budget of epochs, each with `seeds` reported trials.

    lr: that of all arms, where it is part of their recipe; None: each has its own, which is searched. searches: draws that choose the
    learning rate, over search_epochs (None: as many as are reported). rate_of: arms that take the learning rate of another. more_seeds:
    for arms whose gaps spread too wide to be told with `seeds`. curve, base: see Trial. part: what tells it from another group of the
    same setting.
    """

    network: str
    shots: int | None
    epochs: int
    arms: tuple[str, ...]
    seeds: int
    searches: int = 1
    search_epochs: int | None = None
    rate_of: Mapping[str, str] = field(default_factory=dict)
    more_seeds: Mapping[str, int] = field(default_factory=dict)
    curve: bool = False
    base: str = PAPER
    part: str = ""
    lr: float | None = None

    def seeds_of(self, arm: str) -> int:
        return self.more_seeds.get(arm, self.seeds)

    def reported(self, arm: str, lr: float) -> list[Trial]:
        seeds = range(self.seeds_of(arm))
        return [Trial(self.network, self.shots, self.epochs, arm, lr, seed, curve=self.curve, base=self.base) for seed in seeds]

    def tried(self, arm: str, lr: float) -> list[Trial]:
        """The trials that tell how good a learning rate is."""
        epochs = self.search_epochs or self.epochs
        seeds = range(self.searches)
        return [Trial(self.network, self.shots, epochs, arm, lr, seed, search=True, base=self.base) for seed in seeds]


@dataclass(frozen=True)
class Exploration:
    """What was tried to find a recipe, by accuracy on held-out train clouds: arms, each with its learning rate and epochs, on `draws` of
    clouds that are not reported.
    """

    network: str
    shots: int | None
    tried: tuple[tuple[str, float, int], ...]
    draws: int
    base: str = PAPER

    def trials(self, arm: str, lr: float, epochs: int) -> list[Trial]:
        return [Trial(self.network, self.shots, epochs, arm, lr, seed, search=True, base=self.base) for seed in range(self.draws)]

    def every_trial(self) -> list[Trial]:
        """Draw by draw, so that what was tried can be compared early."""
        return sorted((trial for one in self.tried for trial in self.trials(*one)), key=lambda trial: trial.seed)


@dataclass(frozen=True)
class Choice:
    """scores: held-out accuracies of every learning rate that was tried, by draw. lr: the best, None while trials are missing."""

    scores: dict[float, list[float]]
    missing: list[Trial]
    lr: float | None


def choose(group: Group, arm: str, known: Known) -> Choice:
    """The learning rate of an arm, or what has to be trained to know it."""
    if group.lr is not None:
        return Choice({}, [], group.lr)
    source = group.rate_of.get(arm, arm)

    def scores(lr: float) -> list[float]:
        return [record.held_out for trial in group.tried(source, lr) if (record := known(trial))]

    def lacking(rates: list[float], draws: int) -> list[Trial]:
        return [trial for lr in rates for trial in group.tried(source, lr)[:draws] if known(trial) is None]

    tried = list(FIRST)
    while True:
        missing = lacking(tried, 1)
        if not missing:
            ranked = sorted(tried, key=lambda lr: (-scores(lr)[0], lr not in (min(tried), max(tried))))  # of equals the one at an end
            more = _past(ranked[0], tried)
            if more is None:
                missing = lacking(ranked[: 2 if group.searches > 1 else 1], group.searches)
                best = max(tried, key=lambda lr: (len(scores(lr)), sum(scores(lr))))  # of those that were tried on every draw
                more = _past(best, tried)
            if not missing and more is None:
                return Choice({lr: scores(lr) for lr in sorted(tried)}, [], best)
        if missing:
            return Choice({lr: found for lr in sorted(tried) if (found := scores(lr))}, missing, None)
        assert more is not None
        tried.append(more)


def _past(best: float, tried: list[float]) -> float | None:
    """The rate of the grid beyond the best one, where that is at an end of what was tried."""
    place = GRID.index(best) + (best == max(tried)) - (best == min(tried))
    return GRID[place] if 0 <= place < len(GRID) and GRID[place] not in tried else None


def missing_of(group: Group, known: Known) -> list[Trial]:
    """What is to be done next: searches of all arms, then reported trials seed by seed, so that pairs are whole."""
    choices = {arm: choose(group, arm, known) for arm in group.arms}
    searches = [trial for choice in choices.values() for trial in choice.missing]
    rates = {arm: choice.lr for arm, choice in choices.items()}
    reported = [trial for arm, lr in rates.items() if lr for trial in group.reported(arm, lr) if known(trial) is None]
    return list(dict.fromkeys(searches)) + sorted(reported, key=lambda trial: trial.seed)  # a stable sort: arm by arm of a seed
