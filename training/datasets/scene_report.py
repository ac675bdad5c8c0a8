"""What a folder of labelled clouds holds: numbers for people and for scripts.

F files, D usable ones, L classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from models.labels import LabelMap
from training.datasets.file_scenes import NO_ID
from training.datasets.labelled_folder import SceneSplits
from training.datasets.report import BadFile, Range
from training.datasets.scene_listing import LABELS_YAML, SceneListing
from training.datasets.scene_scan import SceneScan

FILES_SHOWN = 10
RARE = 0.001  # share of the points of all classes, below which a class is pointed out
IGNORED = "(ignored)"


@dataclass(frozen=True)
class PointClass:
    """Points of a class in the usable files, their share of all points, and files that have any. ids: what label files call it."""

    name: str
    ids: tuple[int, ...]
    points: int
    share: float
    files: int


@dataclass(frozen=True)
class SceneReport:
    """The whole report, over the D usable of F files.

    listed: files of the folder, of which F may be a sample; train, validation, test: usable files of the splits; classes: the last
    one is what is ignored; points, box: of a file, box medians in file units; spacing: median distance of a point to its nearest
    neighbour, over a sample, or None; labels: files by where their labels are; unusable: the first ten of num_unusable.
    """

    root: str
    files: int
    listed: int
    train: int
    validation: int
    test: int
    held_out: bool
    classes: tuple[PointClass, ...]
    points: Range | None
    box: tuple[float, ...] | None
    spacing: float | None
    colour: int
    intensity: int
    labels: dict[str, int]
    unusable: tuple[BadFile, ...]
    num_unusable: int
    advice: tuple[str, ...]

    @classmethod
    def of(
        cls, listing: SceneListing, scan: SceneScan, label_map: LabelMap, splits: SceneSplits | None, spacing: float | None, listed: int
    ) -> "SceneReport":
        """The report on scanned files, `listed` of which the folder has. splits: None where nothing can be trained on, or of a sample."""
        usable = [file for file in scan.files if not file.code]
        bad = np.flatnonzero(~scan.usable)
        classes = _classes(scan, label_map)
        points = np.array([file.points for file in usable])
        sides = np.array([np.subtract(file.high, file.low) for file in usable])
        kinds = Counter(_place(listing, scan, row) for row in map(int, np.flatnonzero(scan.usable)))
        colour = sum(file.has_rgb for file in usable)
        parts = (splits.train, splits.validation, splits.test) if splits else (None, None, None)
        train, validation, test = (0 if part is None else len(part) for part in parts)
        return cls(
            root=str(listing.root),
            files=len(listing),
            listed=listed,
            train=train,
            validation=validation,
            test=test,
            held_out=splits is not None and splits.held_out,
            classes=classes,
            points=Range(float(points.min()), float(np.median(points)), float(points.max())) if usable else None,
            box=tuple(float(side) for side in np.median(sides, axis=0)) if usable else None,
            spacing=spacing,
            colour=colour,
            intensity=sum(file.has_intensity for file in usable),
            labels=dict(sorted(kinds.items())),
            unusable=tuple(
                BadFile(listing.clouds.relative(row), scan.files[row].code, scan.files[row].reason) for row in bad[:FILES_SHOWN]
            ),
            num_unusable=len(bad),
            advice=tuple(_advice(classes, len(usable), colour)),
        )

    def to_json(self) -> dict[str, object]:
        """Plain values only, ready for json.dumps."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([self._head(), "", *self._table(), "", *self._facts(), *self._bad(), *(f"! {line}" for line in self.advice)])

    def _head(self) -> str:
        sampled = f", a sample of {self.listed:,}" if self.files < self.listed else ""
        drawn = ", drawn by the seed" if self.held_out else ""
        parts = [f"{count:,} to {what}" for count, what in ((self.train, "train on"), (self.validation, "validate on")) if count]
        parts += [f"{self.test:,} to test on{drawn}"] if self.test else []
        split = f" ({', '.join(parts)})" if parts else ""
        return f"{self.root}: {self.files:,} files{sampled}{split}, {len(self.classes) - 1:,} classes"

    def _table(self) -> list[str]:
        width = max(len(row.name) for row in self.classes)
        lines = [f"{'class':<{width}}{'points':>16}{'share':>9}{'files':>9}  ids"]
        for row in self.classes:
            numbers = ", ".join(map(str, row.ids)) or "-"
            lines.append(f"{row.name:<{width}}{row.points:>16,}{row.share:>9.2%}{row.files:>9,}  {numbers}")
        return lines

    def _facts(self) -> list[str]:
        lines = []
        if self.points and self.box:
            lines.append(f"points a file      {self.points.low:,.0f} to {self.points.high:,.0f}, median {self.points.median:,.0f}")
            lines.append(f"bounding box       {' × '.join(f'{side:.4g}' for side in self.box)} (x × y × z, medians, in the files' units)")
        if self.spacing is not None:
            lines.append(f"point spacing      {self.spacing:.3g} (median distance to the nearest neighbour, over a sample)")
        lines.append(f"columns            colour in {self.colour:,} files, intensity in {self.intensity:,}")
        lines += (
            [f"labels             {', '.join(f'{place} ({count:,} files)' for place, count in self.labels.items())}"] if self.labels else []
        )
        return lines

    def _bad(self) -> list[str]:
        if not self.num_unusable:
            return []
        lines = [f"files that cannot be used: {self.num_unusable:,}; training refuses them, or leaves them out with --skip-bad"]
        lines += [f"  {each.path} [{each.code}]: {each.reason}" for each in self.unusable]
        more = self.num_unusable - len(self.unusable)
        return [*lines, f"  and {more:,} more"] if more else lines


def _place(listing: SceneListing, scan: SceneScan, row: int) -> str:
    beside = listing.labels.raw(row) != listing.clouds.raw(row)
    return ".label files" if beside else f"column {scan.files[row].source}"


def _classes(scan: SceneScan, label_map: LabelMap) -> tuple[PointClass, ...]:
    """Every class of the map, and last what it ignores."""
    rows = np.flatnonzero(scan.usable)
    total = max(sum(scan.counts(rows).values()), 1)
    kinds = [(each.name, each.ids) for each in label_map.classes]
    kinds += [(" or ".join(group.classes), group.ids) for group in label_map.groups] + [(IGNORED, label_map.ignore)]
    found = []
    for name, ids in kinds:
        wanted = {*ids, NO_ID} if name == IGNORED else set(ids)
        each = [sum(count for number, count in (scan.files[row].counts or {}).items() if number in wanted) for row in rows]
        found.append(PointClass(name, ids, sum(each), sum(each) / total, sum(count > 0 for count in each)))
    return tuple(found)


def _advice(classes: Sequence[PointClass], files: int, colour: int) -> list[str]:
    lines = []
    *named, ignored = classes
    counted = max(sum(row.points for row in named), 1)
    absent = [row.name for row in named if not row.points]
    rare = [f"{row.name} ({row.points / counted:.3%})" for row in named if 0 < row.points < RARE * counted]
    if absent:
        lines.append(f"classes of {LABELS_YAML} that no file has: {', '.join(absent)}; nothing is learnt of them")
    if rare:
        lines.append(f"fewer than one point in a thousand: {', '.join(rare)}; the recipe's `balance: loss` weighs against that")
    if ignored.share > 0.5:
        lines.append(f"{ignored.share:.0%} of all points are ignored: nothing is learnt of them")
    if 0 < colour < files:
        lines.append(f"{colour:,} of {files:,} files have colour: as an input feature it needs a fill value for the others")
    return lines
