"""`fip train`: from a recipe and files to a scored checkpoint folder, and from there into a registry."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from models.artefact import MANIFEST, read_manifest
from models.errors import BadDataset
from models.predictor import Predictor
from training.card import Scores
from training.datasets import Clouds
from training.evaluate import ClassificationReport, evaluate
from training.loop import CACHE, DEFAULT, Compute, fit
from training.publish import Made, describe, write_checkpoint
from training.recipe import Draft, Recipe
from training.run import Splits, facts, start, training_splits
from training.runstate import BEST, claim, read_weights, write_text
from training.sources import Source, open_source

RECIPE, CHECKPOINT = "recipe.yaml", "checkpoint"


@dataclass(frozen=True)
class Job:
    """What is asked for. name: of the model, the recipe's if None; skip_bad: leave out files that cannot be read."""

    draft: Draft
    data: Path
    weights: str | None
    run_dir: Path
    name: str | None = None
    skip_bad: bool = False
    device: str = "cpu"
    compute: Compute = DEFAULT


def train(job: Job) -> Path | None:
    """Run a recipe to its end and write the checkpoint folder that is returned. Called again on the same run, it goes on.

    A finished run is not scored again: the test split is read once. Of several processes the first one scores and writes;
    the others return None. Raises: BadRunDir (the folder belongs to another run), BadDataset, BadRecipe, BadWeights,
    InflationError, Diverged.
    """
    world = job.compute.world
    with world.first_goes_first():
        source = open_source(job.draft.data, job.data, job.draft.seed, job.run_dir, world.say, skip_bad=job.skip_bad)
    made = _made(job, source)
    if world.first:
        claim(job.run_dir, facts(made.recipe, made.start, Splits(made.train, made.validation)))
        write_text(job.run_dir / RECIPE, made.recipe.to_yaml())
    _introduce(job, made)
    net = made.start.net.to(job.device)
    fit(net, made.start.policy, made.recipe, made.train, made.validation, job.run_dir, job.compute)
    return _finish(job, made, source) if world.first else None


def _made(job: Job, source: Source) -> Made:
    """The resolved recipe, the clouds it takes and the net it starts from."""
    derived = source.derive() if job.draft.open_keys else None
    recipe = job.draft.resolve(derived.values if derived else {})
    for reason in derived.reasons if derived else ():
        job.compute.world.say(reason)
    splits = training_splits(recipe, source.train, source.validation)
    beginning = start(recipe, len(splits.train.names), job.weights)
    return Made(job.name or recipe.name, recipe, beginning, splits.train, splits.validation, source.name, source.notes)


def _introduce(job: Job, made: Made) -> None:
    say, policy = job.compute.world.say, made.start.policy
    trained = sum(p.numel() for name, p in made.start.net.named_parameters() if name in policy.trained)
    say(made.start.report or f"init {made.recipe.init}: random weights, seed {made.recipe.seed}")
    say(f"mode {made.recipe.mode}: {trained:,} parameters trained; {len(made.train)} clouds, {len(made.validation)} more to validate")


def _finish(job: Job, made: Made, source: Source) -> Path:
    """Score and write the checkpoint, unless an earlier call did."""
    folder = job.run_dir / CHECKPOINT
    if (folder / MANIFEST).is_file():
        manifest, _ = read_manifest(folder)
    else:
        manifest = write_checkpoint(folder, job.run_dir, made, _score(made, source, job))
        shutil.rmtree(job.run_dir / CACHE, ignore_errors=True)
    for split in ("test", "validation"):
        if f"{split}_accuracy" in manifest.metrics:
            low, high = manifest.metrics[f"{split}_accuracy_low"], manifest.metrics[f"{split}_accuracy_high"]
            accuracy, clouds = manifest.metrics[f"{split}_accuracy"], manifest.metrics[f"{split}_clouds"]
            click.echo(f"{split} accuracy {accuracy:.2%} on {clouds:.0f} clouds (95 % interval {low:.1%} to {high:.1%})")
    click.echo(f"checkpoint in {folder}")
    return folder


def _score(made: Made, source: Source, job: Job) -> Scores:
    """Score the epoch that is published, and on test the other candidate too, the weights rounded as they will be stored.

    Leaves the published weights in the net.
    """
    recipe, net = made.recipe, made.start.net
    test = source.test()
    if test is not None and test.names != made.train.names:
        raise BadDataset("test and train name different classes", where=str(job.data))
    last = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    best = read_weights(job.run_dir / BEST)
    published, other = (best, last) if recipe.early_stop else (last, best)

    def score(state: dict[str, torch.Tensor], clouds: Clouds | None) -> ClassificationReport | None:
        if clouds is None or not len(clouds):
            return None
        net.load_state_dict({name: _rounded(tensor, recipe) for name, tensor in state.items()})
        return evaluate(Predictor(net, describe(made), job.device), clouds)

    if test is not None:
        click.echo(f"scoring on the {len(test)} test clouds, for the epoch best on validation and for the last")
    scores = Scores(score(published, test), score(published, made.validation), bool(recipe.early_stop))
    if len(made.validation):
        scores = replace(scores, other_test=score(other, test))
    net.load_state_dict(published)
    return scores


def _rounded(tensor: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return tensor.half().float() if recipe.half and tensor.dim() > 1 else tensor
