"""What a run starts from: a net with inflated weights, and the clouds it may see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, cast

import numpy as np
import torch
from torch import nn

from models.errors import BadWeights, InflationError
from models.manifest import NetworkSpec
from models.sparse.nn import ties_of
from models.zoo import build
from training.data import AnyData
from training.datasets import Clouds, Scenes, all_but_few, few_shot, hold_out
from training.datasets.scenes import few_scenes, hold_out_scenes
from training.finetune import FreezePolicy, freeze_policy
from training.image_weights import ImageWeights, load_image_weights
from training.inflate import InflationReport, inflate_state_dict, random_images
from training.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """A net ready to train: weights in place, policy decided. image and report are None unless init is `image`."""

    net: nn.Module
    spec: NetworkSpec
    policy: FreezePolicy
    image: ImageWeights | None
    report: InflationReport | None


@dataclass(frozen=True)
class Splits(Generic[AnyData]):
    """train and validation are parts of the train split."""

    train: AnyData
    validation: AnyData


def start(recipe: Recipe, num_classes: int, weights: str | None) -> Start:
    """Build the net with seeded random weights and inflate the 2D weights into it where the recipe says so.

    Raises: BadWeights, InflationError.
    """
    spec = recipe.network_spec(num_classes)
    torch.manual_seed(recipe.seed)
    net = build(spec)
    image = report = None
    if recipe.init == "image":
        image = _image(recipe, weights)
        state, report = _inflated(image, net, recipe)
        net.load_state_dict(state)
    if recipe.init == "random-inflated":
        ties = ties_of(net)
        net.load_state_dict(inflate_state_dict(random_images(net.state_dict(), ties), net.state_dict(), recipe.inflate, ties)[0])
    return Start(net, spec, freeze_policy(net, recipe.mode), image, report)


def check_weights(recipe: Recipe, weights: str | None, *, whole: bool = True) -> None:
    """See that 2D weights are there and fit, before anything costs time. whole: the recipe says already what the stem reads.

    Raises: BadWeights, InflationError.
    """
    if recipe.init == "image":
        if not whole:
            recipe = recipe.model_copy(update={"inflate": recipe.inflate.model_copy(update={"stem": "fresh"})})
        with torch.device("meta"):  # shapes alone
            net = build(recipe.network_spec(num_classes=2))
        _inflated(_image(recipe, weights), net, recipe)


def _image(recipe: Recipe, weights: str | None) -> ImageWeights:
    source = weights or recipe.weights
    if source is None:
        raise BadWeights(f"the recipe starts from 2D weights of {recipe.network}: say where they are with --weights")
    image = load_image_weights(source, taps=recipe.inflate.taps)
    if recipe.inflate.stem == "copy" and any(tensor.dim() == 4 for name, tensor in image.tensors.items() if name == "conv1.weight"):
        raise BadWeights("the stem of a 2D net is not copied: leave out inflate.stem=copy", where=image.name)
    if image.body:
        features = tuple(feature.name for feature in recipe.input.features)
        image.body.fits(recipe.network, features, stem=recipe.inflate.stem == "copy")
    return image


def _inflated(image: ImageWeights, net: nn.Module, recipe: Recipe) -> tuple[dict[str, torch.Tensor], InflationReport]:
    try:
        return inflate_state_dict(image.tensors, net.state_dict(), recipe.inflate, ties_of(net))
    except InflationError as error:
        raise InflationError(f"does not fit the network {recipe.network}: {error}", where=image.name, known=error.known) from error


def facts(recipe: Recipe, start: Start, splits: Splits[AnyData]) -> dict[str, str | None]:
    """What makes a run this run and no other: digests of the recipe, the 2D weights and the clouds."""
    return {
        "recipe": recipe.digest,
        "weights": start.image.sha256 if start.image else None,
        "train clouds": splits.train.digest,
        "validation clouds": splits.validation.digest,
    }


def training_splits(recipe: Recipe, train: AnyData, validation: AnyData | None = None) -> Splits[AnyData]:
    """What a recipe takes of the train split: validation held out first, unless there is one, then the few shots drawn from the
    rest: clouds of each class, or scenes. Every process of a run finds the same ones. Raises: BadDataset.
    """
    if recipe.task == "segment":
        scenes = _split(cast(Scenes, train), cast(Scenes | None, validation), recipe, hold_out_scenes, few_scenes)
        return cast(Splits[AnyData], scenes)
    clouds = _split(cast(Clouds, train), cast(Clouds | None, validation), recipe, hold_out, few_shot)
    return cast(Splits[AnyData], clouds)


def without_labels(recipe: Recipe, train: Clouds, validation: Clouds | None = None) -> Clouds:
    """The clouds of the train split that few shots leave out, validation excepted: none where there is no such choice."""
    if recipe.data.shots is None:
        return train.take(np.arange(0))
    rest = hold_out(train, recipe.data.validation, recipe.seed)[0] if validation is None else train
    return all_but_few(rest, recipe.data.shots, recipe.seed)


def _split(
    train: AnyData,
    validation: AnyData | None,
    recipe: Recipe,
    hold: Callable[[AnyData, float, int], tuple[AnyData, AnyData]],
    few: Callable[[AnyData, int, int], AnyData],
) -> Splits[AnyData]:
    if validation is None:
        train, validation = hold(train, recipe.data.validation, recipe.seed)
    if recipe.data.shots is not None:
        train = few(train, recipe.data.shots, recipe.seed)
    return Splits(train, validation)
