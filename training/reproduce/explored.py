"""What was tried on the way to a recipe, all of it: nothing here was looked at on test clouds."""

from training.reproduce.search import Exploration

OF_FEW = "few-modelnet40"


def _rates(arm: str, rates: tuple[float, ...], epochs: int) -> tuple[tuple[str, float, int], ...]:
    return tuple((arm, lr, epochs) for lr in rates)


def _changed(arm: str, changes: tuple[str, ...], lr: float, epochs: int) -> tuple[tuple[str, float, int], ...]:
    """An arm with one change after the other."""
    return tuple((f"{arm}+{change}", lr, epochs) for change in changes)


PARTS = ("mean", "layout2", "layout4", "votes.3", "unwarped", "unturned", "unsmoothed", "scaled", "stages.1", "stages.3")

EXPLORED: dict[str, tuple[Exploration, ...]] = {
    "recipe": (
        Exploration(
            "cifar_resnet20",
            1,
            (
                *_rates("fip-all-few", (0.01, 0.03, 0.1), epochs=300),
                *_rates("scratch-few", (0.01, 0.03, 0.1), epochs=300),
                *_changed("fip-all-few", ("solid",), lr=0.03, epochs=300),
            ),
            draws=1,
        ),
        Exploration(
            "cifar_resnet20",
            1,
            (
                *_rates("shaped", (0.01, 0.03, 0.1), epochs=60),
                *_rates("shaped", (0.03, 0.1), epochs=200),
                ("souped", 0.03, 200),
                ("scratch+souped", 0.03, 200),
                *_changed("shaped", PARTS, lr=0.03, epochs=60),
            ),
            draws=4,
            base=OF_FEW,
        ),
        Exploration(
            "cifar_resnet20",
            10,
            (*_rates("shaped", (0.03, 0.1, 0.3), epochs=60), ("shaped", 0.1, 150), ("souped", 0.1, 150)),
            draws=1,
            base=OF_FEW,
        ),
    ),
}
