"""Where a run's clouds come from: a data set of a known layout, or the user's folder, looked through before it is used."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.errors import BadDataset
from models.manifest import Manifest
from training.data import Data
from training.datasets import FOLDER, Clouds, read_split
from training.datasets.defaults import derive_input
from training.datasets.folder import all_clouds, folder_splits, refuse_bad
from training.datasets.generated import GeneratedClouds, generated
from training.datasets.kinds import GENERATED, SCENE_KINDS
from training.datasets.listing import Split, list_folder
from training.datasets.paths import printable
from training.datasets.report import DataReport
from training.datasets.scan import Scan, scan_folder
from training.recipe import DataSpec, Recipe
from training.run import training_splits
from training.scene_sources import open_scenes, scenes_to_score
from training.source import Derived, Source

SCAN = "scan.npz"
TEST_SHAPES = 2  # of each generated class


def open_source(data: DataSpec, root: Path, run_dir: Path, say: Callable[[object], None], *, skip_bad: bool = False) -> Source:
    """Open the data set at `root`; generated shapes need none. Of a folder every file is read once; what was found is said, and
    kept in `run_dir`.

    Raises: BadDataset (says what is wrong with which file; unreadable ones are left out with `skip_bad`).
    """
    if data.kind in SCENE_KINDS:
        return open_scenes(data, root, say, skip_bad=skip_bad)
    if data.kind == GENERATED:
        shapes = {split: _shapes(data, split) for split in ("train", "test")}
        return Source(data.kind, shapes["train"], lambda: shapes["test"], lambda: _derived(shapes["train"], data.split_seed))
    if data.kind != FOLDER:
        train = read_split(data.kind, root, "train")
        return Source(data.kind, train, lambda: read_split(data.kind, root, "test"), lambda: _derived(train, data.split_seed))
    listing = list_folder(root)
    scan = Scan.load(run_dir / SCAN, listing)
    if scan is None or not scan.usable.all():  # what could not be read may have been mended without a trace in the listing
        scan = scan_folder(listing, scan)
        scan.save(run_dir / SCAN)
    try:
        splits = folder_splits(listing, scan, test_share=data.test, seed=data.split_seed, skip_bad=skip_bad)
    except BadDataset:
        say(DataReport.of(listing, scan))
        raise
    say(DataReport.of(listing, scan, splits))
    return Source(
        printable(os.fsencode(root.resolve().name)),
        splits.train,
        lambda: splits.test,
        lambda: _derived(splits.train, data.split_seed),
        splits.validation,
        splits.notes,
    )


def _shapes(data: DataSpec, split: str) -> GeneratedClouds:
    """Those that are learnt from, or the ones after them in every class."""
    if split == "train":
        return generated(data.classes, data.shapes, data.split_seed)
    return generated(data.classes, TEST_SHAPES, data.split_seed, first=data.shapes)


def data_to_score(
    root: Path | None, split: str, kind: str | None, manifest: Manifest, recipe: Recipe | None, *, skip_bad: bool = False
) -> tuple[Data, str | None]:
    """The data of a split that a model is to be judged on, and what must be said of it.

    root: None where they come from no folder. kind: None looks at the folder, or at what the model was trained on. Raises: BadDataset,
    BadLabels.
    """
    if root is None:
        if kind not in (None, GENERATED) or recipe is None or recipe.data.kind != GENERATED:
            raise BadDataset("--data is missing: the labelled folder to score on; only a model of generated shapes needs none")
        return _shapes(recipe.data, split), None
    trained_on = manifest.provenance.dataset_sha256
    if manifest.task == "segment":
        return scenes_to_score(root, split, kind, recipe, trained_on, skip_bad=skip_bad)
    return clouds_to_score(root, split, kind, recipe, trained_on, skip_bad=skip_bad)


def clouds_to_score(
    root: Path, split: str, kind: str | None, recipe: Recipe | None, trained_on: str, *, skip_bad: bool = False
) -> tuple[Clouds, str | None]:
    """The clouds of a split that a model is to be judged on, and what must be said of them.

    kind: None looks at the folder. recipe, trained_on: of the model, the latter the digest of its training clouds: in the folder
    that it was trained on, the split is the one that was made then. Raises: BadDataset.
    """
    kind = kind or ("modelnet40" if (root / "shape_names.txt").is_file() else FOLDER)
    if kind != FOLDER:
        return read_split(kind, root, split), None
    listing = list_folder(root)
    if listing.has_splits:
        rows = np.flatnonzero(listing.splits == Split[split.upper()])
        if not len(rows):
            raise BadDataset(f"no folder named {split} in it", where=str(root))
        listing = listing.take(rows)
    scan = scan_folder(listing)
    if not skip_bad:
        refuse_bad(listing, scan)
    clouds = all_clouds(listing, scan)
    if listing.has_splits:
        return clouds, None
    if recipe is None or recipe.data.kind != FOLDER:
        return clouds, f"all {len(clouds):,} clouds: the folder has no splits"
    data = recipe.data
    splits = folder_splits(listing, scan, test_share=data.test, seed=data.split_seed, skip_bad=skip_bad)
    if training_splits(recipe, splits.train, splits.validation).train.digest != trained_on:
        return clouds, f"all {len(clouds):,} clouds: the folder has no splits; those that the model was trained on, if any, flatter it"
    if splits.test is None:
        return clouds, f"all {len(clouds):,} clouds, and the model was trained on most of them: this is no test score"
    chosen = splits.test if split == "test" else splits.train
    return chosen, f"{len(chosen):,} clouds: the {split} split that was made when the model was trained"


def _derived(clouds: Clouds, seed: int) -> Derived:
    values, reasons = derive_input(clouds, seed)
    return Derived(values, tuple(reasons))
