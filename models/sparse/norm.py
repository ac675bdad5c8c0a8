"""Batch norm, + residual, ReLU as one step of autograd, which keeps for backward no more than backward will read.

S sites, C channels. Kept for one layer, in bytes a feature of float32:

| | norm by the batch | frozen norm (running statistics, frozen affine) |
|---|---|---|
| the norm | its input, 4 | nothing: an affine map of each channel needs its scale alone |
| ReLU | which features are positive, 1; or its output, where the next convolution keeps that anyway | the same |
| residual | nothing | nothing |

PyTorch's own layers keep the input of a frozen norm, and the output of every ReLU.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable


@dataclass(frozen=True)
class _Statistics:
    """Where a norm takes mean and variance from: the batch, which moves the running ones, or the running ones (C,)."""

    mean: torch.Tensor
    var: torch.Tensor
    of_batch: bool
    momentum: float
    eps: float


class TooFewSites(ValueError):
    """One site has no spread to normalise by."""


def batch_norm_act(
    x: torch.Tensor, norm: nn.BatchNorm1d, residual: torch.Tensor | None = None, *, relu: bool = False, output_is_kept: bool = False
) -> torch.Tensor:
    """relu(norm(x) + residual): x, residual (S, C) -> (S, C), with the statistics and side effects of `norm`.

    output_is_kept: somebody else keeps the result for backward, so ReLU may as well. Raises: TooFewSites (in training).
    """
    if norm.training and len(x) < 2:
        raise TooFewSites(f"batch norm in training needs two sites or more, got {tuple(x.shape)}")
    if not _fits(x, norm):
        plain = nn.BatchNorm1d.forward(norm, x)
        plain = plain if residual is None else plain + residual
        return plain.relu() if relu else plain
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    statistics = _Statistics(norm.running_mean, norm.running_var, norm.training, norm.momentum, norm.eps)
    out: torch.Tensor = _NormAct.apply(x, norm.weight, norm.bias, residual, statistics, relu, output_is_kept)  # type: ignore[no-untyped-call]
    return out


def _fits(x: torch.Tensor, norm: nn.BatchNorm1d) -> bool:
    """Whether it is one of the two cases of the table: not 16-bit features, a norm without running statistics, or one that uses
    them and trains its affine."""
    usual = norm.affine and norm.running_mean is not None and norm.momentum is not None
    frozen = not torch.is_grad_enabled() or not (norm.affine and (norm.weight.requires_grad or norm.bias.requires_grad))
    return usual and x.dtype == norm.weight.dtype and x.dtype in (torch.float32, torch.float64) and (norm.training or frozen)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        residual: torch.Tensor | None,
        norm: _Statistics,
        relu: bool,
        output_is_kept: bool,
    ) -> torch.Tensor:
        kept: tuple[torch.Tensor, ...]
        if norm.of_batch:
            out, mean, inv_std = torch.native_batch_norm(x, weight, bias, norm.mean, norm.var, True, norm.momentum, norm.eps)
            kept = x, weight, mean, inv_std
        else:
            scale = (norm.var + norm.eps).rsqrt() * weight
            out = torch.addcmul(bias - norm.mean * scale, x, scale)
            kept = (scale,)
        if residual is not None:
            out += residual
        if relu:
            out.relu_()
            kept = (*kept, out if output_is_kept else out.bool())  # after ReLU, what is not zero is positive
        ctx.save_for_backward(*kept)
        ctx.norm, ctx.relu = norm, relu  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept: tuple[torch.Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        norm: _Statistics = ctx.norm  # type: ignore[attr-defined]
        needs: tuple[bool, ...] = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        if ctx.relu:  # type: ignore[attr-defined]
            grad = _through_relu(grad, kept[-1])
        grad_x: torch.Tensor | None
        grad_weight = grad_bias = None
        if norm.of_batch:
            x, weight, mean, inv_std = kept[:4]
            wanted = list(needs[:3])
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, norm.mean, norm.var, mean, inv_std, True, norm.eps, wanted
            )
        else:
            grad_x = grad * kept[0] if needs[0] else None
        return grad_x, grad_weight, grad_bias, grad if needs[3] else None, None, None, None


def _through_relu(grad: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """grad (S, C) where ReLU's result was positive; result: itself, or whether it was."""
    if result.dtype == torch.bool:
        return grad * result.view(torch.uint8)  # fifteen times as fast as by bool
    passed: torch.Tensor = torch.ops.aten.threshold_backward(grad, result, 0)
    return passed
