"""Labelled clouds that stay on disk, and how a folder of classes becomes clouds to train and to test on.

F files of a listing, D clouds of a split, L classes.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, FileError, InputError
from models.io import read_cloud
from models.pointcloud import PointCloud
from training.datasets.duplicates import group_ids, repeated, spanning
from training.datasets.labelled import hold_out
from training.datasets.listing import Listing, Split
from training.datasets.paths import Paths
from training.datasets.scan import Scan

SHOWN = 10  # files or groups that a message lists
SMALLEST = 3  # clouds of a class from which one is set aside as test: two are left to train and to validate on


@dataclass(frozen=True)
class FileClouds:
    """D clouds, each read from its file when asked for. rows (D,) are those of `paths`; targets (D,) int64 into names.

    sha256 (D, 32) uint8 of the files, where they were scanned. Nothing here is a Python object a file: forked workers share it.
    """

    paths: Paths
    names: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    sha256: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def cloud(self, index: int) -> PointCloud:
        """One cloud, in the units and frame of its file. Raises: InputError of the kind that the reader met, naming the file."""
        row = int(self.rows[index])
        try:
            return read_cloud(self.paths.path(row)).checked()
        except InputError as error:
            where = self.paths.relative(row)
            raise type(error)(error.detail, where=where, known=error.known) from error
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}", where=self.paths.relative(row)) from error

    def take(self, rows: npt.NDArray[np.integer]) -> "FileClouds":
        sha256 = None if self.sha256 is None else self.sha256[rows]
        return replace(self, rows=self.rows[rows], targets=self.targets[rows], sha256=sha256)

    @cached_property
    def digest(self) -> str:
        """sha256 over (path, class, sha256 of the bytes) in order. Reads all files if they were not scanned. Raises: FileError."""
        digest = hashlib.sha256()
        classes = [b"\0" + name.encode() + b"\0" for name in self.names]
        for index, (row, target) in enumerate(zip(self.rows, self.targets, strict=True)):
            content = self._hash(int(row)) if self.sha256 is None else self.sha256[index].tobytes()
            digest.update(self.paths.raw(int(row)) + classes[target] + content)
        return digest.hexdigest()

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """(D,) equal numbers for files of equal bytes; None where they were not scanned."""
        return None if self.sha256 is None else group_ids(self.sha256)

    def _hash(self, row: int) -> bytes:
        try:
            with self.paths.path(row).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror}", where=self.paths.relative(row)) from error


@dataclass(frozen=True)
class FolderSplits:
    """validation and test are None where there are none; held_out: the test clouds were drawn here, not given by folders.

    notes: what whoever trains on the folder, or uses the model, must know.
    """

    train: FileClouds
    validation: FileClouds | None
    test: FileClouds | None
    held_out: bool
    notes: tuple[str, ...]


def folder_splits(listing: Listing, scan: Scan | None, *, test_share: float, seed: int, skip_bad: bool) -> FolderSplits:
    """Train, validation and test clouds of a folder.

    Folders named train, val, test decide where there are any; without a test folder test is None. Where there are none at all, a
    seeded `test_share` of every class of three or more is set aside, files of equal bytes on one side. Without a scan nothing is
    read: unusable files and duplicates are then not known.
    Raises: BadDataset (unusable files without `skip_bad`, a class without clouds to train on).
    """
    if scan is not None and not skip_bad:
        refuse_bad(listing, scan, " (--skip-bad leaves them out)")
    clouds = all_clouds(listing, scan)
    split = listing.splits[clouds.rows]
    held_out = not listing.has_splits and test_share > 0
    train = clouds.take(np.flatnonzero((split == Split.NONE) | (split == Split.TRAIN)))
    test = _given(clouds, split, Split.TEST)
    if held_out:
        train, drawn = hold_out(train, test_share, seed, smallest=SMALLEST)
        test = drawn if len(drawn) else None
    splits = FolderSplits(train, _given(clouds, split, Split.VALIDATION), test, held_out, ())
    _check_train(listing, splits)
    return replace(splits, notes=tuple(_notes(listing, scan, clouds, splits)))


def all_clouds(listing: Listing, scan: Scan | None) -> FileClouds:
    """All usable files of a listing."""
    rows = np.arange(len(listing)) if scan is None else np.flatnonzero(scan.usable)
    sha256 = None if scan is None else scan.sha256[rows]
    return FileClouds(listing.paths, listing.names, rows, listing.targets[rows].astype(np.int64), sha256)


def refuse_bad(listing: Listing, scan: Scan, remedy: str = "") -> None:
    """Raises: BadDataset, naming the first ten unusable files with code and reason, if there are any."""
    bad = np.flatnonzero(~scan.usable)
    if len(bad):
        lines = [f"{listing.relative(row)} [{scan.code(row)}]: {scan.reason(row)}" for row in map(int, bad[:SHOWN])]
        more = [f"and {len(bad) - SHOWN:,} more"] if len(bad) > SHOWN else []
        head = f"{len(bad):,} of {len(listing):,} files cannot be used{remedy}:"
        raise BadDataset("\n  ".join([head, *lines, *more]), where=str(listing.root))


def _given(clouds: FileClouds, split: npt.NDArray[np.int8], wanted: Split) -> FileClouds | None:
    rows = np.flatnonzero(split == wanted)
    return clouds.take(rows) if len(rows) else None


def _check_train(listing: Listing, splits: FolderSplits) -> None:
    counts = np.bincount(splits.train.targets, minlength=len(listing.names))
    without = [listing.names[target] for target in np.flatnonzero(counts == 0)]
    if without:
        place = "in a train folder" if listing.has_splits else "that can be used"
        raise BadDataset(f"no clouds {place} of {_some(without)}: nothing to train the class on", where=str(listing.root))


def _notes(listing: Listing, scan: Scan | None, clouds: FileClouds, splits: FolderSplits) -> list[str]:
    notes = []
    if len(clouds) < len(listing):
        notes.append(f"{len(listing) - len(clouds):,} files that cannot be used are left out")
    if splits.test is None:
        notes.append("no test clouds: scores are those of the validation clouds")
    else:
        if splits.held_out:
            notes.append(f"no test folder: {len(splits.test):,} of {len(clouds):,} clouds are set aside as test clouds by the seed")
        without = np.flatnonzero(np.bincount(splits.test.targets, minlength=len(listing.names)) == 0)
        if len(without):
            notes.append(f"no test clouds of {_some([listing.names[target] for target in without])}")
    if scan is not None:
        notes += duplicate_notes(listing, clouds)
    return notes


def duplicate_notes(listing: Listing, clouds: FileClouds) -> list[str]:
    """Lines on files of equal bytes: how many, on both sides of the split that folders make, under two classes."""
    groups = clouds.groups
    if groups is None or not len(repeated(groups)):
        return []
    extra = int((groups != np.arange(len(groups))).sum())
    notes = [f"copies of other files, byte for byte: {extra:,}"]
    leaks = _pairs(clouds, groups, listing.splits[clouds.rows])
    if leaks:
        notes.append(f"LEAK: the same bytes lie in more than one split, and scores on them mean nothing: {leaks}")
    conflicts = _pairs(clouds, groups, clouds.targets)
    if conflicts:
        notes.append(f"CONFLICT: the same bytes lie under more than one class: {conflicts}")
    return notes


def _pairs(clouds: FileClouds, groups: npt.NDArray[np.int64], kinds: npt.NDArray[np.integer]) -> str:
    """`a = b, c = d` of the groups whose files are of several kinds: the first file and the first of another kind."""
    chosen = spanning(groups, kinds)
    texts = []
    for group in chosen[:SHOWN]:
        other = np.flatnonzero((groups == group) & (kinds != kinds[group]))[0]
        texts.append(" = ".join(clouds.paths.relative(int(clouds.rows[index])) for index in (group, other)))
    more = f", and {len(chosen) - SHOWN:,} more" if len(chosen) > SHOWN else ""
    return f"{', '.join(texts)}{more}"


def _some(texts: list[str]) -> str:
    """The first ten, and how many there are beyond."""
    more = f", and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
