"""Files on disk -> labelled clouds. One module a data set."""

from collections.abc import Callable
from pathlib import Path

from models.errors import BadDataset, nearest
from training.datasets.folder import read_folder
from training.datasets.labelled import Clouds, LabelledClouds, few_shot, hold_out
from training.datasets.modelnet40 import read_modelnet40

KINDS: dict[str, Callable[[Path, str], Clouds]] = {"modelnet40": read_modelnet40, "folder": read_folder}


def read_split(kind: str, root: Path, split: str) -> Clouds:
    """One split, `train` or `test`, of a data set; of a `folder` that has no splits all clouds, for either. Raises: BadDataset."""
    if kind not in KINDS:
        raise BadDataset(f"unknown kind of data set {kind!r}{nearest(kind, KINDS)}", known=KINDS)
    return KINDS[kind](root, split)


__all__ = ["Clouds", "LabelledClouds", "few_shot", "hold_out", "read_split"]
