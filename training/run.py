"""What a run starts from: a net with inflated weights, and the clouds it may see."""

from dataclasses import dataclass

import torch
from torch import nn

from models.errors import BadWeights, InflationError
from models.manifest import NetworkSpec
from models.sparse.nn import ties_of
from models.zoo import build
from training.datasets import Clouds, few_shot, hold_out
from training.finetune import FreezePolicy, freeze_policy
from training.image_weights import ImageWeights, load_image_weights
from training.inflate import InflationReport, inflate_state_dict
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
class Splits:
    """train and validation are parts of the train split."""

    train: Clouds
    validation: Clouds


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
    return Start(net, spec, freeze_policy(net, recipe.mode), image, report)


def check_weights(recipe: Recipe, weights: str | None) -> None:
    """See that 2D weights are there and fit, before anything costs time. Raises: BadWeights, InflationError."""
    if recipe.init == "image":
        with torch.device("meta"):  # shapes alone
            net = build(recipe.network_spec(num_classes=2))
        _inflated(_image(recipe, weights), net, recipe)


def _image(recipe: Recipe, weights: str | None) -> ImageWeights:
    source = weights or recipe.weights
    if source is None:
        raise BadWeights(f"the recipe starts from 2D weights of {recipe.network}: say where they are with --weights")
    return load_image_weights(source)


def _inflated(image: ImageWeights, net: nn.Module, recipe: Recipe) -> tuple[dict[str, torch.Tensor], InflationReport]:
    try:
        return inflate_state_dict(image.tensors, net.state_dict(), recipe.inflate, ties_of(net))
    except InflationError as error:
        raise InflationError(f"does not fit the network {recipe.network}: {error}", where=image.name, known=error.known) from error


def facts(recipe: Recipe, start: Start, splits: Splits) -> dict[str, str | None]:
    """What makes a run this run and no other: digests of the recipe, the 2D weights and the clouds."""
    return {
        "recipe": recipe.digest,
        "weights": start.image.sha256 if start.image else None,
        "train clouds": splits.train.digest,
        "validation clouds": splits.validation.digest,
    }


def training_splits(recipe: Recipe, clouds: Clouds, validation: Clouds | None = None) -> Splits:
    """What a recipe takes of the train split: validation held out first, unless there is one, then the few shots drawn from the
    rest. Every process of a run finds the same ones. Raises: BadDataset.
    """
    train = clouds
    if validation is None:
        train, validation = hold_out(clouds, recipe.data.validation, recipe.seed)
    if recipe.data.shots is not None:
        train = few_shot(train, recipe.data.shots, recipe.seed)
    return Splits(train, validation)
