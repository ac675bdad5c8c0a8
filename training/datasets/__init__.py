"""Files on disk -> labelled clouds. One module a data set."""

from collections.abc import Callable
from pathlib import Path

from models.errors import BadDataset, nearest
from training.datasets.labelled import Clouds, LabelledClouds, few_shot, hold_out
from training.datasets.modelnet40 import read_modelnet40

FOLDER = "folder"  # somebody's own: training.sources looks through it first
KINDS: dict[str, Callable[[Path, str], Clouds]] = {"modelnet40": read_modelnet40}


def read_split(kind: str, root: Path, split: str) -> Clouds:
    """One split, `train` or `test`, of a data set of a known layout. Raises: BadDataset."""
    if kind not in KINDS:
        known = [*KINDS, FOLDER]
        raise BadDataset(f"unknown kind of data set {kind!r}{nearest(kind, known)}", known=known)
    return KINDS[kind](root, split)


__all__ = ["FOLDER", "Clouds", "LabelledClouds", "few_shot", "hold_out", "read_split"]
