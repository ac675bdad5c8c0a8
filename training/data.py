"""The two kinds of data that a recipe can be for: clouds of one class each, and scenes with a class for every point."""

from typing import TypeVar, cast

import numpy as np
import torch

from models.labels import LabelMap
from models.manifest import Fidelity, InputSpec, Task
from models.predictor import Predictor
from training.augment import AugmentSpec
from training.datasets import Clouds, Scenes
from training.evaluate import Report, evaluate, evaluate_scenes
from training.metrics import Absent
from training.recipe import Recipe
from training.samples import CloudSamples, Samples, SceneSamples
from training.teaching import TaughtClouds

Data = Clouds | Scenes  # which of the two follows from the task of the recipe
LOOKED_AT = 64  # scenes whose intensities are looked at
AnyData = TypeVar("AnyData", bound=Data)


def class_names(data: Data, recipe: Recipe) -> tuple[str, ...]:
    """What the classes are called, in the order of a net's answers."""
    return cast(Clouds, data).names if recipe.task == "classify" else cast(Scenes, data).label_map.names


def label_map(data: Data, recipe: Recipe) -> LabelMap | None:
    """Colours and ids of the classes, where every point has one."""
    return None if recipe.task == "classify" else cast(Scenes, data).label_map


def groups_of(data: Data, recipe: Recipe, device: torch.device) -> torch.Tensor | None:
    """(G, L) bool: which classes each group of labels may be; None where there are none. Raises: BadLabels."""
    classes = label_map(data, recipe)
    return torch.from_numpy(classes.members()).to(device) if classes is not None and classes.groups else None


def largest_intensity(data: Data, recipe: Recipe) -> float | None:
    """Of up to 64 training scenes, evenly spread; None where the net reads none, or no scene has any."""
    if recipe.task == "classify" or not any(feature.name == "intensity" for feature in recipe.input.features):
        return None
    scenes = cast(Scenes, data)
    rows = np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), LOOKED_AT)).astype(np.int64))
    columns = [scenes.scene(int(row)).cloud.intensity for row in rows]
    return max((float(column.max()) for column in columns if column is not None), default=None)


def learning(data: Data, recipe: Recipe) -> Samples:
    """What an epoch is made of."""
    return _samples(data, recipe, recipe.augment if recipe.augment.changes else None, per_point=False)


def checking(data: Data, recipe: Recipe) -> Samples:
    """What validation looks at."""
    return _samples(data, recipe, None, per_point=True)


def asking(data: Data, recipe: Recipe) -> Samples:
    """What a score is of: as `checking`, with the votes of who asks, which cost as many times as much."""
    return _samples(data, recipe, None, per_point=True, votes=True)


def _samples(data: Data, recipe: Recipe, augmentation: AugmentSpec | None, *, per_point: bool, votes: bool = False) -> Samples:
    spec: InputSpec = recipe.input if votes else recipe.input.model_copy(update={"votes": None})
    if recipe.task == "classify":
        return CloudSamples(cast(Clouds, data), spec, augmentation, shares=data.shares if isinstance(data, TaughtClouds) else None)
    return SceneSamples(cast(Scenes, data), spec, augmentation, per_point, recipe.voxel_label)


def unit(recipe: Recipe) -> str:
    """What one sample is called."""
    return "cloud" if recipe.task == "classify" else "scene"


def columns_with_fill(recipe: Recipe) -> tuple[str, ...]:
    """Columns that a file for a net of scenes may lack, `rgb` or `intensity`: something stands in for all that is made of them."""
    if recipe.task == "classify":
        return ()
    columns = {"rgb": ("red", "green", "blue"), "intensity": ("intensity",)}
    used = {column: [each for each in recipe.input.features if each.name in names] for column, names in columns.items()}
    return tuple(column for column, features in used.items() if features and all(each.fill is not None for each in features))


def absent_classes(miou_empty: Fidelity) -> Absent:
    """How a mean IoU counts classes without points."""
    return "one" if miou_empty == "reference" else "left_out"


def report_on(predictor: Predictor, data: Data, task: Task, *, miou_empty: Fidelity = "corrected", without: tuple[str, ...] = ()) -> Report:
    """Score a model on labelled data, as the service would answer. without: columns that are taken from scenes first."""
    if task == "classify":
        return evaluate(predictor, cast(Clouds, data))
    return evaluate_scenes(predictor, cast(Scenes, data), absent_classes(miou_empty), without=without)
