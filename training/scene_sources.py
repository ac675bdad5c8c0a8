"""Where the scenes of a run come from: a data set of a known layout, or the user's own labelled folder, looked through first."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from training.datasets import LABELLED, FileScenes, Scenes, find_label_map, read_scenes
from training.datasets.labelled_folder import open_labelled
from training.datasets.paths import printable
from training.datasets.scene_defaults import derive_scene_input
from training.datasets.scenes import Clipped
from training.recipe import DataSpec
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
