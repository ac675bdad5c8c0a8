"""What a card says of a model that names every point."""

from typing import cast

import numpy as np

from models.manifest import Manifest
from training.card_parts import CLASSES_SHOWN, Scores, Story, cell, input_words, weakest_words
from training.evaluate import Report, SegmentationReport, counted

TAG, UNITS = "point-cloud-segmentation", "scenes"
INTERVALS = (
    "The intervals are of draws, with replacement, of the scenes themselves: few scenes, or successive ones of one place, say little "
    "of others."
)
FEW_SCENES = 100
COLUMN_NAMES = {"rgb": "colour", "intensity": "intensity"}


def intended(manifest: Manifest, classes: str) -> str:
    filled = [feature.name for feature in manifest.input.features if feature.fill is not None]
    lacking = f" Files may lack {', '.join(filled)}: the answer then says that it was filled in." if filled else ""
    how = {"nearest": "the class of its voxel", "trilinear": "a mean of the voxels around it"}[manifest.input.devoxelize]
    words = input_words(manifest.input)
    return f"Naming every point of a cloud as one of {len(manifest.labels)} classes: {classes}. {words} Every point gets {how}.{lacking}"


def score_table(scores: Scores) -> str:
    lines = ["| split | scenes | labelled points | mIoU (95 % interval) | accuracy | mean class accuracy |", "|---|---|---|---|---|---|"]
    for title, report in scores.rows:
        found = cast(SegmentationReport, report)
        total = found.total
        if not total.num_points:
            lines.append(f"| {title} | {len(found.confusions)} | 0 | not measured: no point has a class | | |")
            continue
        spread = " ({:.1%} to {:.1%})".format(*found.interval) if found.interval else ""
        shares = f"{found.miou:.2%}{spread} | {total.accuracy:.2%} | {total.mean_accuracy:.2%}"
        lines.append(f"| {title} | {len(found.confusions)} | {total.num_points:,} | {shares} |")
    return "\n".join(lines if scores.rows else [*lines, "| none | 0 | 0 | not measured | | |"])


def weakest(report: Report | None) -> str:
    return weakest_words([] if report is None else [(iou, name) for name, iou in report.class_scores.items()])


def data(manifest: Manifest, story: Story) -> str:
    """The split, and the points and the score of every class."""
    tested = cast(SegmentationReport | None, story.scores.test)
    train = story.train_points
    said = [f"{len(story.train)} to train"]
    said += [f"{len(story.validation)} to validate"] if story.validation is not None and len(story.validation) else []
    said += [f"{len(tested.confusions)} to test"] if tested else []
    lines = [f"{cell(manifest.provenance.dataset)}: {', '.join(said)} scenes.", *(f"- {note}" for note in story.notes), ""]
    lines += ["| class | points to train on | points to test on | test IoU |", "|---|---|---|---|"]
    for index, name in enumerate(manifest.labels[:CLASSES_SHOWN]):
        count, iou = (tested.total.counts[index].sum(), tested.total.iou[index]) if tested else (0, np.nan)
        lines.append(f"| {cell(name)} | {train[index]:,} | {count:,} | {'–' if np.isnan(iou) else f'{iou:.1%}'} |")
    if len(manifest.labels) > CLASSES_SHOWN:
        lines.append(f"| and {len(manifest.labels) - CLASSES_SHOWN} more | | | |")
    return "\n".join(lines)


def limits(manifest: Manifest, story: Story) -> list[str]:
    train = story.train_points
    unseen = [cell(name) for name, count in zip(manifest.labels, train, strict=True) if not count]
    said = [
        "It knows no other answer than its classes: every point gets one of them, whatever it belongs to.",
        "It was trained on scenes like those of its data, in their sensor's frame, metres and density; other sensors, heights and places "
        "are outside what was measured.",
        "Confidences are softmax values, not calibrated probabilities.",
    ]
    if unseen:
        said.append(f"Never seen in training, so never to be trusted: {', '.join(unseen)}.")
    if len(story.train) < FEW_SCENES:
        said.append(f"It learnt from {counted(len(story.train), 'scene')}, which is few.")
    for column, report in story.scores.test_without.items():
        found = cast(SegmentationReport, report)
        if found.total.num_points:
            said.append(f"Without {COLUMN_NAMES[column]} its mIoU on the test scenes is {found.miou:.2%}.")
    return said
