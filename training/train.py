"""`fip train`: from a recipe and files to a scored checkpoint folder."""

from pathlib import Path

import click
import torch

from models.errors import BadRecipe, TrainingError
from models.manifest import Manifest
from models.predictor import Predictor
from training.datasets import read_split
from training.evaluate import ClassificationReport, evaluate
from training.loop import fit
from training.publish import Scores, describe, write_checkpoint
from training.recipe import Recipe
from training.run import Splits, Start, start, training_splits
from training.runstate import BEST, read_weights

RECIPE, CHECKPOINT = "recipe.yaml", "checkpoint"


def train(recipe: Recipe, data: Path, weights: str | None, run_dir: Path) -> Manifest:
    """Run a recipe to its end and write `run_dir`/checkpoint. Called again on the same folder, it goes on.

    Raises: BadRecipe (the folder belongs to another recipe), BadDataset, BadWeights, InflationError.
    """
    _claim(run_dir, recipe)
    splits = training_splits(recipe, data)
    beginning = start(recipe, len(splits.train.names), weights)
    trained = sum(p.numel() for name, p in beginning.net.named_parameters() if name in beginning.policy.trained)
    click.echo(beginning.report or f"init {recipe.init}: random weights, seed {recipe.seed}")
    click.echo(f"mode {recipe.mode}: {trained:,} parameters trained; {len(splits.train)} clouds, {len(splits.validation)} more to validate")
    fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, run_dir)
    scores = _score(recipe, beginning, splits, data, run_dir)
    folder = run_dir / CHECKPOINT
    manifest = write_checkpoint(folder, run_dir, recipe, beginning, splits.train, len(splits.validation), scores)
    click.echo(f"test accuracy {scores.last.accuracy:.2%} (last epoch), {scores.best.accuracy:.2%} (epoch best on validation)")
    click.echo(f"checkpoint in {folder}")
    return manifest


def _claim(run_dir: Path, recipe: Recipe) -> None:
    """A run directory belongs to one recipe."""
    path = run_dir / RECIPE
    run_dir.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_text(encoding="utf-8") != recipe.to_yaml():
        raise BadRecipe("holds a run of another recipe; choose another --run-dir", where=str(run_dir))
    path.write_text(recipe.to_yaml(), encoding="utf-8")


def _score(recipe: Recipe, beginning: Start, splits: Splits, data: Path, run_dir: Path) -> Scores:
    """Test accuracy of the best epoch and of the last, the weights rounded as they will be stored. Leaves the last in the net."""
    test = read_split(recipe.data.kind, data, "test")
    if test.names != splits.train.names:
        raise TrainingError("test and train name different classes", where=str(data))
    net = beginning.net
    last = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def score(state: dict[str, torch.Tensor]) -> ClassificationReport:
        net.load_state_dict({name: _rounded(tensor, recipe.half) for name, tensor in state.items()})
        return evaluate(Predictor(net, describe(recipe, beginning, splits.train)), test)

    best = score(read_weights(run_dir / BEST))
    return Scores(last=score(last), best=best)


def _rounded(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    return tensor.half().float() if half and tensor.dim() > 1 else tensor
