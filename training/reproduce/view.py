"""Records as pages see them: what each arm of a group reached, in %."""

from collections import Counter
from dataclasses import dataclass
from statistics import median

from training.reproduce.arms import AXIS_MODES, DEFAULT_ORDER, ORDERS, STAGE_SETS
from training.reproduce.explored import EXPLORED
from training.reproduce.search import Choice, Group, Known, choose
from training.reproduce.stats import Mean, mean_of, paired
from training.reproduce.trial import Record

NAMES = {  # arm -> what it is, in words
    "scratch": "scratch: random weights, everything trained",
    "fip-all": "FIP-ALL: image weights, everything trained",
    "souped": "generated shapes learnt before, from image weights; everything trained, three times, and the weights averaged",
    "shaped": "generated shapes learnt before, from image weights; everything trained",
    "shaped+mean": "generated shapes learnt before; the head reads the mean alone",
    "imaged": "FIP-ALL: image weights alone, everything trained; the head keeps the layout",
    "scratch+mean": "scratch; the head reads the mean alone",
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
    "shaped-distilled": "the recipe for few clouds, taught about those without labels",
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
    """choice: of the learning rate; records by seed."""

    arm: str
    choice: Choice
    records: dict[int, Record]

    @property
    def tests(self) -> dict[int, float]:
        """Test accuracy in % by seed."""
        return {seed: 100 * record.test for seed, record in self.records.items() if record.test is not None}

    @property
    def test(self) -> Mean | None:
        return mean_of(list(self.tests.values()))

    @property
    def failed(self) -> dict[int, float]:
        """Held-out accuracy in % by seed, of those that hardly learned: less than half of the middle one, where there are three."""
        scores = {seed: 100 * record.held_out for seed, record in self.records.items()}
        middle = median(scores.values()) if len(scores) > 2 else 0.0
        return {seed: score for seed, score in scores.items() if score < middle / 2}

    @property
    def timed(self) -> tuple[float, str] | None:
        """Minutes of one trial's training steps, on average, and the engine that computed most of the trials, which they are of: those of
        another processor say nothing beside them. Of a processor's thread, on a GPU by the clock.
        """
        counts = Counter(record.engine for record in self.records.values())
        if not counts:
            return None
        engine = max(counts, key=lambda name: (counts[name], name))
        return sum(cost(record) for record in self.records.values() if record.engine == engine) / 60 / counts[engine], engine

    @property
    def minutes(self) -> str:
        """In words."""
        return "–" if self.timed is None else f"{self.timed[0]:.1f}{f' ({in_short(self.timed[1])})' if self.timed[1] else ''}"


def in_short(engine: str) -> str:
    """`native (amx)` as `amx`, which tells processors apart."""
    return engine.rpartition("(")[2].rstrip(")")


def cost(record: Record) -> float:
    """Seconds of the training steps: of a thread, on a GPU by the clock."""
    return record.cpu_seconds if "thread" in record.machine else record.seconds


def results(group: Group, known: Known) -> dict[str, Result]:
    found = {}
    for arm in group.arms:
        choice = choose(group, arm, known)
        trials = group.reported(arm, choice.lr) if choice.lr else []
        found[arm] = Result(arm, choice, {trial.seed: record for trial in trials if (record := known(trial))})
    return found


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
