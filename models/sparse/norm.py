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

from models.sparse.backends.norms import TORCH_NORMS, Norms, Running


@dataclass(frozen=True)
class _Step:
    """How the step is done. of_batch: by the statistics of the batch, which move the running ones, else by these."""

    norms: Norms
    running: Running
    of_batch: bool
    relu: bool
    output_is_kept: bool


class TooFewSites(ValueError):
    """One site has no spread to normalise by."""


def batch_norm_act(
    x: torch.Tensor,
    norm: nn.BatchNorm1d,
    residual: torch.Tensor | None = None,
    *,
    relu: bool = False,
    output_is_kept: bool = False,
    norms: Norms = TORCH_NORMS,
) -> torch.Tensor:
    """relu(norm(x) + residual): x, residual (S, C) -> (S, C), with the statistics and side effects of `norm`.

    output_is_kept: somebody else keeps the result for backward, so ReLU may as well. norms: those of the engine in use. Raises:
    TooFewSites (in training), ValueError (shapes that do not fit).
    """
    if x.dim() != 2 or x.shape[1] != norm.num_features:
        raise ValueError(f"features must be (S, {norm.num_features}) for this batch norm, got {tuple(x.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"a residual of {tuple(residual.shape)} does not fit features of {tuple(x.shape)}")
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
    running = Running(norm.running_mean, norm.running_var, norm.momentum, norm.eps)
    step = _Step(norms, running, norm.training, relu, output_is_kept)
    out: torch.Tensor = _NormAct.apply(x, norm.weight, norm.bias, residual, step)  # type: ignore[no-untyped-call]
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
        ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None, step: _Step
    ) -> torch.Tensor:
        running, mark = step.running, not step.output_is_kept
        kept: tuple[torch.Tensor, ...]
        if step.of_batch:
            normed = step.norms.by_batch(x, weight, bias, running, residual, relu=step.relu, mark=mark)
            out, positive, kept = normed.out, normed.positive, (x, weight, normed.mean, normed.inv_std)
        else:
            scale = (running.var + running.eps).rsqrt() * weight
            out, positive = step.norms.by_scale(x, scale, bias - running.mean * scale, residual, relu=step.relu, mark=mark)
            kept = (scale,)
        if step.relu:
            kept = (*kept, out if positive is None else positive)
        ctx.save_for_backward(*kept)
        ctx.step = step  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept: tuple[torch.Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        step: _Step = ctx.step  # type: ignore[attr-defined]
        of_x, _, _, of_residual, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad, result = grad.contiguous(), kept[-1] if step.relu else None
        if step.of_batch:
            x, weight, mean, inv_std = kept[:4]
            grads = step.norms.batch_grads(grad, x, weight, (mean, inv_std), result, of_x=of_x, of_residual=of_residual)
        else:
            grads = step.norms.scale_grads(grad, kept[0], result, of_x=of_x, of_residual=of_residual)
        return grads.x, grads.weight, grads.bias, grads.residual, None
