"""Which trials of a comparison are still to be done: first those that choose each arm's learning rate, then those that are reported.

A learning rate is chosen by the mean accuracy on held-out train clouds, on draws of clouds that are not reported; the grid goes on past
a best rate that lies at its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from training.reproduce.trial import Record, Trial

GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FIRST = (0.01, 0.03, 0.1)
Known = Callable[[Trial], Record | None]


@dataclass(frozen=True)
class Group:
    """Arms of one network at one number of shots and one budget of epochs, each with `seeds` reported trials.

    searches: seeds that choose the learning rate, over search_epochs (None: as many as are reported). rate_of: arms that take the
    learning rate of another. curve: see Trial.
    """

    network: str
    shots: int | None
    epochs: int
    arms: tuple[str, ...]
    seeds: int
    searches: int = 1
    search_epochs: int | None = None
    rate_of: Mapping[str, str] = field(default_factory=dict)
    curve: bool = False

    def reported(self, arm: str, lr: float) -> list[Trial]:
        return [Trial(self.network, self.shots, self.epochs, arm, lr, seed, curve=self.curve) for seed in range(self.seeds)]

    def tried(self, arm: str, lr: float) -> list[Trial]:
        """The trials that tell how good a learning rate is."""
        epochs = self.search_epochs or self.epochs
        return [Trial(self.network, self.shots, epochs, arm, lr, seed, search=True) for seed in range(self.searches)]


@dataclass(frozen=True)
class Choice:
    """scores: mean held-out accuracy of every learning rate that was tried. lr: the best, None while trials are missing."""

    scores: dict[float, float]
    missing: list[Trial]
    lr: float | None


def choose(group: Group, arm: str, known: Known) -> Choice:
    """The learning rate of an arm, or what has to be trained to know it."""
    source = group.rate_of.get(arm, arm)
    scores: dict[float, float] = {}
    wanted = list(FIRST)
    while True:
        trials = {lr: group.tried(source, lr) for lr in wanted}
        missing = [trial for lr in wanted for trial in trials[lr] if known(trial) is None]
        scores |= {
            lr: sum(record.held_out for record in found) / len(found)
            for lr in wanted
            if len(found := [record for trial in trials[lr] if (record := known(trial))]) == group.searches
        }
        if missing:
            return Choice(scores, missing, None)
        best = max(scores, key=lambda lr: scores[lr])
        place = GRID.index(best)
        beyond = {min(scores): place - 1, max(scores): place + 1}.get(best)
        if beyond is None or not 0 <= beyond < len(GRID):
            return Choice(dict(sorted(scores.items())), [], best)
        wanted = [GRID[beyond]]


def missing_of(group: Group, known: Known) -> list[Trial]:
    """What is to be done next: searches of all arms, then reported trials seed by seed, so that pairs are whole."""
    choices = {arm: choose(group, arm, known) for arm in group.arms}
    searches = [trial for choice in choices.values() for trial in choice.missing]
    rates = {arm: choice.lr for arm, choice in choices.items()}
    reported = [trials[seed] for seed in range(group.seeds) for arm, lr in rates.items() if lr for trials in [group.reported(arm, lr)]]
    return list(dict.fromkeys(searches)) + [trial for trial in reported if known(trial) is None]
