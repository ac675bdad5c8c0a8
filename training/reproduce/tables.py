"""What is compared: the groups of trials behind every page."""

from training.reproduce.arms import AXIS_MODES, ORDERS, STAGE_SETS
from training.reproduce.search import GRID, Group, Known, missing_of
from training.reproduce.trial import Trial

LEARNERS = ("scratch", "fip-all", "fip-iobn")
CONTROLLED = ("fip-iobn", "fip-ioms", "fip-io", "random-iobn", "random-ioms", "random-io")
RECALIBRATED = ("fip-io-recalibrated", "random-io-recalibrated")
MEAN = ("fip-all-mean", "fip-iobn-mean", "fip-ioms-mean", "fip-io-mean")
REFINED = (*RECALIBRATED, *MEAN, "fip-all-tied", "scratch-tied")
AXES = tuple(f"fip-{mode}-{order}" for mode in AXIS_MODES for order in ORDERS)
STAGES = tuple(f"fip-all-stages{name}" for name in STAGE_SETS)
BUDGET = {1: 100, 5: 40, 10: 30}  # epochs by the number of shots
CIFAR = ("cifar_resnet20", "cifar_resnet56")

_RESNET18_10 = Group("resnet18", 10, BUDGET[10], ("scratch", "fip-all", *CONTROLLED), seeds=8)
_RESNET18_1 = Group("resnet18", 1, BUDGET[1], ("scratch", "fip-all", *CONTROLLED), seeds=10, searches=2)

FULL_MODES = ("scratch", "fip-all", *CONTROLLED)
FULL_SPEED = ("scratch", "fip-all", "scratch-cyclic", "fip-all-cyclic")


def few(network: str, shots: int) -> Group:
    """The learners of the paper's Table 4; at one shot, where draws differ most, twice the seeds."""
    one = shots == 1
    return Group(network, shots, BUDGET[shots], LEARNERS, seeds=10 if one else 5, searches=2 if one else 1)


TABLES: dict[str, tuple[Group, ...]] = {
    "fewshot": (
        _RESNET18_10,
        _RESNET18_1,
        few("resnet18", 5),
        *(few(network, shots) for network in CIFAR for shots in BUDGET),
        *(Group("cifar_resnet20", 10, epochs, LEARNERS, seeds=5) for epochs in (100, 300)),
    ),
    "modes": (
        _RESNET18_10,
        _RESNET18_1,
        Group("resnet18", 10, BUDGET[10], REFINED, seeds=3),
        *(Group(network, None, 30, FULL_MODES, seeds=3, search_epochs=5, curve=True) for network in CIFAR),
    ),
    "speed": (
        Group("cifar_resnet20", None, 30, FULL_SPEED, seeds=3, search_epochs=5, curve=True),
        Group("resnet18", None, 10, FULL_SPEED, seeds=1, search_epochs=1, curve=True),
    ),
    "axes": (Group("resnet18", 10, BUDGET[10], AXES, seeds=3, rate_of={arm: arm.rpartition("-")[0] for arm in AXES}),),
    "stages": (Group("resnet18", 10, BUDGET[10], ("scratch", "fip-all", *STAGES), seeds=3, rate_of=dict.fromkeys(STAGES, "fip-all")),),
    "backbones": (
        *(Group(network, 10, BUDGET[10], LEARNERS, seeds=5) for network in CIFAR),
        *(Group(network, 10, BUDGET[10], LEARNERS, seeds=3) for network in ("cifar_resnet32", "cifar_resnet44", "resnet50")),
    ),
}


def missing_of_tables(names: list[str], known: Known) -> list[Trial]:
    """What is to be done, table by table and group by group; nothing twice."""
    return list(dict.fromkeys(trial for name in names for group in TABLES[name] for trial in missing_of(group, known)))


def every_trial() -> list[Trial]:
    """All that any table could ask for, at every learning rate of the grid."""
    return list(
        dict.fromkeys(
            trial
            for groups in TABLES.values()
            for group in groups
            for arm in group.arms
            for lr in GRID
            for trial in (*group.tried(group.rate_of.get(arm, arm), lr), *group.reported(arm, lr))
        )
    )
