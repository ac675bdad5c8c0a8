"""A user's own folder of labelled clouds: what to train on and what to test on. Its classes are in `labels.yaml`.

F files of a listing, D scenes of a split, L classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.labels import LabelMap, read_label_map
from training.datasets.duplicates import group_ids
from training.datasets.file_scenes import NO_ID, SHA256_BYTES, FileScenes, listed
from training.datasets.listing import Split
from training.datasets.point_labels import ids_of
from training.datasets.scene_listing import LABELS_YAML, SceneListing, list_scenes
from training.datasets.scene_scan import MANY_IDS, SceneScan, missing_map, refuse_unusable, scan_scenes, template

TEST_SHARE = 0.2
SPLITS = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}


@dataclass(frozen=True)
class SceneSplits:
    """validation and test are None where there are none; held_out: the test scenes were drawn here, not given by folders.

    notes: what whoever trains on the folder, or uses the model, must know.
    """

    train: FileScenes
    validation: FileScenes | None
    test: FileScenes | None
    held_out: bool
    notes: tuple[str, ...]

    def of(self, split: str) -> FileScenes | None:
        """The scenes of `train`, `val` or `test`, where there are any."""
        return {"train": self.train, "val": self.validation, "test": self.test}[split]


def read_labelled(root: Path, split: str, label_map: LabelMap | None = None, exclude: tuple[str, ...] = ()) -> FileScenes:
    """The scenes of a split, drawn by seed 0 where no folders make splits. label_map: instead of labels.yaml. Raises: BadDataset."""
    splits = open_labelled(root, label_map=label_map)
    scenes = splits.of(split)
    if scenes is None:
        raise BadDataset(f"no {split} split: {'; '.join(splits.notes) or f'no folder named {split}'}", where=str(root))
    known = {title for each in SPLITS for title in _titles(splits.of(each))}
    return scenes.without(exclude, known.__contains__)


def open_labelled(
    root: Path, *, test_share: float = TEST_SHARE, seed: int = 0, skip_bad: bool = False, label_map: LabelMap | None = None
) -> SceneSplits:
    """Look through a folder of labelled clouds, every file once, and split it.

    skip_bad: leave out files that cannot be read, have no labels or ids that no class has. Raises: BadDataset (such files without
    skip_bad, no labels.yaml, nothing to train on), BadLabels (labels.yaml is damaged).
    """
    listing = list_scenes(root)
    if label_map is None:
        label_map = folder_label_map(listing)
    return scene_splits(listing, scan_scenes(listing, label_map), label_map, test_share=test_share, seed=seed, skip_bad=skip_bad)


def folder_label_map(listing: SceneListing) -> LabelMap:
    """The classes that labels.yaml in a folder names. Raises: BadDataset (there is none: shows the ids found), BadLabels."""
    path = listing.root / LABELS_YAML
    if not path.exists():
        raise missing_map(listing, scan_scenes(listing, None))
    return read_label_map(path)


def write_template(root: Path) -> Path:
    """Write a labels.yaml for the ids that the files of a folder have. Returns its path. Raises: BadDataset (there is one; no labels)."""
    path = root / LABELS_YAML
    if path.exists() and path.stat().st_size:
        raise BadDataset("is there already; remove it to have another written", where=str(path))
    listing = list_scenes(root)
    scan = scan_scenes(listing, None)
    counts = scan.counts(range(len(listing)))
    if not counts or len(counts) > MANY_IDS:
        raise missing_map(listing, scan)
    try:
        path.write_text(template(counts), encoding="utf-8")
    except OSError as error:
        raise BadDataset(f"cannot be written: {error.strerror}", where=str(path)) from error
    return path


def scene_splits(
    listing: SceneListing, scan: SceneScan, label_map: LabelMap, *, test_share: float, seed: int, skip_bad: bool
) -> SceneSplits:
    """Train, validation and test scenes of a scanned folder.

    Folders named train, val, test decide where there are any. Where there are none, a seeded `test_share` of the files is set
    aside, copies of a file on one side, and never the last file of a class. Raises: BadDataset (unusable files without skip_bad,
    nothing to train on).
    """
    if not skip_bad:
        refuse_unusable(listing, scan, " (--skip-bad leaves them out)")
    scenes = all_scenes(listing, scan, label_map)
    split = listing.splits[scenes.rows]
    train = np.flatnonzero((split == Split.NONE) | (split == Split.TRAIN))
    test = np.flatnonzero(split == Split.TEST)
    held_out = not listing.has_splits and test_share > 0
    if held_out:
        test = draw_test(_class_counts(scan, scenes), scenes.sha256, test_share, seed)
        train = np.setdiff1d(train, test)
    if len(train) and not scan.counts(scenes.rows[train]).keys() - {*label_map.ignore, NO_ID}:
        raise BadDataset("no point of the files to train on has a class: all are ignored", where=str(listing.root))
    if not len(train):
        place = "in its train folder" if listing.has_splits else "in it"
        raise BadDataset(f"no file {place} can be trained on", where=str(listing.root))
    validation = np.flatnonzero(split == Split.VALIDATION)
    parts = [scenes.take(rows) if len(rows) else None for rows in (validation, test)]
    splits = SceneSplits(scenes.take(train), parts[0], parts[1], held_out and parts[1] is not None, ())
    return replace(splits, notes=tuple(_notes(listing, scan, scenes, splits)))


def all_scenes(listing: SceneListing, scan: SceneScan, label_map: LabelMap) -> FileScenes:
    """All usable files of a listing."""
    rows = np.flatnonzero(scan.usable)
    hashes = [scan.files[row].sha256 for row in rows]
    sha256 = np.array(hashes, np.uint8).reshape(len(rows), 2 * SHA256_BYTES)
    return FileScenes(listing.clouds, listing.labels, listing.clouds, rows, label_map, ids_of, sha256)


def draw_test(counts: npt.NDArray[np.int64], sha256: npt.NDArray[np.uint8] | None, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Rows of the scenes to set aside, of D scenes with counts (D, L) points of each class: every class that there is stays in the rest."""
    groups = np.arange(len(counts)) if sha256 is None else group_ids(np.ascontiguousarray(sha256[:, :SHA256_BYTES]))
    wanted = max(1, round(share * len(counts)))
    present = counts > 0
    kept = np.ones(len(counts), np.bool_)
    for group in np.random.default_rng(seed).permutation(np.unique(groups)):
        rest = kept & (groups != group)
        if (~kept).sum() >= wanted:
            break
        if rest.any() and (present[rest].any(axis=0) == present.any(axis=0)).all():
            kept = rest
    return np.flatnonzero(~kept)


def _class_counts(scan: SceneScan, scenes: FileScenes) -> npt.NDArray[np.int64]:
    """(D, L) points of every class in every scene."""
    places = {number: place for place, each in enumerate(scenes.label_map.classes) for number in each.ids}
    table = np.zeros((len(scenes), len(scenes.label_map)), np.int64)
    for index, row in enumerate(scenes.rows):
        for number, count in (scan.files[row].counts or {}).items():
            if number in places:
                table[index, places[number]] += count
    return table


def _notes(listing: SceneListing, scan: SceneScan, scenes: FileScenes, splits: SceneSplits) -> list[str]:
    notes = []
    if len(scenes) < len(listing):
        notes.append(f"{len(listing) - len(scenes):,} files that cannot be used are left out")
    if splits.test is None:
        notes.append(_why_no_test(listing, scenes))
    elif splits.held_out:
        notes.append(f"no test folder: {len(splits.test):,} of {len(scenes):,} files are set aside to test on by the seed")
    names = np.array(scenes.label_map.names)
    for part, title in ((splits.train, "train"), (splits.test, "test")):
        if part is not None:
            without = names[_class_counts(scan, part).sum(axis=0) == 0].tolist()
            notes += [f"no {title} points of {listed(without)}"] if without else []
    if listing.stray:
        notes.append(f"label files without a cloud, passed over: {listed(listing.stray)}")
    return notes


def _why_no_test(listing: SceneListing, scenes: FileScenes) -> str:
    if listing.has_splits:
        return "no test folder: scores are those of the validation scenes"
    if len(scenes) == 1:
        return "a single file, and points cannot be set aside file by file: there is nothing to test on; cut it in two, or add another"
    return "every file is needed to train on, as the only one of a class, or was to be: there is nothing to test on"


def _titles(scenes: FileScenes | None) -> tuple[str, ...]:
    return () if scenes is None else tuple(scenes.titles)
