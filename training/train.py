"""`fip train`: from a recipe and files to a scored checkpoint folder, and from there into a registry."""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import click
import torch

from models.artefact import MANIFEST, read_manifest
from models.errors import BadDataset, BadRecipe, BadRunDir
from models.predictor import Predictor
from models.sparse.backends import AUTO
from training.card_parts import Scores
from training.data import Data, class_names, columns_with_fill, largest_intensity, report_on, unit
from training.datasets import Clouds
from training.datasets.kinds import FOLDER
from training.evaluate import Report, counted
from training.loop import CACHE, DEFAULT, Compute, fit
from training.publish import Made, describe, headlines, write_checkpoint
from training.recipe import Draft, Recipe, differences, load_recipe
from training.run import Splits, check_weights, facts, start, training_splits, without_labels
from training.runstate import BEST, Position, claim, held, read_weights, write_text
from training.source import Source, validation_of
from training.sources import open_source
from training.teaching import taught as ask
from training.teaching import unlabelled_folder

RECIPE, CHECKPOINT = "recipe.yaml", "checkpoint"


@dataclass(frozen=True)
class Job:
    """What is asked for. name: of the model, the recipe's if None; skip_bad: leave out files that cannot be read.

    teacher: the checkpoint folder of the model that speaks of the clouds in the folder `unlabelled`, or of those that few shots leave.
    """

    draft: Draft
    data: Path
    weights: str | None
    run_dir: Path
    name: str | None = None
    skip_bad: bool = False
    device: str = "cpu"
    compute: Compute = DEFAULT
    teacher: Path | None = None
    unlabelled: Path | None = None


def train(job: Job) -> Path | None:
    """Run a recipe to its end and write the checkpoint folder that is returned. Called again on the same run, it goes on.

    A finished run is not scored again: the test split is read once. Of several processes the first one scores and writes;
    the others return None. Raises: BadRunDir (the folder belongs to another run), BadDataset, BadRecipe, BadWeights,
    InflationError, Diverged.
    """
    try:
        with held(job.run_dir) if job.compute.world.first else nullcontext():
            return _train(job)
    except OSError as error:  # a full disk, say, under a file that has no better place to tell of it
        raise BadRunDir(f"cannot be written: {error.strerror or error}", where=str(error.filename or job.run_dir)) from error


def _train(job: Job) -> Path | None:
    world = job.compute.world
    check_weights(job.draft.preview, job.weights, whole="features" not in job.draft.open_keys)
    with world.first_goes_first():
        source = open_source(job.draft.preview.data, job.data, job.run_dir, world.say, skip_bad=job.skip_bad)
    made = _made(job, source)
    if made.recipe.distill:
        with world.first_goes_first():
            made = _taught(job, made, source)
    with world.first_goes_first():
        if world.first:
            _claim(job.run_dir, made)
            write_text(job.run_dir / RECIPE, made.recipe.to_yaml())
    _introduce(job, made)
    net = made.start.net.to(job.device)
    end = fit(net, made.start.policy, made.recipe, made.taught or made.train, made.validation, job.run_dir, job.compute)
    return _finish(job, replace(made, engine=end.engine), source, end) if world.first else None


def _made(job: Job, source: Source) -> Made:
    """The resolved recipe, the clouds it takes and the net it starts from."""
    derived = source.derive() if job.draft.open_keys else None
    recipe = job.draft.resolve(derived.values if derived else {})
    for reason in derived.reasons_of(job.draft.open_keys) if derived else ():
        job.compute.world.say(reason)
    splits = training_splits(recipe, source.train, validation_of(recipe, source))
    if recipe.early_stop and not len(splits.validation):
        raise BadRecipe("needs validation clouds; set data.validation above 0", where="early_stop")
    beginning = start(recipe, len(class_names(splits.train, recipe)), job.weights)
    return Made(job.name or recipe.name, recipe, beginning, splits.train, splits.validation, source.name, (*source.notes, *recipe.notes))


def _taught(job: Job, made: Made, source: Source) -> Made:
    """With what the teacher says of the clouds without labels. Raises: BadRecipe (there is no teacher), BadDataset, BadCheckpoint."""
    recipe = made.recipe
    assert recipe.distill is not None
    if job.teacher is None:
        raise BadRecipe("wants a model that speaks of unlabelled clouds: say --teacher MODEL", where="distill")
    manifest, digest = read_manifest(job.teacher)
    labelled = cast(Clouds, made.train)
    if job.unlabelled:
        others: Clouds = unlabelled_folder(job.unlabelled)
    else:
        others = without_labels(recipe, cast(Clouds, source.train), cast("Clouds | None", validation_of(recipe, source)))
    teacher = Predictor.load(job.teacher, job.device, job.compute.engine)
    taught = ask(teacher, labelled, others, recipe.distill, job.run_dir, digest)
    name = f"{manifest.name} (sha256 {digest})"
    learnt = len(taught) - recipe.distill.copies * len(labelled)
    note = f"Beside the labelled clouds, {counted(learnt, 'cloud')} without labels: learnt is what {name} says of them."
    return replace(made, taught=taught, teacher=name, notes=(*made.notes, note))


def _claim(run_dir: Path, made: Made) -> None:
    """Make the run directory this run's. Raises: BadRunDir (says how the run that is in it differs)."""
    old = run_dir / RECIPE
    try:
        taught = {"teacher's clouds": made.taught.digest} if made.taught else {}
        claim(run_dir, facts(made.recipe, made.start, Splits(made.train, made.validation)) | taught)
    except BadRunDir as error:
        if not old.is_file():
            raise
        changes = differences(load_recipe(str(old)), made.recipe)
        done = f"; the model in it is finished: fip models publish {run_dir / CHECKPOINT} NAME" if (run_dir / CHECKPOINT).is_dir() else ""
        raise BadRunDir(f"{error.detail}{' (' + ', '.join(changes) + ')' if changes else ''}{done}", where=str(run_dir)) from error


def _introduce(job: Job, made: Made) -> None:
    say, policy = job.compute.world.say, made.start.policy
    trained = sum(p.numel() for name, p in made.start.net.named_parameters() if name in policy.trained)
    say(made.start.report or f"init {made.recipe.init}: random weights, seed {made.recipe.seed}")
    recipe, image = made.recipe, made.start.image
    if image and image.body and recipe.inflate.stem != "copy":
        say(f"the stem of {image.name} is left out: say --set inflate.stem=copy to keep it")
    if recipe.soup > 1:
        say(f"a soup: {recipe.soup} runs of {counted(recipe.epochs, 'epoch')} each")
        if recipe.init == "scratch":
            say("! runs from random weights end far from each other, and the mean of their weights is no good net: leave out soup")
    if recipe.data.shots and recipe.data.kind == FOLDER:
        say(f"data.shots {recipe.data.shots}: of each class so many clouds are trained on; --set data.shots=null takes all")
    samples = f"{counted(len(made.train), unit(made.recipe))}, {len(made.validation):,} more to validate"
    if made.taught:
        say(made.notes[-1])
    say(f"mode {made.recipe.mode}: {trained:,} parameters trained; {samples}")


def _finish(job: Job, made: Made, source: Source, end: Position) -> Path:
    """Score and write the checkpoint, unless an earlier call did."""
    folder = job.run_dir / CHECKPOINT
    if (folder / MANIFEST).is_file():
        manifest, _ = read_manifest(folder)
    else:
        made = replace(made, largest_intensity=largest_intensity(made.train, made.recipe))  # scored as it will be served
        manifest = write_checkpoint(folder, job.run_dir, made, _score(made, source, job, end))
        shutil.rmtree(job.run_dir / CACHE, ignore_errors=True)
    for line in headlines(manifest):
        click.echo(line)
    click.echo(f"checkpoint in {folder}")
    return folder


def _score(made: Made, source: Source, job: Job, end: Position) -> Scores:
    """Score the epoch that is published, and on test the other candidate too, the weights rounded as they will be stored.

    Scores on the engine of the run, unless a finished one is called with another. Leaves the published weights in the net.
    """
    recipe, net = made.recipe, made.start.net
    test = source.test()
    if test is not None and class_names(test, recipe) != class_names(made.train, recipe):
        raise BadDataset("test and train name different classes", where=str(job.data))
    last = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    best = read_weights(job.run_dir / BEST)
    named = job.compute.engine
    engine = end.engine if named in (None, AUTO) else named
    published, other = (best, last) if recipe.chooses else (last, best)

    def score(state: dict[str, torch.Tensor], data: Data | None, without: tuple[str, ...] = ()) -> Report | None:
        if data is None or not len(data):
            return None
        net.load_state_dict({name: _rounded(tensor, recipe) for name, tensor in state.items()})
        predictor = Predictor(net, describe(made), job.device, engine)
        return report_on(predictor, data, recipe.task, miou_empty=recipe.miou_empty, without=without)

    if test is not None:
        click.echo(f"scoring on {counted(len(test), f'test {unit(recipe)}')}")
    epoch = end.best_epoch if recipe.chooses else end.epoch
    held = None if recipe.selection == "reference" else made.validation  # there the test data once more
    scores = Scores(score(published, test), score(published, held), recipe.chooses, epoch=epoch, epochs=end.epoch, runs=recipe.soup)
    scores = replace(scores, chosen_on_test=recipe.selection == "reference")
    if len(made.validation) and end.best_epoch != end.epoch and recipe.soup == 1:
        scores = replace(scores, other_test=score(other, test))
    bare = {column: score(published, test, (column,)) for column in columns_with_fill(recipe)}
    scores = replace(scores, test_without={column: report for column, report in bare.items() if report is not None})
    net.load_state_dict(published)
    return scores


def _rounded(tensor: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return tensor.half().float() if recipe.half and tensor.dim() > 1 else tensor
