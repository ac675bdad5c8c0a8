"""What a card says of a model that names whole clouds."""

from typing import cast

import numpy as np

from models.manifest import Manifest
from training.augment import AugmentSpec
from training.card_parts import CLASSES_SHOWN, Scores, Story, cell, input_words, weakest_words
from training.datasets import Clouds
from training.evaluate import ClassificationReport, Report, counted

TAG, UNITS = "point-cloud-classification", "clouds"
INTERVALS = "The intervals are Wilson's, over the clouds of the split."
CLOUDS_TO_JUDGE = 5  # of a class


def intended(manifest: Manifest, classes: str) -> str:
    return f"Naming one point cloud as one of {len(manifest.labels)} classes: {classes}. {input_words(manifest.input)}"


def score_table(scores: Scores) -> str:
    lines = ["| split | clouds | accuracy (95 % interval) | mean class accuracy |", "|---|---|---|---|"]
    for title, report in scores.rows:
        found = cast(ClassificationReport, report)
        low, high = found.interval
        accuracy = f"{found.accuracy:.2%} ({low:.1%} to {high:.1%})"
        lines.append(f"| {title} | {len(found.targets):,} | {accuracy} | {found.mean_class_accuracy:.2%} |")
    return "\n".join(lines if scores.rows else [*lines, "| none | 0 | not measured | |"])


def weakest(report: Report | None) -> str:
    """Of the classes with enough clouds to judge by."""
    if report is None:
        return weakest_words([])
    found = cast(ClassificationReport, report)
    counts = np.bincount(found.targets, minlength=len(found.names))
    scores = found.class_accuracy.items()
    return weakest_words([(share, name) for name, share in scores if counts[found.names.index(name)] >= CLOUDS_TO_JUDGE])


def data(manifest: Manifest, story: Story) -> str:
    names, tested = manifest.labels, cast(ClassificationReport | None, story.scores.test)
    parts = {"train": cast(Clouds, story.train).targets}
    if story.validation is not None:
        parts["validation"] = cast(Clouds, story.validation).targets
    if tested is not None:
        parts["test"] = tested.targets
    counts = {part: np.bincount(targets, minlength=len(names)) for part, targets in parts.items() if len(targets)}
    said = ", ".join(f"{count.sum():,} {part}" for part, count in counts.items())
    lines = [f"{cell(manifest.provenance.dataset)}: {said} clouds.", *(f"- {note}" for note in story.notes), ""]
    lines += [f"| class | {' | '.join(counts)} |", "|---" * (1 + len(counts)) + "|"]
    for target, name in enumerate(names[:CLASSES_SHOWN]):
        lines.append(f"| {cell(name)} | {' | '.join(str(count[target]) for count in counts.values())} |")
    if len(names) > CLASSES_SHOWN:
        lines.append(f"| and {len(names) - CLASSES_SHOWN} more |{' |' * len(counts)}")
    return "\n".join(lines)


def limits(manifest: Manifest, story: Story) -> list[str]:
    said = [
        "It knows no other answer than its classes: whatever it is shown gets one of them, often with a high score.",
        f"It was trained on one object a cloud, {seen(story.recipe.augment)}. Its scores are of clouds as they are in the data: objects "
        "that are turned, cut or bent otherwise, and scenes, are outside what they tell.",
        "Scores are softmax values, not calibrated probabilities.",
    ]
    fewest = int(np.bincount(cast(Clouds, story.train).targets, minlength=len(manifest.labels)).min())
    if fewest < 100:
        said.append(f"The rarest class was learnt from {counted(fewest, 'cloud')}.")
    if manifest.input.point_budget:
        fewest_points = round(manifest.input.point_budget * (1 - story.recipe.augment.cut) * (1 - story.recipe.augment.drop))
        said.append(f"Clouds of far fewer than {fewest_points:,} points are sparser than what it learnt from.")
    return said


def seen(spec: AugmentSpec) -> str:
    """How training clouds stood, and what was missing of them or strewn in."""
    words = [f"leaning by up to {spec.tilt_deg:g}°" if spec.tilt_deg else "upright"]
    share = spec.p_rotate if spec.rotate_deg else 0.0
    if share:
        words.append(f"{'' if share == 1 else f'{share:.0%} of the clouds '}turned about the up axis by up to {spec.rotate_deg:g}°")
    if share < 1:
        words.append(f"{'the others ' if share else ''}facing as in the data")
    if spec.flip or spec.mirror:
        words.append("some mirrored")
    if spec.warp:
        words.append("some bent")
    if spec.drop:
        words.append(f"thinned by up to {spec.drop:.0%}")
    if spec.cut:
        words.append(f"{_some(spec.p_cut)}without up to {spec.cut:.0%} of the points at one side")
    if spec.strays:
        words.append(f"{_some(spec.p_strays)}with up to {spec.strays:.0%} strays within its ball")
    return ", ".join(words)


def _some(share: float) -> str:
    return "" if share == 1 else f"{share:.0%} "
