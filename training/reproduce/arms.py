"""The ways to train that are compared: what each changes of the recipe. Frozen means the residual stages but for what is said."""

from itertools import permutations

Overrides = dict[str, object]
STAGE_SETS = {"1": (1,), "12": (1, 2), "123": (1, 2, 3), "234": (2, 3, 4), "34": (3, 4), "4": (4,)}
AXIS_MODES = ("io", "iobn")
ORDERS = tuple("".join(order) for order in permutations("xyz"))  # repeat, height, width
DEFAULT_ORDER = "yzx"

_IMAGE: Overrides = {"init": "image"}
_RANDOM: Overrides = {"init": "random-frozen"}
_RANDOM_2D: Overrides = {"init": "random-inflated"}
_ONE: Overrides = {"soup": 1}
_SCRATCH: Overrides = {"init": "scratch", "mode": "all", **_ONE}
_MEAN: Overrides = {"inflate.scale": "mean"}
_CYCLIC: Overrides = {"schedule.kind": "reference", "schedule.half_period": 270}  # of the paper's 300 epochs, to an epoch of our 277

ARMS: dict[str, Overrides] = {
    "scratch": _SCRATCH,
    "fip-all": {**_IMAGE, "mode": "all"},
    "fip-iobn": {**_IMAGE, "mode": "iobn"},
    "fip-ioms": {**_IMAGE, "mode": "ioms"},
    "fip-io": {**_IMAGE, "mode": "io"},
    "fip-io-recalibrated": {**_IMAGE, "mode": "io", "recalibrate": True},
    "random-iobn": {**_RANDOM, "mode": "iobn"},
    "random-ioms": {**_RANDOM, "mode": "ioms"},
    "random-io": {**_RANDOM, "mode": "io"},
    "random2d-iobn": {**_RANDOM_2D, "mode": "iobn"},
    "random-io-recalibrated": {**_RANDOM, "mode": "io", "recalibrate": True},
    "fip-all-mean": {**_IMAGE, "mode": "all", **_MEAN},
    "fip-io-mean": {**_IMAGE, "mode": "io", **_MEAN},
    "fip-all-tied": {**_IMAGE, "mode": "all", "inflate.tied": True},
    "scratch-tied": {**_SCRATCH, "inflate.tied": True},
    "scratch-cyclic": {**_SCRATCH, **_CYCLIC},
    "fip-all-cyclic": {**_IMAGE, "mode": "all", **_CYCLIC},
}
ARMS |= {  # of `few-modelnet40`, which begins with generated shapes
    "souped": {**_IMAGE, "mode": "all"},
    "shaped": {**_IMAGE, "mode": "all", **_ONE},
    "imaged": {**_IMAGE, "mode": "all", "weights": None, "inflate.stem": "fresh", **_ONE},
}
FEW: Overrides = {  # what the search of a recipe for few clouds begins with
    "input.features": [{"name": name} for name in ("one", "near", "far", "z")],
    "input.views": {"count": 4},
    "augment.scale": [0.8, 1.25],
    "augment.p_scale": 1.0,
    "augment.translate": 0.1,
    "augment.p_translate": 1.0,
    "augment.drop": 0.3,
    "augment.rotate_deg": 15,
    "augment.warp": 0.5,
    "optim.weight_decay": 5.0e-4,
    "optim.nesterov": True,
    "schedule.warmup_epochs": 1,
    "label_smoothing": 0.1,
}
ARMS |= {f"{arm}-few": {**ARMS[arm], **FEW} for arm in ("fip-all", "fip-iobn", "scratch")}
CHANGES: dict[str, Overrides] = {  # what may be added to the name of an arm: `shaped+mean`
    "unwarped": {"augment.warp": 0},
    "unturned": {"augment.rotate_deg": 0},
    "unsmoothed": {"label_smoothing": 0},
    "fine": {"input.voxel_size": 0.035},
    "solid": {"input.views": None, "input.features": [{"name": name} for name in "xyz"]},  # bodies, as the paper has them
    "stages.1": {"optim.stages": 0.1},
    "stages.3": {"optim.stages": 0.3},
    "mean": {"layout": None},
    "souped": {"soup": 3},
    "votes": {"input.votes": {"count": 8}},
    "votes.3": {"input.votes": {"count": 16, "scale": 0.3}},
    "layout2": {"layout": 2},
    "layout4": {"layout": 4},
    "scaled": {"augment.scale": [0.6, 1.6]},
}
TEACHERS = {"shaped-distilled": ("shaped", 150, 0.1)}  # arm -> that of its teacher, with epochs and learning rate
ARMS["shaped-distilled"] = {**_IMAGE, "mode": "all", **_ONE, "distill": {"temperature": 0.8, "copies": 4}}
for _order in ORDERS:
    _axes: Overrides = dict(zip(("inflate.repeat", "inflate.height", "inflate.width"), _order, strict=True))
    if _order != DEFAULT_ORDER:
        ARMS |= {f"fip-{_mode}-{_order}": {**_IMAGE, "mode": _mode, **_axes} for _mode in AXIS_MODES}
for _name, _stages in STAGE_SETS.items():
    ARMS[f"fip-all-stages{_name}"] = {**_IMAGE, "mode": "all", "inflate.stages": list(_stages)}


def overrides_of(arm: str) -> Overrides:
    """What an arm changes, with what is added to its name. Raises: KeyError."""
    name, *added = arm.split("+")
    found = dict(ARMS[name])
    for change in added:
        found |= CHANGES[change]
    return found
