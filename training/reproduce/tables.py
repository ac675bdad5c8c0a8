"""What is compared: the groups of trials behind every page."""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, zip_longest

from training.reproduce.arms import AXIS_MODES, DEFAULT_ORDER, ORDERS, STAGE_SETS
from training.reproduce.explored import EXPLORED, OF_FEW
from training.reproduce.search import GRID, Group, Known, missing_of
from training.reproduce.trial import PAPER, Trial, kind_of

PLAINEST = ("scratch", "fip-all")
LEARNERS = (*PLAINEST, "fip-iobn")
CONTROLLED = ("fip-iobn", "fip-ioms", "fip-io", "random-iobn", "random-ioms", "random-io")
EVERY_MODE = ("scratch", "fip-all", *CONTROLLED)
RECALIBRATED = ("fip-io-recalibrated", "random-io-recalibrated")
MEAN = ("fip-all-mean", "fip-io-mean")  # of the frozen ones, IO alone: where statistics follow, norms divide a scale out again
PLAIN = ("scratch", "fip-all", "fip-io", "random-io")  # what the others are compared with
STRUCTURED = ("fip-iobn", "random-iobn", "random2d-iobn")  # training and structure told apart
REFINED = (*PLAIN, *RECALIBRATED, *MEAN, "fip-all-tied", "scratch-tied")
AXES = {  # the arm of every order -> the arm whose learning rate it takes
    f"fip-{mode}" if order == DEFAULT_ORDER else f"fip-{mode}-{order}": f"fip-{mode}" for mode in AXIS_MODES for order in ORDERS
}
STAGES = tuple(f"fip-all-stages{name}" for name in STAGE_SETS)
CYCLIC = ("scratch-cyclic", "fip-all-cyclic")
SCHEDULES = ("scratch", "fip-all", *CYCLIC)
PARTS_OF_FEW = ("souped", "shaped", "imaged", "scratch", "shaped+mean", "scratch+mean")
OF_ALL = "full-modelnet40"  # beside OF_FEW a recipe of our own
BUDGET: dict[int | None, int] = {1: 100, 5: 40, 10: 30, None: 30}  # epochs by the number of shots: 200, 280, 390 and some 8,300 steps
CIFAR = ("cifar_resnet20", "cifar_resnet56")
SEARCHES = {"resnet18": 2, "cifar_resnet20": 2}  # draws that choose a learning rate; one for the other nets


def few(
    network: str, shots: int, arms: tuple[str, ...] = LEARNERS, seeds: int = 5, epochs: int | None = None, search_epochs: int | None = None
) -> Group:
    """At one shot, where draws differ most, twice the seeds."""
    searches = SEARCHES.get(network, 1)
    return Group(
        network, shots, epochs or BUDGET[shots], arms, 2 * seeds if shots == 1 else seeds, searches=searches, search_epochs=search_epochs
    )


def full(network: str, arms: tuple[str, ...], epochs: int = BUDGET[None], search_epochs: int = 1) -> Group:
    """One run of each arm: what a table says of all clouds with three seeds, it says with a better recipe (`full`)."""
    return Group(network, None, epochs, arms, seeds=1, search_epochs=search_epochs, curve=True)


# because of how far their gaps spread over the first seeds, not of what they were
_WIDE = {"fip-iobn": 16, "random-iobn": 16, "fip-ioms": 12, "random-ioms": 12}
_RESNET18_10 = replace(few("resnet18", 10, EVERY_MODE, seeds=8), more_seeds=_WIDE)
_MORE = dict.fromkeys(EVERY_MODE, 8) | _WIDE  # what is known of an arm counts wherever it is compared
_RESNET18_1 = few("resnet18", 1, EVERY_MODE)
_LONGER = {  # epochs, seeds, and epochs of the search where a whole one would cost more than what it is for
    "cifar_resnet20": ((100, 5, None), (300, 3, 100)),
    "cifar_resnet56": ((100, 1, 30),),
}

SCANS: dict[int | None, int] = {1: 220, 5: 73, None: 20}  # epochs by how many scans: 220 steps of two, or of the one that there is
_LIDAR = "paired-lidar19"

TABLES: dict[str, tuple[Group, ...]] = {
    "fewshot": (
        replace(_RESNET18_10, arms=LEARNERS),
        replace(_RESNET18_1, arms=LEARNERS),
        few("resnet18", 5),
        *(few(network, shots) for network in CIFAR for shots in (10, 1, 5)),
        *(few(net, 10, PLAINEST, seeds, epochs, search) for net, longer in _LONGER.items() for epochs, seeds, search in longer),
    ),
    "modes": (
        _RESNET18_10,
        _RESNET18_1,
        replace(few("resnet18", 10, REFINED), part="refinements", more_seeds=_MORE),
        replace(few("resnet18", 10, STRUCTURED, seeds=8), part="structure of the filters", more_seeds=_MORE),
        replace(few("resnet18", 1, STRUCTURED), part="structure of the filters"),
        replace(few("cifar_resnet20", 10, ("fip-iobn", "random-iobn")), part="a small net"),
        full("cifar_resnet20", EVERY_MODE),
    ),
    "speed": (
        full("cifar_resnet20", SCHEDULES),
        full("resnet18", PLAINEST, epochs=10),
        replace(full("cifar_resnet20", CYCLIC, epochs=1), seeds=5, part="the first epoch alone"),
        replace(full("resnet18", CYCLIC, epochs=1), seeds=3, part="the first epoch alone"),
    ),
    "axes": (Group("resnet18", 10, BUDGET[10], tuple(AXES), seeds=4, searches=2, rate_of=AXES, more_seeds=_MORE),),
    "stages": (
        Group(
            "resnet18", 10, BUDGET[10], ("scratch", "fip-all", *STAGES), seeds=3, searches=2, rate_of=dict.fromkeys(STAGES, "fip-all"),
            more_seeds=_MORE,
        ),
    ),
    "backbones": (
        replace(_RESNET18_10, arms=LEARNERS),
        *(few(network, 10) for network in CIFAR),
        *(few(network, 10, search_epochs=10) for network in ("cifar_resnet32", "cifar_resnet44")),
        few("resnet50", 10, PLAINEST, seeds=1, search_epochs=10),
    ),
    "recipe": (
        Group("cifar_resnet20", 1, 200, PARTS_OF_FEW, seeds=5, more_seeds={"souped": 10, "shaped": 10}, lr=0.03, base=OF_FEW),
        Group("cifar_resnet20", 10, 150, PARTS_OF_FEW, seeds=3, more_seeds={"shaped": 5}, lr=0.1, base=OF_FEW),
        Group("cifar_resnet20", 5, 150, PARTS_OF_FEW, seeds=3, more_seeds={"shaped": 5}, lr=0.1, base=OF_FEW),
    ),
    "full": (
        Group("cifar_resnet20", None, 40, PLAINEST, seeds=3, search_epochs=5, base=OF_ALL),
        Group("resnet18", None, 40, PLAINEST, seeds=1, search_epochs=5, base=OF_ALL),
    ),
    "distill": (Group("cifar_resnet20", 10, 20, ("shaped-distilled",), seeds=3, lr=0.1, base=OF_FEW),),
    "segmentation": tuple(
        Group("cifar_resnet20", scans, epochs, LEARNERS, seeds=3, base=_LIDAR) for scans, epochs in SCANS.items()
    ),
}  # fmt: skip


USUAL = {PAPER: BUDGET, _LIDAR: SCANS}


def has_usual_budget(group: Group) -> bool:
    """Whether its epochs are those that networks are compared at, where there are several budgets for so many labels."""
    return group.base not in USUAL or USUAL[group.base].get(group.shots) == group.epochs


def by_amount(shots: int | None) -> float:
    """To sort by how much is labelled."""
    return math.inf if shots is None else shots


def kind_of_table(name: str) -> str:
    """The kind of data that it is about."""
    return kind_of(TABLES[name][0].base)


def missing_of_tables(names: list[str], known: Known) -> list[Trial]:
    """What is to be done, the tables taking turns, each group by group; nothing twice."""
    asked = [list(dict.fromkeys((*_unexplored(name, known), *_untrained(name, known)))) for name in names]
    turns: Iterable[Trial | None] = chain.from_iterable(zip_longest(*asked))
    return list(dict.fromkeys(trial for trial in turns if trial is not None))


def _unexplored(name: str, known: Known) -> list[Trial]:
    return [trial for each in EXPLORED.get(name, ()) for trial in each.every_trial() if known(trial) is None]


def _untrained(name: str, known: Known) -> list[Trial]:
    return [trial for group in TABLES[name] for trial in missing_of(group, known)]


def every_trial() -> list[Trial]:
    """All that any table could ask for, at every learning rate of the grid."""
    groups = (group for of in TABLES.values() for group in of)
    trained = (
        trial
        for group in groups
        for arm in group.arms
        for lr in (GRID if group.lr is None else (group.lr,))
        for trial in (*group.tried(group.rate_of.get(arm, arm), lr), *group.reported(arm, lr))
    )
    explored = (trial for of in EXPLORED.values() for each in of for trial in each.every_trial())
    return list(dict.fromkeys((*trained, *explored)))
