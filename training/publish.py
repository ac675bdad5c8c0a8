"""A finished run as a checkpoint folder: weights, manifest, model card, metrics and curve."""

import json
import math
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template

import matplotlib as mpl

from models.checkpoint import save_checkpoint
from models.manifest import Manifest, Provenance
from training.datasets import LabelledClouds
from training.evaluate import ClassificationReport
from training.image_weights import DOWNLOADS
from training.recipe import Recipe
from training.run import Start
from training.runlog import read_scalars

DATA_LICENCES = {"modelnet40": "ModelNet40 (Princeton): academic use; the weights were trained on it"}
WEIGHT_LICENCES = {
    "cifar10_resnet": "CIFAR-10 ResNet weights of akamaster/pytorch_resnet_cifar10: BSD-2-Clause",
    "imagenet1k_": "ImageNet ResNet weights of facebookresearch/kill-the-bits: CC BY-NC 4.0",
    **{Path(download.url).stem: download.licence for download in DOWNLOADS.values()},
}

CARD = Template("""---
license: other
tags: [point-cloud-classification, sparse-convolution, image2point]
---
# $name

Classifies one point cloud into $num_classes classes. $origin

| test clouds | accuracy, last epoch (published) | accuracy, epoch best on validation | mean class accuracy, last epoch |
|---|---|---|---|
| $num_test | $last | $best | $mean_class |

The test split was read after training, for this table alone; $choices One seed, so the spread over seeds is not known.

![loss and validation accuracy](curve.png)

## Input
$points_note Voxels of $voxel_size, features $features. $normalise_note Up axis $up (`?up=` tells otherwise). Trained on
clean, whole objects, upright and facing the data set's way: partial scans, scenes and objects turned away from that are
outside what was measured.

## How it was made
| | |
|---|---|
| network | $network, $parameters parameters |
| 2D weights | $weights (sha256 `$weights_sha256`) |
| data | $dataset, $num_train training clouds (sha256 `$dataset_sha256`) |
| recipe | `recipe.yaml` (sha256 `$recipe_sha256`), seed $seed |
| code | $code_version, $created |

## Licences
$licences
""")


ORIGINS = {
    "image": "A 2D ResNet trained on images, inflated into a 3D sparse ConvNet and finetuned on point clouds (Image2Point, ECCV 2022), "
    "mode `$mode`.",
    "scratch": "A 3D sparse ResNet trained on point clouds from random weights: no image pretraining.",
    "random-frozen": "A control, not for use: a 3D sparse ResNet whose random stages stayed as they were, mode `$mode`.",
}


@dataclass(frozen=True)
class Scores:
    """Reports on the test split: of the published last epoch, and of the epoch that was best on validation."""

    last: ClassificationReport
    best: ClassificationReport


def describe(recipe: Recipe, start: Start, train: LabelledClouds, scores: Scores | None = None) -> Manifest:
    """The manifest of a net that was trained from `start` on `train`; without scores, `metrics` is empty."""
    image = start.image
    weights = image.name if image else None
    licences = [DATA_LICENCES.get(recipe.data.kind, f"{recipe.data.kind}: see its publishers")]
    if weights:
        known = [licence for prefix, licence in WEIGHT_LICENCES.items() if weights.startswith(prefix)]
        licences += known or [f"2D weights {weights}: licence not known here, ask whoever published them"]
    return Manifest(
        name=recipe.name,
        task="classify",
        network=start.spec,
        input=recipe.input,
        labels=train.names,
        metrics=_metrics(scores) if scores else {},
        provenance=Provenance(
            weights_2d=weights,
            weights_2d_sha256=image.sha256 if image else None,
            init=recipe.init,
            mode=recipe.mode,
            recipe=recipe.name,
            recipe_sha256=recipe.digest,
            seed=recipe.seed,
            dataset=recipe.data.kind,
            dataset_sha256=train.digest,
            code_version=code_version(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            licences=tuple(licences),
        ),
    )


def write_checkpoint(
    folder: Path, run_dir: Path, recipe: Recipe, start: Start, train: LabelledClouds, validation: int, scores: Scores
) -> Manifest:
    """Save the trained net of `start` with its card, recipe, metrics and curve. Returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = describe(recipe, start, train, scores)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    details = {**manifest.metrics, "class_accuracy": scores.last.class_accuracy, "epochs": read_scalars(run_dir)}
    (folder / "metrics.json").write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
    plot_curve(run_dir, folder / "curve.png")
    return save_checkpoint(folder, start.net, manifest, _card(manifest, start, scores, len(train), validation), half=recipe.half)


def plot_curve(run_dir: Path, path: Path) -> None:
    """Loss and validation accuracy over the epochs of a run."""
    mpl.use("Agg")
    from matplotlib.figure import Figure

    rows = read_scalars(run_dir)
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key in ((left, "loss"), (right, "val_accuracy")):
        axes.plot(epochs, [row.get(key, math.nan) for row in rows])
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


def _metrics(scores: Scores) -> dict[str, float]:
    return {
        "test_accuracy": scores.last.accuracy,
        "test_mean_class_accuracy": scores.last.mean_class_accuracy,
        "test_accuracy_best_validation_epoch": scores.best.accuracy,
        "test_clouds": float(len(scores.last.targets)),
    }


def _card(manifest: Manifest, start: Start, scores: Scores, num_train: int, num_validation: int) -> str:
    spec, made = manifest.input, manifest.provenance
    budget = f"Clouds of more than {spec.point_budget} points are sampled down to that, always the same way." if spec.point_budget else ""
    sphere = spec.normalise == "unit_sphere"
    return CARD.substitute(
        name=manifest.name,
        num_classes=len(manifest.labels),
        origin=Template(ORIGINS[made.init]).substitute(mode=made.mode),
        num_test=len(scores.last.targets),
        last=f"{scores.last.accuracy:.2%}",
        best=f"{scores.best.accuracy:.2%}",
        mean_class=f"{scores.last.mean_class_accuracy:.2%}",
        choices=f"choices were made on {num_validation} clouds held out of the train split." if num_validation else "nothing was held out.",
        points_note=budget,
        voxel_size=f"{spec.voxel_size:g} {'radii' if sphere else 'm'}",
        features=", ".join(feature.name for feature in spec.features),
        normalise_note="Clouds are centred on their mean and scaled to a unit sphere, so unit and place do not matter." if sphere else "",
        up=spec.up,
        network=manifest.network.name,
        parameters=f"{sum(parameter.numel() for parameter in start.net.parameters()):,}",
        weights=made.weights_2d or "none",
        weights_sha256=made.weights_2d_sha256 or "-",
        dataset=made.dataset,
        num_train=f"{num_train:,}",
        dataset_sha256=made.dataset_sha256,
        recipe_sha256=made.recipe_sha256,
        seed=made.seed,
        code_version=made.code_version,
        created=made.created,
        licences="\n".join(f"- {licence}" for licence in made.licences),
    )
