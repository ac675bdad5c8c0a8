"""Records as pages see them: what each arm of a group reached, in %."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from training.reproduce.arms import AXIS_MODES, DEFAULT_ORDER, ORDERS, STAGE_SETS
from training.reproduce.explored import EXPLORED
from training.reproduce.search import Choice, Group, Known, choose
from training.reproduce.stats import Mean, mean_of, paired
from training.reproduce.trial import Record

NAMES = {  # arm -> what it is, in words
    "scratch": "scratch: random weights, everything trained",
    "fip-all": "FIP-ALL: image weights, everything trained",
    "fip-iobn": "FIP-IO+BN: image filters frozen, batch norms trained",
    "fip-ioms": "FIP-IOms: image filters frozen, statistics follow",
    "fip-io": "FIP-IO: image filters and norms frozen",
    "random-iobn": "random filters frozen, batch norms trained",
    "random-ioms": "random filters frozen, statistics follow",
    "random-io": "random filters and norms frozen",
    "fip-io-recalibrated": "FIP-IO, statistics estimated anew once, then frozen",
    "random2d-iobn": "random 2D filters inflated and frozen, batch norms trained",
    "random-io-recalibrated": "random filters, statistics estimated once, then frozen",
    "fip-all-mean": "FIP-ALL, scaled: 3×3 filters by 1/3, 2×2×2 shortcuts by 1/8",
    "fip-io-mean": "FIP-IO, scaled: 3×3 filters by 1/3, 2×2×2 shortcuts by 1/8",
    "fip-all-tied": "FIP-ALL, filters stay 2D (tied)",
    "scratch-tied": "scratch, filters are 2D (tied)",
    "fip-all-distilled": "FIP-ALL, taught about the clouds without labels",
    "scratch-cyclic": "scratch, cyclic learning rate",
    "fip-all-cyclic": "FIP-ALL, cyclic learning rate",
}

SHORT = {"scratch": "scratch", "fip-all": "FIP-ALL", "fip-iobn": "FIP-IO+BN", "fip-ioms": "FIP-IOms", "fip-io": "FIP-IO"}
NAMES |= {
    f"fip-{mode}-{order}": f"{SHORT[f'fip-{mode}']}: repeated along {order[0]}, height along {order[1]}, width along {order[2]}"
    for mode in AXIS_MODES
    for order in ORDERS
    if order != DEFAULT_ORDER
}


def stages_in_words(name: str) -> str:
    return f"stage{'s' * (len(name) > 1)} {', '.join(name)}"


NAMES |= {f"fip-all-stages{name}": f"{stages_in_words(name)} from image weights, everything trained" for name in STAGE_SETS}


@dataclass(frozen=True)
class Result:
    """choice: of the learning rate; records by seed; engine: what times are of, those of another processor say nothing beside them."""

    arm: str
    choice: Choice
    records: dict[int, Record]
    engine: str = ""

    @property
    def tests(self) -> dict[int, float]:
        """Test accuracy in % by seed."""
        return {seed: 100 * record.test for seed, record in self.records.items() if record.test is not None}

    @property
    def test(self) -> Mean | None:
        return mean_of(list(self.tests.values()))

    @property
    def minutes(self) -> float | None:
        """Of one trial's training steps, on average: the time of a processor's thread, on a GPU by the clock. None where no trial was
        computed on the engine.
        """
        return self._minutes_on(self.engine)

    @property
    def own(self) -> tuple[float, str] | None:
        """Minutes like these and the engine that computed most of this arm's trials, whatever computed the others'."""
        engine = most_common(record.engine for record in self.records.values())
        minutes = self._minutes_on(engine)
        return None if minutes is None else (minutes, engine)

    def _minutes_on(self, engine: str) -> float | None:
        costs = [cost(record) for record in self.records.values() if record.engine == engine]
        return sum(costs) / 60 / len(costs) if costs else None


def cost(record: Record) -> float:
    """Seconds of the training steps: of a thread, on a GPU by the clock."""
    return record.cpu_seconds if "thread" in record.machine else record.seconds


def results(group: Group, known: Known) -> dict[str, Result]:
    found = {}
    for arm in group.arms:
        choice = choose(group, arm, known)
        trials = group.reported(arm, choice.lr) if choice.lr else []
        found[arm] = Result(arm, choice, {trial.seed: record for trial in trials if (record := known(trial))})
    engine = most_common(record.engine for result in found.values() for record in result.records.values())
    return {arm: replace(result, engine=engine) for arm, result in found.items()}


def most_common(names: Iterable[str]) -> str:
    """Of two that are as common the last in the alphabet; empty where there is none."""
    counts = Counter(names)
    return max(counts, key=lambda name: (counts[name], name), default="")


def in_minutes(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def gap(found: dict[str, Result], first: str, second: str) -> Mean | None:
    """Of test %, seed by seed."""
    return paired(found[first].tests, found[second].tests) if first in found and second in found else None


def every_record(groups: tuple[Group, ...], known: Known) -> list[Record]:
    """Of all trials of the groups that are done, those of searches among them; each once."""
    records: dict[str, Record] = {}
    for group in groups:
        for arm, result in results(group, known).items():
            records |= {record.trial: record for record in result.records.values()}
            for lr in result.choice.scores:
                tried = (known(trial) for trial in group.tried(group.rate_of.get(arm, arm), lr))
                records |= {record.trial: record for record in tried if record}
    return list(records.values())


def every_exploration(name: str, known: Known) -> list[Record]:
    """Of what was tried on the way to the recipe of a table."""
    return [record for each in EXPLORED.get(name, ()) for trial in each.every_trial() if (record := known(trial))]
