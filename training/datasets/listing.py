"""What lies in a folder of classes: every cloud file with its class and split, nothing read, in little memory.

F files, L classes. Layouts: root/CLASS/**, root/CLASS/{train,val,test}/**, root/{train,val,test}/CLASS/**. A folder is one of
a split by its name alone: train, training, val, valid, validation, test, testing in any case. Links are followed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from training.datasets.paths import Paths, printable
from training.datasets.walk import ENDINGS, Level, Walk, look

SHOWN = 10  # problems that one error lists


class Split(IntEnum):
    """Which split a folder puts a file in."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3


SPLIT_FOLDERS: dict[bytes, Split] = {
    **dict.fromkeys((b"train", b"training"), Split.TRAIN),
    **dict.fromkeys((b"val", b"valid", b"validation"), Split.VALIDATION),
    **dict.fromkeys((b"test", b"testing"), Split.TEST),
}


@dataclass(frozen=True)
class Listing:
    """F cloud files of L classes, sorted by class, split and path.

    targets (F,) int32 into names; splits (F,) int8, a `Split` each: either all NONE or none. sizes (F,) bytes, mtimes (F,) ns,
    both -1 where a file cannot be looked at. ignored: files of other endings, counted by ending.
    """

    paths: Paths
    names: tuple[str, ...]
    targets: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int8]
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    ignored: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def root(self) -> Path:
        return self.paths.root

    @property
    def has_splits(self) -> bool:
        """Whether folders say which files are to train and which to test on."""
        return bool(self.splits.any())

    def path(self, index: int) -> Path:
        return self.paths.path(index)

    def relative(self, index: int) -> str:
        """Path below root, for people."""
        return self.paths.relative(index)

    def take(self, rows: npt.NDArray[np.integer]) -> "Listing":
        """The files of the given rows; classes stay."""
        return replace(
            self,
            paths=self.paths.take(rows),
            targets=self.targets[rows],
            splits=self.splits[rows],
            sizes=self.sizes[rows],
            mtimes=self.mtimes[rows],
        )

    @property
    def digest(self) -> str:
        """sha256 of paths, sizes and times of change: another one says that a file may have changed, without reading any."""
        digest = hashlib.sha256(self.paths.blob)
        for column in (self.paths.offsets, self.sizes, self.mtimes):
            digest.update(np.ascontiguousarray(column, "<i8").data)
        return digest.hexdigest()


def list_folder(root: Path) -> Listing:
    """List a folder of classes. The result does not depend on the order in which the system lists folders.

    Hidden files and folders are passed over. Raises: BadDataset, naming up to ten places at once: not a folder, no classes or a
    single one, a class without a file of a readable format, clouds outside of any class, a class or root that is only partly
    divided into splits, folders that cannot be read or lead back into themselves, names that are not text.
    """
    walk = Walk(root)
    top = look(root, b"", walk.problems)
    _refuse_other_layouts(root, top, walk.problems)
    if top.folders and all(_split_of(name) for name in top.folders):
        groups = _classes_below_splits(root, top, walk)
    else:
        groups = _splits_below_classes(root, top, walk)
    _refuse(root, walk.problems)
    names = sorted({name for name, _, _ in groups})
    index = {name: target for target, name in enumerate(names)}
    found = [(index[name], split, walk.add(prefix)) for name, split, prefix in sorted(groups)]
    counts = [count for _, _, count in found]
    targets = np.repeat(np.array([target for target, _, _ in found], np.int32), counts)
    splits = np.repeat(np.array([split for _, split, _ in found], np.int8), counts)
    _check_classes(names, targets, walk.problems)
    _refuse(root, walk.problems)
    return Listing(
        walk.paths(),
        tuple(name.decode() for name in names),
        targets,
        splits,
        walk.sizes(),
        walk.mtimes(),
        dict(sorted(walk.ignored.items())),
    )


Group = tuple[bytes, Split, bytes]  # class, split, folder relative to root


def _split_of(name: bytes) -> Split:
    return SPLIT_FOLDERS.get(name.lower(), Split.NONE)


def _splits_below_classes(root: Path, top: Level, walk: Walk) -> list[Group]:
    """root/CLASS/** or root/CLASS/{train,val,test}/**."""
    groups: list[Group] = []
    walk.ignored += top.ignored
    whole: list[bytes] = []
    for name in top.folders:
        if _split_of(name):
            walk.problems.append(f"{printable(name)}/ lies beside folders of classes; either all folders are splits, or all are classes")
            continue
        level = look(root, name, walk.problems)
        parts = [part for part in level.folders if _split_of(part)]
        if not parts:
            whole.append(name)
            continue
        others = [printable(part) + "/" for part in level.folders if not _split_of(part)]
        if level.first_cloud is not None:
            others.append(printable(level.first_cloud))
        if others:
            walk.problems.append(f"{printable(name)}/ holds {printable(parts[0])}/ and beside it {others[0]}, which is in no split")
        walk.ignored += level.ignored
        groups += [(name, _split_of(part), name + b"/" + part) for part in parts]
    if groups and whole:
        walk.problems.append(f"{printable(groups[0][2])}/ is a split, while the class {printable(whole[0])}/ has none")
    return groups + [(name, Split.NONE, name) for name in whole]


def _classes_below_splits(root: Path, top: Level, walk: Walk) -> list[Group]:
    """root/{train,val,test}/CLASS/**."""
    groups: list[Group] = []
    walk.ignored += top.ignored
    for part in top.folders:
        level = look(root, part, walk.problems)
        if level.first_cloud is not None or not level.folders:
            held = f"clouds ({printable(level.first_cloud)}, …)" if level.first_cloud else "nothing"
            walk.problems.append(f"{printable(part)}/ must hold a folder a class, found {held} in it")
        walk.ignored += level.ignored
        groups += [(name, _split_of(part), part + b"/" + name) for name in level.folders]
    return groups


def _refuse_other_layouts(root: Path, top: Level, problems: list[str]) -> None:
    """What is plainly something else than a folder of classes, in its own words."""
    _refuse(root, problems)
    if any(root.glob("ply_data_*.h5")):
        raise BadDataset("this is ModelNet40 in its HDF5 release, not a folder of classes: say data.kind=modelnet40", where=str(root))
    if top.first_cloud is not None:
        text = f"clouds lie directly in it ({printable(top.first_cloud)}, …); every cloud belongs in the folder of its class"
        raise BadDataset(text, where=str(root))
    if not top.folders:
        raise BadDataset("no folders in it; a folder of classes is ROOT/CLASS/FILES", where=str(root))


def _check_classes(names: list[bytes], targets: npt.NDArray[np.int32], problems: list[str]) -> None:
    """Every class has a file and a name that can be written down, and there are two of them."""
    counts = np.bincount(targets, minlength=len(names))
    for row in np.flatnonzero(counts == 0):
        problems.append(
            f"{printable(names[row])}/ has no file of a readable format ({' '.join(ENDINGS)}); fill it, remove it or hide it (.NAME)"
        )
    problems += [f"{printable(name)}/: the name of a class must be printable text" for name in names if not _is_text(name)]
    if len(names) == 1 and not problems:
        problems.append(f"a single class, {printable(names[0])}/; telling classes apart takes two")


def _is_text(name: bytes) -> bool:
    try:
        return name.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def _refuse(root: Path, problems: list[str]) -> None:
    """Raises: BadDataset, if there are problems, with the first ten."""
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise BadDataset("\n  ".join([*problems[:SHOWN], *more]), where=str(root))
