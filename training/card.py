"""The model card: what a model is for, how good it is, how it was made and where its limits are, from the facts of its run.

`models.registry.verify` checks that a card carries the facts of its manifest; the wording is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import numpy as np

from models.manifest import InputSpec, Manifest
from training.datasets import Clouds
from training.evaluate import ClassificationReport

CLASSES_SHOWN = 100
WEAKEST_SHOWN = 5
CLOUDS_TO_JUDGE = 5  # of a class

CARD = Template("""---
license: other
tags: [point-cloud-classification, sparse-convolution, image2point]
---
# $name

$origin

## Intended use
Naming one point cloud as one of $num_classes classes: $classes. $input

## Scores
| split | clouds | accuracy (95 % interval) | mean class accuracy |
|---|---|---|---|
$scores

$choices The intervals are Wilson's, over the clouds of the split. This is one run with one seed: the spread over seeds is not known.
$weakest

![loss and validation accuracy over the epochs](curve.png)

## Data
$data

## Limits
$limits

## Provenance
| | |
|---|---|
| network | $network, $parameters parameters |
| 2D weights | $weights |
| training data | $dataset (sha256 `$dataset_sha256`) |
| recipe | `recipe.yaml`, made from $recipe (sha256 `$recipe_sha256`), mode $mode, seed $seed |
| code | $code_version, $created |
| engine | $engine |

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
    """Reports of the published weights, each None where there are no clouds.

    best_published: whether they are those of the epoch best on validation (else of the last); other_test: the test report of
    the other of the two. epoch: which of the `epochs` that were trained is published.
    """

    test: ClassificationReport | None
    validation: ClassificationReport | None
    best_published: bool = False
    other_test: ClassificationReport | None = None
    epoch: int = 0
    epochs: int = 0

    @property
    def other_name(self) -> str:
        return "last epoch" if self.best_published else "best validation epoch"


@dataclass(frozen=True)
class Story:
    """What a card needs beside the manifest. notes: what was found in the data that its user must know."""

    train: Clouds
    validation: Clouds
    scores: Scores
    num_parameters: int
    notes: tuple[str, ...] = ()


def write_card(manifest: Manifest, story: Story) -> str:
    """The card as Markdown."""
    made, scores = manifest.provenance, story.scores
    weights = f"{made.weights_2d} (sha256 `{made.weights_2d_sha256}`)" if made.weights_2d else "none"
    return CARD.substitute(
        name=manifest.name,
        origin=Template(ORIGINS[made.init]).substitute(mode=made.mode),
        num_classes=len(manifest.labels),
        classes=_listed(manifest.labels),
        input=_input(manifest.input),
        scores="\n".join(_score_rows(scores)),
        choices=_choices(scores, len(story.validation)),
        weakest=_weakest(scores.test or scores.validation),
        data=_data(manifest, story),
        limits="\n".join(f"- {limit}" for limit in _limits(manifest, story)),
        network=_network(manifest),
        parameters=f"{story.num_parameters:,}",
        weights=weights,
        dataset=_cell(made.dataset),
        dataset_sha256=made.dataset_sha256,
        recipe=made.recipe,
        recipe_sha256=made.recipe_sha256,
        mode=made.mode,
        seed=made.seed,
        code_version=made.code_version,
        created=made.created,
        engine=made.engine or "not recorded",
        licences="\n".join(f"- {licence}" for licence in made.licences),
    )


def _network(manifest: Manifest) -> str:
    axis = manifest.network.tied
    return f"{manifest.network.name}, filters of the stages tied along {axis}" if axis else manifest.network.name


def _score_rows(scores: Scores) -> list[str]:
    kind = "best on validation" if scores.best_published else "the last"
    published = f"epoch {scores.epoch} of {scores.epochs}, {kind} (published)"
    rows = [(f"test, {published}", scores.test), (f"test, {scores.other_name}", scores.other_test)]
    rows.append((f"validation, {published}", scores.validation))
    lines = []
    for title, report in rows:
        if report is not None:
            low, high = report.interval
            accuracy = f"{report.accuracy:.2%} ({low:.1%} to {high:.1%})"
            lines.append(f"| {title} | {len(report.targets):,} | {accuracy} | {report.mean_class_accuracy:.2%} |")
    return lines or ["| none | 0 | not measured | |"]


def _choices(scores: Scores, num_validation: int) -> str:
    tested = (
        "The test clouds were scored after training, for this table alone; before, they were at most looked through for damage and copies."
        if scores.test
        else "There were no test clouds."
    )
    if not num_validation:
        return f"{tested} Nothing was held out for validation."
    held = "The validation clouds are a part of the train split that was held out;"
    if scores.best_published:
        return f"{tested} {held} the published epoch was chosen on them, which flatters its score there."
    return f"{tested} {held} the published epoch was not chosen on them."


def _weakest(report: ClassificationReport | None) -> str:
    """A sentence on the classes that it knows worst, of those with enough clouds to say so."""
    rest = "Every class and every epoch: `metrics.json`."
    if report is None:
        return rest
    counts = np.bincount(report.targets, minlength=len(report.names))
    counted = [(share, name) for name, share in report.class_accuracy.items() if counts[report.names.index(name)] >= CLOUDS_TO_JUDGE]
    below = [f"{_cell(name)} {share:.0%}" for share, name in sorted(counted)[:WEAKEST_SHOWN] if share < 1]
    return f"Weakest classes: {', '.join(below)}. {rest}" if below else rest


def _input(spec: InputSpec) -> str:
    sphere = spec.normalise == "unit_sphere"
    size = f"{spec.voxel_size:g} of the object's radius" if sphere else f"{spec.voxel_size:g} m"
    parts = [f"Its points become voxels of {size} with the features"]
    parts.append(", ".join(feature.name for feature in spec.features) + ";")
    if sphere:
        parts.append("clouds are centred on their mean and scaled to a unit sphere, so unit and place do not matter;")
    if spec.point_budget:
        parts.append(f"those of more than {spec.point_budget:,} points are sampled down to that, always the same way;")
    parts.append(f"the up axis is {spec.up} (`?up=` tells otherwise).")
    return " ".join(parts)


def _data(manifest: Manifest, story: Story) -> str:
    names, tested = manifest.labels, story.scores.test
    parts = {"train": story.train.targets, "validation": story.validation.targets}
    if tested is not None:
        parts["test"] = tested.targets
    counts = {part: np.bincount(targets, minlength=len(names)) for part, targets in parts.items() if len(targets)}
    said = ", ".join(f"{count.sum():,} {part}" for part, count in counts.items())
    lines = [f"{_cell(manifest.provenance.dataset)}: {said} clouds.", *(f"- {note}" for note in story.notes), ""]
    lines += [f"| class | {' | '.join(counts)} |", "|---" * (1 + len(counts)) + "|"]
    for target, name in enumerate(names[:CLASSES_SHOWN]):
        lines.append(f"| {_cell(name)} | {' | '.join(str(count[target]) for count in counts.values())} |")
    if len(names) > CLASSES_SHOWN:
        lines.append(f"| and {len(names) - CLASSES_SHOWN} more |{' |' * len(counts)}")
    return "\n".join(lines)


def _limits(manifest: Manifest, story: Story) -> list[str]:
    limits = [
        "It knows no other answer than its classes: whatever it is shown gets one of them, often with a high score.",
        "It was trained on one object a cloud, upright and facing as in the training data; objects turned away from that, parts of "
        "objects and scenes are outside what was measured.",
        "Scores are softmax values, not calibrated probabilities.",
    ]
    fewest = int(np.bincount(story.train.targets, minlength=len(manifest.labels)).min())
    if fewest < 100:
        limits.append(f"The rarest class was learnt from {fewest} clouds.")
    if manifest.input.point_budget:
        limits.append(f"Clouds of far fewer than {manifest.input.point_budget:,} points are sparser than what it learnt from.")
    if manifest.provenance.init == "random-frozen":
        limits.append("Its stages are random numbers: it exists to be compared with.")
    return limits


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_cell(name) for name in names[:CLASSES_SHOWN])
    return shown + (f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else "")


def _cell(text: str) -> str:
    """A class name (of a folder, so anything) as text in a Markdown table."""
    return "".join(f"\\{char}" if char in "\\|`*_[]<>" else char for char in text if char.isprintable())
