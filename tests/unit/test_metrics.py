"""Scores of a segmentation against torchmetrics, the rules of SemanticKITTI's evaluator, and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from models.labels import IGNORE
from training.metrics import Confusion, interval

EXACT = 1e-6
Points = tuple[np.ndarray, np.ndarray]  # predicted, targets (N,)


def points(rng: np.random.Generator, classes: int, num_points: int = 500, said=None, true=None) -> Points:
    """Predictions and targets of N points, a tenth of them ignored, half of the rest right. said, true: the classes that occur in each."""
    targets = rng.choice(np.arange(classes) if true is None else true, num_points)
    predicted = rng.choice(np.arange(classes) if said is None else said, num_points)
    right = (rng.random(num_points) < 0.5) & np.isin(targets, predicted)
    predicted = np.where(right, targets, predicted)
    return predicted.astype(np.uint16), np.where(rng.random(num_points) < 0.1, IGNORE, targets).astype(np.int64)


CASES = {
    "all classes": {},
    "absent": {"said": [0, 1, 2, 4], "true": [0, 1, 2, 4]},
    "never predicted": {"said": [0, 1, 2, 4], "true": [0, 1, 2, 3, 4]},
    "predicted, but absent": {"said": [0, 1, 2, 3, 4], "true": [0, 1, 2, 4]},
    "one class": {"said": [2], "true": [2]},
    "nothing right": {"said": [0, 1], "true": [2, 3]},
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Points:
    return points(np.random.default_rng(7), 5, **CASES[request.param])


def semantickitti(predicted: np.ndarray, targets: np.ndarray, classes: int) -> tuple[float, np.ndarray, float]:
    """Mean IoU, IoU and accuracy by the rules of semantic-kitti-api's evaluator, written anew from sets of points.

    Its label 0 is ignored and our class c is its label c + 1. A wrong answer on an ignored point is held against no class.
    """
    labels, answers = targets + 1, predicted.astype(np.int64) + 1
    ious, right, answered = [], 0, 0
    for label in range(1, classes + 1):
        true = {i for i in range(len(labels)) if labels[i] == label}
        said = {i for i in range(len(labels)) if answers[i] == label and labels[i] != 0}
        ious.append(len(true & said) / (len(true | said) + 1e-15))
        right += len(true & said)
        answered += len(said)
    return float(np.mean(ious)), np.array(ious), right / (answered + 1e-15)


def check_torchmetrics(predicted: np.ndarray, targets: np.ndarray, classes: int) -> None:
    confusion = Confusion.of(predicted, targets, classes)
    mine = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(targets)
    iou, miou = (multiclass_jaccard_index(*mine, classes, average=each, ignore_index=IGNORE) for each in ("none", "macro"))
    overall, mean = (multiclass_accuracy(*mine, classes, average=each, ignore_index=IGNORE) for each in ("micro", "macro"))
    assert np.nan_to_num(confusion.iou) == pytest.approx(iou.numpy(), abs=EXACT)
    assert confusion.miou == pytest.approx(float(miou), abs=EXACT)
    assert confusion.accuracy == pytest.approx(float(overall), abs=EXACT)
    assert confusion.mean_accuracy == pytest.approx(float(mean), abs=EXACT)


def check_semantickitti(predicted: np.ndarray, targets: np.ndarray, classes: int) -> None:
    confusion = Confusion.of(predicted, targets, classes)
    miou, iou, accuracy = semantickitti(predicted, targets, classes)
    assert confusion.mean_iou("zero") == pytest.approx(miou, abs=EXACT)
    assert np.nan_to_num(confusion.iou) == pytest.approx(iou, abs=EXACT)
    assert confusion.accuracy == pytest.approx(accuracy, abs=EXACT)


def test_scores_are_those_of_torchmetrics(case: Points) -> None:
    check_torchmetrics(*case, 5)


def test_scores_are_those_of_semantickitti(case: Points) -> None:
    check_semantickitti(*case, 5)


@given(st.data(), st.integers(1, 6))
def test_scores_are_theirs_for_any_points(data: st.DataObject, classes: int) -> None:
    length = data.draw(st.integers(1, 40))
    predicted = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=length, max_size=length)), np.uint16)
    targets = np.array(data.draw(st.lists(st.integers(IGNORE, classes - 1), min_size=length, max_size=length)), np.int64)
    targets[0] = data.draw(st.integers(0, classes - 1))  # one point counts: of none there is no score
    if classes > 1:  # torchmetrics refuses one class
        check_torchmetrics(predicted, targets, classes)
    check_semantickitti(predicted, targets, classes)


def test_scores_by_hand() -> None:
    """Class 0: 2 of 3 right and 1 said wrongly. 1: 1 of 2. 2: absent. 3: predicted once, absent. 4: one point, missed."""
    predicted = np.array([0, 0, 1, 1, 0, 3, 0], np.int64)
    targets = np.array([0, 0, 0, 1, 1, 4, IGNORE], np.int64)
    confusion = Confusion.of(predicted, targets, 5)
    assert confusion.iou[[0, 1, 3, 4]] == pytest.approx([2 / 4, 1 / 3, 0, 0])
    assert math.isnan(confusion.iou[2])
    assert confusion.present.tolist() == [True, True, False, True, True]
    assert confusion.ground_truth.tolist() == [True, True, False, False, True]
    assert confusion.miou == pytest.approx((1 / 2 + 1 / 3) / 4)
    assert confusion.mean_iou("zero") == pytest.approx((1 / 2 + 1 / 3) / 5)
    assert confusion.mean_iou("one") == pytest.approx((1 / 2 + 1 / 3 + 1 + 1) / 5)
    assert confusion.accuracy == pytest.approx(3 / 6)
    assert confusion.mean_accuracy == pytest.approx((2 / 3 + 1 / 2) / 4)
    assert confusion.num_points == 6


@pytest.mark.parametrize(("meant", "reported"), [(51.64, 55.09), (53.28, 56.62)])
def test_one_ignored_class_of_fourteen_counts_as_one_in_the_reference(meant: float, reported: float) -> None:
    """S3DIS there: class 10 is ignored. Of every other, 2 d points are right and e taken for the next: IoU = d / (d + e)."""
    classes = [each for each in range(14) if each != 10]
    right = round(meant * 100)
    missed = 10_000 - right
    targets = np.repeat(classes, 2 * right + missed)
    given = np.stack([classes, np.roll(classes, -1)], axis=1).ravel()
    predicted = np.repeat(given, [2 * right, missed] * 13)
    ignored = np.full(1000, IGNORE)
    confusion = Confusion.of(np.append(predicted, np.full(1000, 3)), np.append(targets, ignored), 14)
    assert round(100 * confusion.miou, 2) == meant
    assert round(100 * confusion.mean_iou("one"), 2) == reported


def test_a_sum_of_frames_is_the_frames_together() -> None:
    rng = np.random.default_rng(3)
    frames = [points(rng, 6, num_points=n) for n in (10, 300, 4000)]
    total = sum((Confusion.of(*frame, 6) for frame in frames), Confusion.none(6))
    together = Confusion.of(np.concatenate([said for said, _ in frames]), np.concatenate([true for _, true in frames]), 6)
    assert np.array_equal(total.counts, together.counts)
    assert total.counts.dtype == np.int64
    assert total.num_points == sum((targets != IGNORE).sum() for _, targets in frames)


def test_counts_beyond_32_bits() -> None:
    frame = Confusion(np.diag([3_000_000_000, 1]) + np.array([[0, 1], [0, 0]]))
    assert (frame + frame).counts[0, 0] == 6_000_000_000
    assert (frame + frame).accuracy == pytest.approx(1 - 2 / 6_000_000_004)


def test_no_point_counts() -> None:
    confusion = Confusion.of(np.array([0, 1]), np.array([IGNORE, IGNORE]), 2)
    assert not confusion.present.any()
    scores = [confusion.miou, confusion.mean_iou("one"), confusion.mean_iou("zero"), confusion.accuracy, confusion.mean_accuracy]
    assert all(math.isnan(score) for score in scores)


@pytest.mark.parametrize(
    ("predicted", "targets", "message"),
    [
        ([0, 1], [0], "predicted (2,), targets (1,)"),
        ([[0]], [[0]], "one class per point"),
        ([0, 3], [0, 1], "predicted must be in [0, 3), found 3 at point 1"),
        ([0, IGNORE], [0, 1], "predicted must be in [0, 3), found -1 at point 1"),
        ([0, 1], [-2, 1], "targets must be in [-1, 3), found -2 at point 0"),
        ([0, 1], [0, 255], "targets must be in [-1, 3), found 255 at point 1"),
    ],
)
def test_what_is_no_class_is_refused(predicted: list, targets: list, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")):
        Confusion.of(np.array(predicted), np.array(targets), 3)


def test_other_numbers_of_classes_do_not_add() -> None:
    with pytest.raises(ValueError, match="of 2 and of 3 classes"):
        Confusion.none(2) + Confusion.none(3)


def test_the_interval_is_seeded_and_grows_with_what_differs_between_frames() -> None:
    rng = np.random.default_rng(5)
    frames = [Confusion.of(*points(rng, 4, num_points=2000), 4) for _ in range(8)]
    total = sum(frames, Confusion.none(4))
    low, high = interval(frames, seed=0)
    assert low < total.miou < high
    assert interval(frames, seed=0) == (low, high)
    assert interval(frames, seed=1) != (low, high)
    assert interval(frames[:1] * 8, seed=0) == (frames[0].miou, frames[0].miou)
    good, bad = Confusion(np.diag([100, 100])), Confusion(np.array([[0, 100], [100, 0]]))
    assert interval([good, bad] * 4, seed=0, score=lambda frames: frames.accuracy) == pytest.approx((0.125, 0.875), abs=0.13)


def test_an_interval_needs_frames() -> None:
    with pytest.raises(ValueError, match="no frames"):
        interval([], seed=0)
