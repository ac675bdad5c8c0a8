"""A finished run as a checkpoint folder: weights, manifest, model card, metrics and curve."""

import json
import math
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl

from models.artefact import SCORES
from models.checkpoint import save_checkpoint
from models.labels import LabelMap
from models.manifest import Manifest, Provenance
from training.bodies import Body
from training.card import write_card
from training.card_parts import Scores, Story
from training.data import Data, class_names, label_map
from training.evaluate import Report, counted
from training.image_weights import DOWNLOADS
from training.recipe import Recipe
from training.run import Start
from training.runlog import read_scalars
from training.teaching import TaughtClouds

DATA_LICENCES = {
    "generated": "generated shapes: made by this project's own code (training/shapes), of nobody's data",
    "modelnet40": "ModelNet40 (Princeton): academic use; the weights were trained on it",
    "semantickitti": "KITTI: CC BY-NC-SA 3.0, SemanticKITTI labels: CC BY-NC-SA 4.0; the weights were trained on them",
    "nuscenes": "nuScenes and nuScenes-lidarseg: CC BY-NC-SA 4.0; the weights were trained on them",
    "s3dis": "S3DIS (Stanford): academic use; the weights were trained on it",
    "scannet": "ScanNet: its terms of use, research only; the weights were trained on it",
}
WEIGHT_LICENCES = {
    "cifar10_resnet": "CIFAR-10 ResNet weights of akamaster/pytorch_resnet_cifar10: BSD-2-Clause",
    "imagenet1k_": "ImageNet ResNet weights of facebookresearch/kill-the-bits: CC BY-NC 4.0",
    **{Path(download.url).stem: download.licence for download in DOWNLOADS.values()},
}


@dataclass(frozen=True)
class Made:
    """What a run was made from. name: of the model; dataset: of the data; engine: what it was computed on, if that is known.

    largest_intensity: of the training scenes, where the net reads intensities. taught: the clouds of `train` with those that a teacher
    spoke of, and teacher, which one it was.
    """

    name: str
    recipe: Recipe
    start: Start
    train: Data
    validation: Data
    dataset: str
    notes: tuple[str, ...] = ()
    engine: str | None = None
    largest_intensity: float | None = None
    taught: TaughtClouds | None = None
    teacher: str | None = None


def describe(made: Made, scores: Scores | None = None) -> Manifest:
    """The manifest of a net that was trained as `made` says; without scores, `metrics` is empty."""
    recipe, image = made.recipe, made.start.image
    return Manifest(
        name=made.name,
        task=recipe.task,
        network=made.start.spec,
        input=recipe.input,
        labels=class_names(made.train, recipe),
        label_map=_answers(label_map(made.train, recipe)),
        largest_intensity=made.largest_intensity,
        metrics=_metrics(scores) if scores else {},
        provenance=Provenance(
            weights_2d=image.name if image else None,
            weights_2d_sha256=image.sha256 if image else None,
            init=recipe.init,
            mode=recipe.mode,
            recipe=recipe.name,
            recipe_sha256=recipe.digest,
            seed=recipe.seed,
            dataset=made.dataset,
            dataset_sha256=made.train.digest,
            code_version=code_version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            licences=_licences(made),
            engine=made.engine,
            teacher=made.teacher,
        ),
    )


def write_checkpoint(folder: Path, run_dir: Path, made: Made, scores: Scores) -> Manifest:
    """Save the net of `made.start` as it is, with its card, recipe, metrics and curve. Returns the manifest.

    The folder appears when it is complete.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    manifest, net = describe(made, scores), made.start.net
    (part / "recipe.yaml").write_text(made.recipe.to_yaml(), encoding="utf-8")
    report = scores.test or scores.validation
    kind = "class_accuracy" if manifest.task == "classify" else "class_iou"
    details = {**manifest.metrics, kind: report.class_scores if report else {}, "epochs": read_scalars(run_dir)}
    (part / SCORES).write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
    plot_curve(run_dir, part / "curve.png", made.recipe)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    validation = None if scores.chosen_on_test else made.validation
    card = write_card(manifest, Story(made.recipe, made.train, validation, scores, parameters, made.notes, _body(made)))
    manifest = save_checkpoint(part, net, manifest, card, half=made.recipe.half)
    part.replace(folder)
    return manifest


def plot_curve(run_dir: Path, path: Path, recipe: Recipe) -> None:
    """Loss and validation score over the epochs; of several runs with a line where each ends."""
    mpl.use("Agg")
    from matplotlib.figure import Figure

    rows = read_scalars(run_dir)
    epochs = [row["epoch"] for row in rows]
    scores = [key for key in ("val_miou", "val_accuracy") if any(key in row for row in rows)]
    figure = Figure(figsize=(7, 3), layout="constrained")
    keys = ["loss", *scores[:1]]  # where nothing was held out there is no score to draw
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        axes.plot(epochs, [row.get(key, math.nan) for row in rows])
        for run in range(1, recipe.soup):
            axes.axvline(run * recipe.epochs + 0.5, color="grey", linestyle=":")
        axes.set_xlabel("epoch")
        axes.set_title(key.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def code_version() -> str:
    """The package version; with the commit where this file is tracked in a git checkout, marked if that has uncommitted changes."""
    here = Path(__file__).resolve()
    package = f"fip-server {version('fip-server')}"
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return package
    commit = _git(here.parent, "rev-parse", "--short=12", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{package}, commit {commit}{' with uncommitted changes' if changed else ''}"


def _git(folder: Path, *args: str) -> str | None:
    """What git prints, None where it fails or is absent."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _body(made: Made) -> Body | None:
    return made.start.image.body if made.start.image else None


def _licences(made: Made) -> tuple[str, ...]:
    data = made.recipe.data
    unknown = f"training data {made.dataset}: licence not stated; ask whoever published this model"
    licences = [data.licence or DATA_LICENCES.get(data.kind, unknown)]
    if body := _body(made):
        licences += [licence for licence in body.provenance.licences if licence not in licences]
    elif made.start.image:
        name = made.start.image.name
        known = [licence for prefix, licence in WEIGHT_LICENCES.items() if name.startswith(prefix)]
        licences += known or [f"weights {name}: licence not known here, ask whoever published them"]
    return tuple(licences)


def _metrics(scores: Scores) -> dict[str, float]:
    metrics: dict[str, float] = {"epoch": float(scores.epoch), "epochs": float(scores.epochs)}
    if scores.runs > 1:
        metrics["runs"] = float(scores.runs)
    for split, report in (("test", scores.test), ("validation", scores.validation)):
        if report is not None:
            metrics |= {f"{split}_{name}": value for name, value in report.numbers.items()}
    if scores.other_test is not None:
        name, value = leading(scores.other_test)
        metrics[f"test_{name}_{scores.other_name.replace(' ', '_')}"] = value
    for column, report in scores.test_without.items():
        name, value = leading(report)
        metrics[f"test_{name}_without_{column}"] = value
    return {name: value for name, value in metrics.items() if not math.isnan(value)}  # of scenes without classes


def _answers(classes: LabelMap | None) -> LabelMap | None:
    """The classes that a model answers with: groups of them are for training alone."""
    return classes.model_copy(update={"groups": ()}) if classes else None


def leading(report: Report) -> tuple[str, float]:
    """Name and value of the score that a report is judged by."""
    return next(iter(report.numbers.items()))


def headlines(manifest: Manifest) -> list[str]:
    """A line a split on how good a model is, from its metrics."""
    metrics, lines = manifest.metrics, []
    for split in ("test", "validation"):
        name = "miou" if f"{split}_miou" in metrics else "accuracy"
        if (score := metrics.get(f"{split}_{name}")) is None:
            continue
        spread = ""
        if f"{split}_{name}_low" in metrics:
            spread = f" (95 % interval {metrics[f'{split}_{name}_low']:.1%} to {metrics[f'{split}_{name}_high']:.1%})"
        unit, title = ("cloud", "accuracy") if name == "accuracy" else ("scene", "mIoU")
        many = counted(round(metrics[f"{split}_{unit}s"]), unit)
        kept = f"after epoch {metrics['epoch']:.0f}, whose weights are kept"
        if (runs := metrics.get("runs", 1)) > 1:
            kept = f"the mean of {runs:.0f} runs, which is kept"
        lines.append(f"{split} {title} {score:.2%} on {many}{spread}, {kept}")
    return lines
