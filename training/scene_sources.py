"""Where the scenes of a run come from: a data set of a known layout, or the user's own labelled folder, looked through first."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from models.errors import BadDataset
from training.datasets import LABELLED, FileScenes, Scenes, find_label_map, read_scenes
from training.datasets.labelled_folder import folder_label_map, scene_splits
from training.datasets.paths import printable
from training.datasets.scene_defaults import derive_scene_input
from training.datasets.scene_listing import list_scenes
from training.datasets.scene_report import SceneReport
from training.datasets.scene_scan import scan_scenes
from training.datasets.scenes import Clipped, Joined
from training.evaluate import counted
from training.recipe import DataSpec, Recipe
from training.run import training_splits
from training.source import Derived, Source, validation_of


def open_scenes(data: DataSpec, root: Path, say: Callable[[object], None], *, skip_bad: bool = False) -> Source:
    """Open the scenes at `root`. Of the user's own folder every file is read once first.

    Raises: BadDataset, BadLabels (say what is wrong with which file; unusable ones of an own folder are left out with `skip_bad`).
    """
    if data.kind == LABELLED:
        return _own_folder(data, root, say, skip_bad=skip_bad)
    read = partial(read_scenes, data.kind, root, label_map=data.label_map, exclude=data.exclude, test_area=data.test_area)
    train = read("train")
    say(f"{data.kind}: {counted(len(train), 'scene')} to train on")
    for note in train.notes:
        say(note)
    if not data.extra:
        return _source(data, data.kind, train, partial(read, "test"), None, train.notes)
    others = [_own_folder(DataSpec(kind=LABELLED, test=0.0), root / folder, say, skip_bad=skip_bad) for folder in data.extra]
    joined = Joined.of(train, [cast(Scenes, other.train) for other in others])
    more = counted(len(joined) - len(train), "further scene")
    note = f"{more} of {', '.join(data.extra)}, trained on as well; some of their labels leave open which of several classes it is"
    return _source(data, ", ".join([data.kind, *data.extra]), joined, partial(read, "test"), None, (*train.notes, note))


def _own_folder(data: DataSpec, root: Path, say: Callable[[object], None], *, skip_bad: bool) -> Source:
    listing = list_scenes(root)
    label_map = find_label_map(data.label_map) if data.label_map else folder_label_map(listing)
    scan = scan_scenes(listing, label_map)
    try:
        splits = scene_splits(listing, scan, label_map, test_share=data.test, seed=data.split_seed, skip_bad=skip_bad)
    except BadDataset:
        say(SceneReport.of(listing, scan, label_map, None, None, len(listing)))
        raise
    say(SceneReport.of(listing, scan, label_map, splits, None, len(listing)))
    for note in splits.notes:
        say(note)
    parts = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    known = {title for part in parts for title in part.titles}
    train = splits.train.without(data.exclude, known.__contains__)
    validation, test = (_rest(part, data.exclude) for part in (splits.validation, splits.test))
    return _source(data, printable(os.fsencode(root.resolve().name)), train, lambda: test, validation, splits.notes)


def _rest(scenes: FileScenes | None, exclude: tuple[str, ...]) -> FileScenes | None:
    """The scenes that are not excluded; None where there are none."""
    if scenes is None or set(scenes.titles) <= set(exclude):
        return None
    return scenes.without(exclude, lambda _: True)


def _source(
    data: DataSpec,
    name: str,
    train: FileScenes | Scenes,
    test: Callable[[], Scenes | None],
    validation: Scenes | None,
    notes: tuple[str, ...] = (),
) -> Source:
    """As a run sees them: clipped where the recipe says so."""
    clip = data.clip

    def tested() -> Scenes | None:
        scenes = test()
        return None if scenes is None else _clipped_test(scenes, data)

    def derived() -> Derived:
        values, reasons = derive_scene_input(train, data.split_seed)
        return Derived(values, tuple(reasons))

    if clip is not None:
        train, validation = Clipped(train, clip), Clipped(validation, clip) if validation is not None else None
    return Source(name, train, tested, derived, validation, notes)


def scenes_to_score(
    root: Path, split: str, kind: str | None, recipe: Recipe | None, trained_on: str, *, skip_bad: bool = False
) -> tuple[Scenes, str | None]:
    """The scenes of a split that a model is to be judged on, under the classes it was trained with, and what must be said of them.

    trained_on: digest of the model's training scenes. In the own folder that it was trained on, they are those set aside then; in
    another one without splits all there are. Raises: BadDataset, BadLabels.
    """
    data = recipe.data if recipe is not None and kind in (None, recipe.data.kind) else DataSpec(kind=kind or LABELLED)
    data = data.model_copy(update={"extra": ()})  # they are never scored, and need not be where the test scenes are
    if data.kind != LABELLED:
        scenes = read_scenes(data.kind, root, split, data.label_map, test_area=data.test_area)
        kept = np.array([row for row, title in enumerate(scenes.titles) if title not in data.exclude], np.int64)
        return _clipped_test(scenes.take(kept), data), None
    if recipe is not None and recipe.data.kind == LABELLED:
        source = open_scenes(data, root, lambda _: None, skip_bad=skip_bad)
        if training_splits(recipe, cast(Scenes, source.train), validation_of(recipe, source)).train.digest == trained_on:
            scenes_then = cast(Scenes | None, source.test() if split == "test" else source.train)
            if scenes_then is None:
                raise BadDataset("no scenes to test on: no test folder, and too few files to set some aside", where=str(root))
            return scenes_then, f"{counted(len(scenes_then), 'scene')}: the {split} split of the folder that the model was trained on"
    whole = open_scenes(data.model_copy(update={"test": 0.0, "exclude": ()}), root, lambda _: None, skip_bad=skip_bad)
    given = cast(Scenes | None, whole.test()) if split == "test" else None
    found = given if given is not None else cast(Scenes, whole.train)
    what = f"of its {split} folder" if given is not None else "all there are"
    return found, f"{counted(len(found), 'scene')}, {what}: another folder than the model was trained on, or one that has changed"


def _clipped_test(scenes: Scenes, data: DataSpec) -> Scenes:
    """Test scenes as a recipe sees them."""
    return scenes if data.clip is None or data.clip_test == "corrected" else Clipped(scenes, data.clip)
