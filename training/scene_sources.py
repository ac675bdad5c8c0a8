"""Where the scenes of a run come from: a data set of a known layout, or the user's own labelled folder, looked through first."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from models.errors import BadDataset
from training.datasets import LABELLED, FileScenes, Scenes, find_label_map, read_scenes
from training.datasets.labelled_folder import open_labelled
from training.datasets.paths import printable
from training.datasets.scene_defaults import derive_scene_input
from training.datasets.scenes import Clipped
from training.recipe import DataSpec, Recipe
from training.run import training_splits
from training.source import Derived, Source


def open_scenes(data: DataSpec, root: Path, say: Callable[[object], None], *, skip_bad: bool = False) -> Source:
    """Open the scenes at `root`. Of the user's own folder every file is read once first.

    Raises: BadDataset, BadLabels (say what is wrong with which file; unusable ones of an own folder are left out with `skip_bad`).
    """
    if data.kind != LABELLED:
        train = read_scenes(data.kind, root, "train", data.label_map, data.exclude)
        say(f"{data.kind}: {len(train)} scenes to train on")
        return _source(data, data.kind, train, partial(read_scenes, data.kind, root, "test", data.label_map, data.exclude), None)
    label_map = find_label_map(data.label_map) if data.label_map else None
    splits = open_labelled(root, test_share=data.test, seed=data.split_seed, skip_bad=skip_bad, label_map=label_map)
    for note in splits.notes:
        say(note)
    name = printable(os.fsencode(root.resolve().name))
    return _source(data, name, splits.train, lambda: splits.test, splits.validation, splits.notes)


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
        return scenes if scenes is None or clip is None or data.clip_test == "corrected" else Clipped(scenes, clip)

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

    trained_on: digest of the model's training scenes. In an own folder without splits the model is judged on those set aside when
    it was trained. Raises: BadDataset, BadLabels.
    """
    data = recipe.data if recipe is not None and kind in (None, recipe.data.kind) else DataSpec(kind=kind or LABELLED)
    source = open_scenes(data, root, lambda _: None, skip_bad=skip_bad)
    scenes = cast(Scenes | None, source.test() if split == "test" else source.train)
    if scenes is None:
        raise BadDataset("no scenes to test on: no test folder, and too few files to set some aside", where=str(root))
    if data.kind != LABELLED or recipe is None:
        return scenes, None
    again = training_splits(recipe, source.train, source.validation).train.digest == trained_on
    if again:
        return scenes, f"{len(scenes)} scenes: the {split} split of the folder that the model was trained on"
    return scenes, f"{len(scenes)} scenes of another folder than the model was trained on, or of one that has changed"
