"""What a folder of classes holds, for people and as JSON. Bounded: thousands of classes or copies do not make a long report.

F files of a listing, L classes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from training.datasets.advice import advice
from training.datasets.duplicates import group_ids, repeated
from training.datasets.folder import FolderSplits
from training.datasets.listing import Listing, Split
from training.datasets.scan import Scan

CLASSES_SHOWN = 60
GROUPS_SHOWN = 10
PATHS_SHOWN = 5  # of one group of copies
FILES_SHOWN = 10


@dataclass(frozen=True)
class ClassRow:
    """Usable clouds of one class by split, in the order of `Split`, and files that cannot be used.

    whole: clouds of a folder without any splits.
    """

    name: str
    whole: int
    train: int
    validation: int
    test: int
    unusable: int


@dataclass(frozen=True)
class Range:
    """Of one number over all usable clouds."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class BadFile:
    path: str
    code: str
    reason: str


@dataclass(frozen=True)
class DataReport:
    """root: the folder; files: looked at, of `listed` (fewer where a sample was asked for); points: a cloud; box: median sides
    (x, y, z) of the bounding boxes and diagonal: of them, in file units; duplicates: groups of files of equal bytes, the first
    ten of `num_duplicates`; unusable: the first ten of `num_unusable`; ignored: files of other endings; colour, intensity:
    files that have them. Numbers over no cloud at all are None.
    """

    root: str
    files: int
    listed: int
    held_out: bool
    classes: tuple[ClassRow, ...]
    points: Range | None
    box: tuple[float, float, float] | None
    diagonal: Range | None
    duplicates: tuple[tuple[str, ...], ...]
    num_duplicates: int
    unusable: tuple[BadFile, ...]
    num_unusable: int
    ignored: Mapping[str, int]
    colour: int
    intensity: int
    advice: tuple[str, ...]

    @classmethod
    def of(cls, listing: Listing, scan: Scan, splits: FolderSplits | None = None, whole: Listing | None = None) -> "DataReport":
        """The report on scanned files. whole: the folder, where `listing` is a sample of it; the clouds of a class are then all files.

        splits: of the folder, to count train and test clouds by where folders do not tell them.
        """
        usable = scan.usable
        bad = np.flatnonzero(~usable)
        columns = _counts(listing, usable, splits) if whole is None else _counts(whole, np.ones(len(whole), np.bool_), splits)
        columns.append(np.bincount(listing.targets[bad], minlength=len(listing.names)))
        extents, points = scan.extents[usable], scan.points[usable]
        groups = _copies(listing, scan)
        return cls(
            root=str(listing.root),
            files=len(listing),
            listed=len(whole or listing),
            held_out=splits is not None and splits.held_out,
            classes=tuple(ClassRow(name, *(int(column[target]) for column in columns)) for target, name in enumerate(listing.names)),
            points=_range(points),
            box=_sides(extents),
            diagonal=_range(np.linalg.norm(extents, axis=1)),
            duplicates=groups[0],
            num_duplicates=groups[1],
            unusable=tuple(BadFile(listing.relative(row), scan.code(row), scan.reason(row)) for row in map(int, bad[:FILES_SHOWN])),
            num_unusable=len(bad),
            ignored=listing.ignored,
            colour=int(scan.facts["has_rgb"].sum()),
            intensity=int(scan.facts["has_intensity"].sum()),
            advice=tuple(advice(listing, scan, whole)),
        )

    def to_json(self) -> dict[str, object]:
        """Plain values only, ready for json.dumps."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *self._table(), "", *self._facts(), *self._lists(), *(f"! {line}" for line in self.advice)])

    def _head(self) -> list[str]:
        sampled = f", a sample of {self.listed:,}" if self.files < self.listed else ""
        drawn = "; test is drawn by the seed" if self.held_out else ""
        return [f"{self.root}: {self.files:,} files{sampled}, {len(self.classes):,} classes{drawn}"]

    def _table(self) -> list[str]:
        """Classes with their counts; columns in which all are 0 are left out."""
        shown = self.classes[:CLASSES_SHOWN]
        heads = {"whole": "clouds", "train": "train", "validation": "validation", "test": "test", "unusable": "unusable"}
        columns = [key for key in heads if any(getattr(row, key) for row in self.classes)]
        width = max([len("class"), *(len(row.name) for row in shown)])
        lines = [f"{'class':<{width}}" + "".join(f"{heads[key]:>12}" for key in columns)]
        lines += [f"{row.name:<{width}}" + "".join(f"{getattr(row, key):>12,}" for key in columns) for row in shown]
        if len(self.classes) > CLASSES_SHOWN:
            lines.append(f"and {len(self.classes) - CLASSES_SHOWN:,} more classes")
        return [*lines, f"{'all':<{width}}" + "".join(f"{sum(getattr(row, key) for row in self.classes):>12,}" for key in columns)]

    def _facts(self) -> list[str]:
        lines = []
        if self.points and self.box and self.diagonal:
            lines.append(f"points a cloud     {self.points.low:,.0f} to {self.points.high:,.0f}, median {self.points.median:,.0f}")
            sides = " × ".join(f"{side:.4g}" for side in self.box)
            lines.append(f"bounding box       {sides} (x × y × z, medians, in the files' units)")
            low, median, high = self.diagonal.low, self.diagonal.median, self.diagonal.high
            lines.append(f"its diagonal       {low:.4g} to {high:.4g}, median {median:.4g}")
            lines.append(f"columns            colour in {self.colour:,} files, intensity in {self.intensity:,}")
        if self.ignored:
            lines.append(f"ignored files      {', '.join(f'{count:,} × {ending}' for ending, count in self.ignored.items())}")
        return lines

    def _lists(self) -> list[str]:
        lines = []
        if self.num_duplicates:
            lines.append(f"files that occur more than once: {self.num_duplicates:,}")
            lines += [f"  {' = '.join(group)}" for group in self.duplicates]
            lines += _more(self.num_duplicates, len(self.duplicates))
        if self.num_unusable:
            lines.append(f"files that cannot be used: {self.num_unusable:,}; training refuses them, or leaves them out with --skip-bad")
            lines += [f"  {each.path} [{each.code}]: {each.reason}" for each in self.unusable]
            lines += _more(self.num_unusable, len(self.unusable))
        return lines


def _counts(listing: Listing, chosen: npt.NDArray[np.bool_], splits: FolderSplits | None) -> list[npt.NDArray[np.int64]]:
    """Of every `Split`, the chosen files (F,) of every class (L,)."""
    split = listing.splits.copy()
    if splits is not None and splits.held_out:
        split[splits.train.rows] = Split.TRAIN
        if splits.test is not None:
            split[splits.test.rows] = Split.TEST
    return [np.bincount(listing.targets[chosen & (split == each)], minlength=len(listing.names)) for each in Split]


def _copies(listing: Listing, scan: Scan) -> tuple[tuple[tuple[str, ...], ...], int]:
    """(paths of the first groups of files of equal bytes, bounded; how many groups there are)."""
    rows = np.flatnonzero(scan.usable)
    groups = group_ids(scan.sha256[rows])
    names = repeated(groups)
    shown = []
    for name in names[:GROUPS_SHOWN]:
        members = rows[groups == name]
        more = (f"{len(members) - PATHS_SHOWN:,} more",) if len(members) > PATHS_SHOWN else ()
        shown.append((*(listing.relative(int(row)) for row in members[:PATHS_SHOWN]), *more))
    return tuple(shown), len(names)


def _more(total: int, shown: int) -> list[str]:
    return [f"  and {total - shown:,} more"] if total > shown else []


def _range(values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Range | None:
    return Range(float(values.min()), float(np.median(values)), float(values.max())) if len(values) else None


def _sides(extents: npt.NDArray[np.float64]) -> tuple[float, float, float] | None:
    if not len(extents):
        return None
    x, y, z = (float(side) for side in np.median(extents, axis=0))
    return x, y, z
