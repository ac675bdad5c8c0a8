"""Losses against torch's own, and the Lovász-softmax loss against its definition."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from models.labels import IGNORE, OPEN
from training.losses import batch_loss, lovasz_softmax

B = 3
GENERATOR = torch.Generator().manual_seed(0)


def answers(count: int = 40, classes: int = 4, ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(count, classes, generator=GENERATOR)
    targets = torch.randint(0, classes, (count,), generator=GENERATOR)
    return logits, torch.where(torch.rand(count, generator=GENERATOR) < ignored, IGNORE, targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_b_scenes_is_b_times_its_mean_over_what_has_a_class(smoothing: float) -> None:
    logits, targets = answers()
    expected = B * cross_entropy(logits, targets, ignore_index=IGNORE, label_smoothing=smoothing)
    torch.testing.assert_close(batch_loss(logits, targets, B, label_smoothing=smoothing), expected)
    counted = targets != IGNORE
    assert 0 < counted.sum() < len(targets)
    torch.testing.assert_close(batch_loss(logits[counted], targets[counted], B, label_smoothing=smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_clouds_is_the_plain_sum_to_the_bit(smoothing: float, weighted: bool) -> None:
    """One answer a cloud: nothing but torch's sum, so that runs of classifiers stay what they were."""
    logits, targets = answers(ignored=0)
    weights = torch.rand(4, generator=GENERATOR) if weighted else None
    expected = cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="sum")
    assert batch_loss(logits, targets, len(targets), label_smoothing=smoothing, weights=weights).equal(expected)
    gradients = []
    for loss in (lambda x: batch_loss(x, targets, 40, weights=weights), lambda x: cross_entropy(x, targets, weights, reduction="sum")):
        leaf = logits.clone().requires_grad_()
        loss(leaf).backward()
        gradients.append(leaf.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert gradients[0].equal(gradients[1])


def test_weights_multiply_what_a_class_costs() -> None:
    logits, targets = answers()
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5])
    each = cross_entropy(logits, targets.clamp(min=0), reduction="none")
    counted = targets != IGNORE
    expected = B * (each * weights[targets])[counted].sum() / counted.sum()
    torch.testing.assert_close(batch_loss(logits, targets, B, weights=weights), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_a_class_costs_nothing_and_moves_nothing(dtype: torch.dtype) -> None:
    logits = torch.randn(7, 4, dtype=dtype, generator=GENERATOR, requires_grad=True)
    loss = batch_loss(logits, torch.full((7,), IGNORE), B, label_smoothing=0.1, weights=torch.ones(4), lovasz=1.0)
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_ignored_answers_get_no_gradient() -> None:
    logits, targets = answers()
    logits.requires_grad_()
    batch_loss(logits, targets, B, lovasz=1.0).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert moved.tolist() == (targets != IGNORE).tolist()


def test_lovasz_comes_on_top() -> None:
    logits, targets = answers()
    counted = targets != IGNORE
    surrogate = lovasz_softmax(logits[counted].softmax(1), targets[counted], range(4))
    expected = batch_loss(logits, targets, B) + 0.7 * B * surrogate
    torch.testing.assert_close(batch_loss(logits, targets, B, lovasz=0.7), expected)
    assert surrogate > 0.1


class Asking(TorchDispatchMode):
    """Raises where a device would be waited for: numbers read from it, and results as long as their values say."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "nonzero", "unique_dim", "_unique2", "masked_select", "bincount"), name
        assert not (name.startswith("index") and any(each is not None and each.dtype == torch.bool for each in args[1])), "rows of a mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lovasz", [0.0, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_no_answer_is_waited_for_where_it_is_known_what_occurs(lovasz: float, grouped: bool) -> None:
    """And the loss is the same."""
    logits, targets = answers()
    groups = torch.tensor([[True, True, False, False], [False, True, True, True]]) if grouped else None
    if grouped:
        targets[:6] = torch.tensor([OPEN, OPEN - 1] * 3)
    occurring = targets.unique().tolist()
    kind: dict[str, Any] = {"label_smoothing": 0.1, "weights": torch.rand(4, generator=GENERATOR), "lovasz": lovasz, "groups": groups}
    logits.requires_grad_()
    with Asking():
        found = batch_loss(logits, targets, B, occurring=occurring, **kind)
        found.backward()
    torch.testing.assert_close(found, batch_loss(logits, targets, B, **kind), rtol=0, atol=0)
    with pytest.raises(AssertionError, match="_unique2"), Asking():
        batch_loss(logits, targets, B, **kind)


# Lovász-softmax


def jaccard_loss(wrong: set[int], inside: set[int]) -> float:
    """1 - IoU of a class that has the points `inside`, if exactly the points `wrong` are wrong about it."""
    return len(wrong) / len(inside | wrong) if wrong else 0.0


def by_definition(scores: np.ndarray, targets: np.ndarray) -> float:
    """Equation 9 of the paper: the extension of the Jaccard loss, a sum over prefixes of the points from the worst error down."""
    losses = []
    for target in sorted(set(targets.tolist())):
        inside = {row for row in range(len(targets)) if targets[row] == target}
        errors = [1 - scores[row, target] if row in inside else scores[row, target] for row in range(len(targets))]
        order = sorted(range(len(targets)), key=lambda row: -errors[row])
        losses.append(
            math.fsum(
                errors[row] * (jaccard_loss(set(order[: rank + 1]), inside) - jaccard_loss(set(order[:rank]), inside))
                for rank, row in enumerate(order)
            )
        )
    return float(np.mean(losses))


@pytest.mark.parametrize("seed", range(6))
def test_lovasz_is_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(5), size=30)
    targets = rng.integers(0, 5 - seed % 3, 30)  # some classes may be absent
    occurring = np.unique(targets).tolist()
    found = lovasz_softmax(torch.from_numpy(scores), torch.from_numpy(targets), occurring)
    assert found.item() == pytest.approx(by_definition(scores, targets), abs=1e-12)
    narrow = lovasz_softmax(torch.from_numpy(scores).float(), torch.from_numpy(targets), occurring)
    assert narrow.item() == pytest.approx(found.item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_of_hard_answers_lovasz_is_one_minus_the_iou(seed: int) -> None:
    """Where every score is 0 or 1, the surrogate is what it stands for: the mean over the classes that occur."""
    rng = np.random.default_rng(seed)
    predicted, targets = rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    scores = torch.nn.functional.one_hot(torch.from_numpy(predicted), 4).double()
    ious = [
        ((predicted == target) & (targets == target)).sum() / ((predicted == target) | (targets == target)).sum()
        for target in np.unique(targets)
    ]
    assert lovasz_softmax(scores, torch.from_numpy(targets), np.unique(targets).tolist()).item() == pytest.approx(
        1 - np.mean(ious), abs=1e-12
    )


def test_lovasz_of_right_and_of_wrong_answers() -> None:
    targets = torch.tensor([0, 1, 1, 2])
    right = torch.nn.functional.one_hot(targets, 3).double()
    assert lovasz_softmax(right, targets, range(3)).item() == 0
    assert lovasz_softmax(right.roll(1, dims=1), targets, range(3)).item() == 1


def test_gradients() -> None:
    """In double precision, against differences; no two errors are equal, where the surrogate has an edge."""
    targets = torch.tensor([0, 1, 1, 2, 0, 2, 1])
    logits = torch.randn(7, 3, dtype=torch.float64, generator=GENERATOR, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x.softmax(1), targets, range(3)), (logits,))
