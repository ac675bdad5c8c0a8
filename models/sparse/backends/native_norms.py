"""Batch norm of the native engine: statistics in one pass over the features, everything else in another, forward and backward.

float32 on a CPU; what is not goes to PyTorch. S sites, C channels.
"""

import ctypes
from collections.abc import Callable

import torch

from models.sparse.backends.arena import ARENA
from models.sparse.backends.native_library import Kernels, NormBackCall, NormCall, address
from models.sparse.backends.norms import TORCH_NORMS, BatchNormed, Grads, Running


class NativeNorms:
    """kernels: of the instruction set, asked for at first use."""

    def __init__(self, kernels: Callable[[], Kernels]) -> None:
        self._kernels = kernels

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
        if not _takes(x, weight, bias, running.mean, running.var, residual):
            return TORCH_NORMS.by_batch(x, weight, bias, running, residual, relu=relu, mark=mark)
        count, channels = x.shape
        kernels, x = self._kernels(), x.contiguous()
        mean, var, scratch = x.new_empty(channels), x.new_empty(channels), self._scratch(x)
        threads = torch.get_num_threads()
        kernels.norm_statistics(address(x), count, channels, address(scratch), address(mean), address(var), threads)
        running.mean.lerp_(mean, running.momentum)
        running.var.lerp_(var * (count / (count - 1)), running.momentum)
        inv_std = (var + running.eps).rsqrt_()
        scale = inv_std * weight
        out, positive = self.by_scale(x, scale, torch.addcmul(bias, mean, scale, value=-1), residual, relu=relu, mark=mark)
        return BatchNormed(out, mean, inv_std, positive)

    def by_scale(
        self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, residual: torch.Tensor | None, *, relu: bool, mark: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not _takes(x, scale, shift, residual):
            return TORCH_NORMS.by_scale(x, scale, shift, residual, relu=relu, mark=mark)
        x, scale, shift = x.contiguous(), scale.contiguous(), shift.contiguous()
        residual = None if residual is None else residual.contiguous()
        out = ARENA.empty(*x.shape)
        positive = ARENA.empty(*x.shape, dtype=torch.bool) if relu and mark else None
        task = NormCall(rows=len(x), channels=x.shape[1], relu=relu, threads=torch.get_num_threads())
        task.x, task.scale, task.shift, task.residual = address(x), address(scale), address(shift), address(residual)
        task.out, task.positive = address(out), address(positive)
        self._kernels().norm_apply(ctypes.byref(task))
        return out, positive

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
        if not _takes(grad, x, weight, *statistics):
            return TORCH_NORMS.batch_grads(grad, x, weight, statistics, result, of_x=of_x, of_residual=of_residual)
        grad, x, (mean, inv_std), result = grad.contiguous(), x.contiguous(), statistics, _whole(result)
        grads = Grads(_like(grad, of_x), torch.empty_like(weight), torch.empty_like(weight), _like(grad, of_residual))
        scratch = self._scratch(x)
        task = _back(grad, result, grads)
        task.x, task.mean, task.inverse, task.scratch = address(x), address(mean), address(inv_std), address(scratch)
        self._kernels().norm_sums(ctypes.byref(task))
        if of_x or of_residual:
            assert grads.weight is not None
            assert grads.bias is not None
            scale = inv_std * weight
            slope = scale * inv_std * grads.weight / -len(x)
            offset = scale * grads.bias / -len(x)
            task.scale, task.slope, task.offset = address(scale), address(slope), address(offset)
            self._kernels().norm_back(ctypes.byref(task))
        return grads

    def scale_grads(self, grad: torch.Tensor, scale: torch.Tensor, result: torch.Tensor | None, *, of_x: bool, of_residual: bool) -> Grads:
        if not _takes(grad, scale):
            return TORCH_NORMS.scale_grads(grad, scale, result, of_x=of_x, of_residual=of_residual)
        grad, scale, result = grad.contiguous(), scale.contiguous(), _whole(result)
        grads = Grads(_like(grad, of_x), residual=_like(grad, of_residual))
        task = _back(grad, result, grads)
        task.scale = address(scale)
        self._kernels().norm_back(ctypes.byref(task))
        return grads

    def _scratch(self, x: torch.Tensor) -> torch.Tensor:
        return torch.empty(self._kernels().norm_scratch(*x.shape), device="cpu")


def _takes(first: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether there is something to compute, and all of it in float32 on the CPU."""
    given = [first, *(each for each in others if each is not None)]
    return first.numel() > 0 and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in given)


def _whole(result: torch.Tensor | None) -> torch.Tensor | None:
    return None if result is None else result.contiguous()


def _like(grad: torch.Tensor, wanted: bool) -> torch.Tensor | None:
    return ARENA.empty(*grad.shape) if wanted else None


def _back(grad: torch.Tensor, result: torch.Tensor | None, grads: Grads) -> NormBackCall:
    """What both ways back have in common. Everything it points to has to live as long as it does."""
    task = NormBackCall(rows=len(grad), channels=grad.shape[1], threads=torch.get_num_threads())
    task.grad = address(grad)
    if result is not None and result.dtype == torch.bool:
        task.positive = address(result)
    else:
        task.result = address(result)
    task.grad_x, task.grad_residual = address(grads.x), address(grads.residual)
    task.grad_weight, task.grad_bias = address(grads.weight), address(grads.bias)
    return task
