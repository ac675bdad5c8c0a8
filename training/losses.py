"""What training makes small. S answers of a net for B samples, L classes."""

from collections.abc import Sequence

import torch
from torch import nn

from models.labels import IGNORE, OPEN


def batch_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    samples: int,
    *,
    label_smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
    lovasz: float = 0.0,
    groups: torch.Tensor | None = None,
    occurring: Sequence[int] | None = None,
) -> torch.Tensor:
    """The loss of a batch of B samples, B times its mean over what counts: logits (S, L), targets (S,) with IGNORE, or (S, L) shares.

    Cross entropy, weights (L,) multiplying that of each class, and `lovasz` times the Lovász-softmax loss. A target OPEN - g asks
    for any class of group g: minus the logarithm of their summed probability; groups (G, L) bool. occurring: the different targets,
    ascending, where they are known without asking the device that has them.
    """
    logits = logits.float()
    if targets.is_floating_point():
        return nn.functional.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum") * (
            samples / max(len(targets), 1)
        )
    there = targets.unique().tolist() if occurring is None else occurring
    exact, is_open = targets >= 0, targets <= OPEN
    loss = nn.functional.cross_entropy(
        logits, targets.where(exact, IGNORE), weights, ignore_index=IGNORE, label_smoothing=label_smoothing, reduction="sum"
    )
    if groups is not None and any(target <= OPEN for target in there):
        allowed = groups[(OPEN - targets).clamp(min=0)]  # (S, L)
        asked = logits.log_softmax(1).where(allowed, -torch.inf).logsumexp(1)
        loss = loss - asked.where(is_open, 0).sum()
    total = loss * (samples / (exact | is_open).sum().clamp(min=1))
    classes = [target for target in there if target >= 0]
    if lovasz and classes:
        total = total + lovasz * samples * lovasz_softmax(logits.softmax(1), targets, classes)
    return total


def lovasz_softmax(scores: torch.Tensor, targets: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """A convex surrogate of 1 - IoU, mean over the classes that occur: scores (S, L) in 0..1, targets (S,), negative where none counts.

    Source: Berman, Triki, Blaschko, The Lovász-Softmax loss (CVPR 2018), algorithm 1.
    """
    losses = []
    for target in classes:
        inside = (targets == target).to(scores.dtype)  # (S,)
        errors, order = (inside - scores[:, target]).abs().where(targets >= 0, -1).sort(descending=True)  # what does not count comes last
        inside = inside[order]
        intersection = inside.sum() - inside.cumsum(0)
        union = inside.sum() + (1 - inside).cumsum(0)
        jaccard = 1 - intersection / union
        steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
        losses.append((errors.clamp(min=0) * steps).sum())  # a product of matrices would be rounded where recipes say so
    return torch.stack(losses).mean()
