"""Batch norm, + residual, ReLU, forward and backward: what an engine does of it, and how PyTorch does it.

S sites, C channels. `result` is what backward has to know of ReLU: its output (S, C), or which features it let pass, (S, C) bool;
None where there was none.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class BatchNormed:
    """out (S, C); mean and 1 / standard deviation of the batch (C,); positive: as `result` above, where that was asked for."""

    out: torch.Tensor
    mean: torch.Tensor
    inv_std: torch.Tensor
    positive: torch.Tensor | None


@dataclass(frozen=True)
class Running:
    """Running mean and variance (C,), and how a batch moves them."""

    mean: torch.Tensor
    var: torch.Tensor
    momentum: float
    eps: float


@dataclass(frozen=True)
class Grads:
    """Of the features (S, C), the affine (C,) and the residual (S, C); None where not wanted."""

    x: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None


class Norms(Protocol):
    """On features of float32 or float64, with an affine of the same. mark: say which features ReLU let pass."""

    def by_batch(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running: Running,
        residual: torch.Tensor | None,
        *,
        relu: bool,
        mark: bool,
    ) -> BatchNormed:
        """relu(norm(x) + residual) by the statistics of the batch, which move the running ones."""

    def by_scale(
        self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, residual: torch.Tensor | None, *, relu: bool, mark: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """relu(x · scale + shift + residual), and which features were positive where that was asked for."""

    def batch_grads(
        self,
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        statistics: tuple[torch.Tensor, torch.Tensor],
        result: torch.Tensor | None,
        *,
        of_x: bool,
        of_residual: bool,
    ) -> Grads:
        """Backward of `by_batch`; statistics: its mean and inv_std. The affine's gradients are always there."""

    def scale_grads(self, grad: torch.Tensor, scale: torch.Tensor, result: torch.Tensor | None, *, of_x: bool, of_residual: bool) -> Grads:
        """Backward of `by_scale`."""


class TorchNorms:
    """PyTorch's own operations, on any device."""

    def by_batch(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running: Running,
        residual: torch.Tensor | None,
        *,
        relu: bool,
        mark: bool,
    ) -> BatchNormed:
        out, mean, inv_std = torch.native_batch_norm(x, weight, bias, running.mean, running.var, True, running.momentum, running.eps)
        return BatchNormed(out, mean, inv_std, _finished(out, residual, relu, mark))

    def by_scale(
        self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, residual: torch.Tensor | None, *, relu: bool, mark: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        out = torch.addcmul(shift, x, scale)
        return out, _finished(out, residual, relu, mark)

    def batch_grads(
        self,
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        statistics: tuple[torch.Tensor, torch.Tensor],
        result: torch.Tensor | None,
        *,
        of_x: bool,
        of_residual: bool,
    ) -> Grads:
        grad = _through_relu(grad, result)
        of_norm = torch.ops.aten.native_batch_norm_backward(grad, x, weight, None, None, *statistics, True, 0.0, [of_x, True, True])
        grad_x, grad_weight, grad_bias = of_norm
        return Grads(grad_x, grad_weight, grad_bias, grad if of_residual else None)

    def scale_grads(self, grad: torch.Tensor, scale: torch.Tensor, result: torch.Tensor | None, *, of_x: bool, of_residual: bool) -> Grads:
        grad = _through_relu(grad, result)
        return Grads(grad * scale if of_x else None, residual=grad if of_residual else None)


def _finished(out: torch.Tensor, residual: torch.Tensor | None, relu: bool, mark: bool) -> torch.Tensor | None:
    """Adds and rectifies in place; which features are positive then, where that was asked for."""
    if residual is not None:
        out += residual
    if not relu:
        return None
    out.relu_()
    return out.bool() if mark else None  # after ReLU, what is not zero is positive


def _through_relu(grad: torch.Tensor, result: torch.Tensor | None) -> torch.Tensor:
    """grad (S, C) where ReLU let it pass."""
    if result is None:
        return grad
    if result.dtype == torch.bool:
        return grad * result.view(torch.uint8)  # fifteen times as fast as by bool
    passed: torch.Tensor = torch.ops.aten.threshold_backward(grad, result, 0)
    return passed


TORCH_NORMS = TorchNorms()
