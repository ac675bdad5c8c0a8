"""What was tried on the way to a recipe, all of it: nothing here was looked at on test clouds."""

from training.reproduce.search import Exploration

FEW, ALL = "few-modelnet40", "full-modelnet40"
_SOLID = "input.views=null+input.features=[{name: x}, {name: y}, {name: z}]"  # bodies, as the paper has them
_ALONE = "+input.votes=null"  # votes add to every one, and cost eight times as much to score


def _one_by_one(arm: str, changes: tuple[str, ...], lr: float, epochs: int) -> tuple[tuple[str, float, int], ...]:
    """An arm as it is, and with one change after the other."""
    return tuple((f"{arm}{_ALONE}{f'+{change}' * bool(change)}", lr, epochs) for change in ("", *changes))


EXPLORED: dict[str, tuple[Exploration, ...]] = {
    "recipe": (
        Exploration(
            "resnet18",
            1,
            (
                *_one_by_one(
                    "fip-all",
                    (
                        "augment.warp=0",
                        "augment.rotate_deg=0",
                        "label_smoothing=0",
                        "input.views={count: 8}",
                        "input.voxel_size=0.035",
                        "input.features=[{name: one}]",
                        "input.features=[{name: near}, {name: far}, {name: count}, {name: z}]",
                        "inflate.tied=true",
                        "optim.stages=0.1",
                        "optim.stages=0.3",
                    ),
                    lr=0.01,
                    epochs=100,
                ),
                *_one_by_one("fip-all", (), lr=0.003, epochs=100),
                *_one_by_one("fip-all", (), lr=0.03, epochs=100),
                *_one_by_one("fip-iobn", (), lr=0.1, epochs=100),
                *_one_by_one("scratch", (), lr=0.01, epochs=100),
            ),
            draws=2,
            base=FEW,
        ),
        Exploration(
            "cifar_resnet20",
            1,
            (
                *_one_by_one("fip-all", (_SOLID, "input.voxel_size=0.035", "optim.stages=0.1"), lr=0.03, epochs=300),
                *_one_by_one("scratch", (_SOLID,), lr=0.03, epochs=300),
            ),
            draws=2,
            base=FEW,
        ),
    ),
}
