"""What lies in a user's folder of labelled clouds: every cloud with its label file and split; nothing is read.

F files. Layouts: root/**, or root/{train,val,test}/**. Split folders are called as in folders of classes.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from training.datasets.file_scenes import as_paths, refuse
from training.datasets.listing import SPLIT_FOLDERS, Split
from training.datasets.paths import Paths, printable
from training.datasets.point_labels import label_file_of
from training.datasets.walk import ENDINGS, Walk, look

LABELS_YAML = "labels.yaml"


@dataclass(frozen=True)
class SceneListing:
    """F clouds in the order of split and path. labels: their `.label` files, else the clouds themselves.

    splits (F,) int8, a `Split` each: either all NONE or none. stray: `.label` files without a cloud.
    """

    clouds: Paths
    labels: Paths
    splits: npt.NDArray[np.int8]
    stray: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clouds)

    @property
    def root(self) -> Path:
        return self.clouds.root

    def take(self, rows: npt.NDArray[np.integer]) -> "SceneListing":
        """The files of the given rows."""
        return replace(self, clouds=self.clouds.take(rows), labels=self.labels.take(rows), splits=self.splits[rows])

    @property
    def has_splits(self) -> bool:
        """Whether folders say which files are to train and which to test on."""
        return bool(self.splits.any())


def list_scenes(root: Path) -> SceneListing:
    """List a folder of labelled clouds; hidden files are passed over, links are followed.

    Raises: BadDataset (not a folder, no clouds in it or in a split, clouds beside folders of splits, folders that cannot be read).
    """
    walk = Walk(root)
    top = look(root, b"", walk.problems)
    parts = [name for name in top.folders if name.lower() in SPLIT_FOLDERS]
    if parts and top.first_cloud is not None:
        walk.problems.append(f"{printable(top.first_cloud)} lies beside {printable(parts[0])}/ and is in no split")
    groups = [(SPLIT_FOLDERS[name.lower()], name) for name in parts] or [(Split.NONE, b"")]
    splits: list[int] = []
    for split, prefix in sorted(groups):
        count = walk.add(prefix)
        if not count and not walk.problems:
            place = printable(prefix) + "/" if prefix else "it"
            walk.problems.append(f"no file of a readable format in {place} ({' '.join(ENDINGS)})")
        splits += [split] * count
    refuse(root, "not a folder of labelled clouds:", walk.problems)
    if parts:
        _refuse_outside(root, [name for name in top.folders if name not in parts], parts[0])
    clouds = walk.paths()
    labels = [_labels_of(clouds, row) for row in range(len(clouds))]
    return SceneListing(clouds, as_paths(root, labels), np.array(splits, np.int8), _stray(root, labels))


def _refuse_outside(root: Path, others: list[bytes], part: bytes) -> None:
    """Raises: BadDataset, if folders that are no splits hold clouds."""
    walk = Walk(root)
    for name in others:
        if walk.add(name):
            text = f"{printable(name)}/ holds clouds and lies beside {printable(part)}/: it is in no split; move or hide it (.NAME)"
            raise BadDataset(text, where=str(root))


def _labels_of(clouds: Paths, row: int) -> str:
    """Path below root of the file with the labels of a cloud."""
    path = clouds.path(row)
    ending = next(each for each in sorted(ENDINGS, key=len, reverse=True) if path.name.lower().endswith(each))
    found = label_file_of(path, ending)
    return os.fsdecode(clouds.raw(row)) if found is None else str(found.relative_to(clouds.root))


def _stray(root: Path, used: list[str]) -> tuple[str, ...]:
    known = set(used)
    found = (str(path.relative_to(root)) for path in root.rglob("*.label"))
    return tuple(sorted(each for each in found if each not in known and not any(part.startswith(".") for part in Path(each).parts)))
