"""`fip train`: from a recipe and files to a scored checkpoint folder."""

from pathlib import Path

import click
import torch

from models.checkpoint import MANIFEST, read_manifest
from models.errors import BadDataset
from models.manifest import Manifest
from models.predictor import Predictor
from training.datasets import read_split
from training.evaluate import ClassificationReport, evaluate
from training.loop import fit
from training.publish import Scores, describe, write_checkpoint
from training.recipe import Recipe
from training.run import Splits, Start, facts, start, training_splits
from training.runstate import BEST, claim, read_weights, write_text

RECIPE, CHECKPOINT = "recipe.yaml", "checkpoint"


def train(recipe: Recipe, data: Path, weights: str | None, run_dir: Path, device: str = "cpu") -> Manifest:
    """Run a recipe to its end and write `run_dir`/checkpoint. Called again on the same folder, it goes on.

    A finished run is not scored again: the test split is read once. Raises: BadRunDir (the folder belongs to another run),
    BadDataset, BadWeights, InflationError, Diverged.
    """
    splits = training_splits(recipe, data)
    beginning = start(recipe, len(splits.train.names), weights)
    claim(run_dir, facts(recipe, beginning, splits))
    write_text(run_dir / RECIPE, recipe.to_yaml())
    beginning.net.to(device)
    trained = sum(p.numel() for name, p in beginning.net.named_parameters() if name in beginning.policy.trained)
    click.echo(beginning.report or f"init {recipe.init}: random weights, seed {recipe.seed}")
    click.echo(f"mode {recipe.mode}: {trained:,} parameters trained; {len(splits.train)} clouds, {len(splits.validation)} more to validate")
    fit(beginning.net, beginning.policy, recipe, splits.train, splits.validation, run_dir)
    folder = run_dir / CHECKPOINT
    if (folder / MANIFEST).is_file():
        manifest, _ = read_manifest(folder)
    else:
        scores = _score(recipe, beginning, splits, data, run_dir, device)
        manifest = write_checkpoint(folder, run_dir, recipe, beginning, splits.train, len(splits.validation), scores)
    last, best = manifest.metrics["test_accuracy"], manifest.metrics["test_accuracy_best_validation_epoch"]
    click.echo(f"test accuracy {last:.2%} (last epoch), {best:.2%} (epoch best on validation)")
    click.echo(f"checkpoint in {folder}")
    return manifest


def _score(recipe: Recipe, beginning: Start, splits: Splits, data: Path, run_dir: Path, device: str) -> Scores:
    """Test accuracy of the best epoch and of the last, the weights rounded as they will be stored. Leaves the last in the net."""
    test = read_split(recipe.data.kind, data, "test")
    if test.names != splits.train.names:
        raise BadDataset("test and train name different classes", where=str(data))
    click.echo(f"scoring on the {len(test)} test clouds, for the epoch best on validation and for the last")
    net = beginning.net
    last = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def score(state: dict[str, torch.Tensor]) -> ClassificationReport:
        net.load_state_dict({name: _rounded(tensor, recipe.half) for name, tensor in state.items()})
        return evaluate(Predictor(net, describe(recipe, beginning, splits.train), device), test)

    best = score(read_weights(run_dir / BEST))
    return Scores(last=score(last), best=best)


def _rounded(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    return tensor.half().float() if half and tensor.dim() > 1 else tensor
