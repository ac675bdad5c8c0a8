"""The reference engine: gather, one GEMM a tap, scatter. Plain PyTorch, forward and backward, CPU and CUDA, any dtype.

Under torch.autocast the products take low-precision inputs, while the sums over taps, the features between layers and all
gradients keep their own dtype. P pairs of a tap, S input rows, T output rows, K taps. weight (K, Cin, Cout).
"""

from collections.abc import Iterator

import torch
from torch.autograd.function import FunctionCtx

from models.sparse.backends.gemm import matmul_weight
from models.sparse.kernel_map import KernelMap


class _SparseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, feats: torch.Tensor, weight: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        saved = feats if weight.requires_grad else feats.new_empty(0)  # frozen filters: no activations kept
        ctx.save_for_backward(saved, weight)
        ctx.kernel_map = kernel_map  # type: ignore[attr-defined]
        ctx.product_dtype = product_dtype = _product_dtype(feats)  # type: ignore[attr-defined]
        weight_t = weight.transpose(1, 2).contiguous()  # (K, Cout, Cin)
        return _gather_multiply_scatter(feats, weight_t, kernel_map, product_dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        feats, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        kernel_map: KernelMap = ctx.kernel_map  # type: ignore[attr-defined]
        needs_feats, needs_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        dtype: torch.dtype = ctx.product_dtype  # type: ignore[attr-defined]
        grad_feats = _gather_multiply_scatter(grad, weight, kernel_map.transposed(), dtype) if needs_feats else None
        grad_weight = _weight_gradient(feats, grad, kernel_map, dtype) if needs_weight else None
        return grad_feats, grad_weight, None


def sparse_conv(feats: torch.Tensor, weight: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """out[o] = Σ over taps k and pairs (i, o) of feats[i] @ weight[k].

    feats (S, Cin), weight (K, Cin, Cout) -> (T, Cout). Differentiable in feats and weight. Deterministic: taps are added
    in order, and within a tap no output row occurs twice. Raises: ValueError on shapes or dtypes that do not fit.
    """
    if feats.dtype != weight.dtype and not torch.is_autocast_enabled(feats.device.type):
        raise ValueError(f"feats are {feats.dtype}, weight is {weight.dtype}")
    taps, channels, _ = weight.shape
    if feats.shape != (kernel_map.num_in, channels) or len(kernel_map.sizes) != taps:
        expected = f"({kernel_map.num_in}, {channels}) and {len(kernel_map.sizes)} taps"
        raise ValueError(f"feats {tuple(feats.shape)} and weight {tuple(weight.shape)} do not fit a map that wants {expected}")
    out: torch.Tensor = _SparseConv.apply(feats, weight, kernel_map)  # type: ignore[no-untyped-call]
    return out


def _product_dtype(feats: torch.Tensor) -> torch.dtype:
    """What the inputs of the products are cast to: autocast's dtype where it is on, else their own."""
    kind = feats.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else feats.dtype


def _gather_multiply_scatter(feats: torch.Tensor, weight_t: torch.Tensor, kernel_map: KernelMap, dtype: torch.dtype) -> torch.Tensor:
    """feats (S, Cin), weight_t (K, Cout, Cin) -> (T, Cout), in the dtype of feats."""
    own = feats.dtype
    feats, weight_t = feats.to(dtype), weight_t.to(dtype)
    centre = kernel_map.identity_tap
    if centre is None:
        out = feats.new_zeros(kernel_map.num_out, weight_t.shape[1], dtype=own)
    else:
        out = matmul_weight(feats, weight_t[centre]).to(own)
    for tap, in_rows, out_rows in _taps(kernel_map):
        if tap != centre:
            out.index_add_(0, out_rows, matmul_weight(feats.index_select(0, in_rows), weight_t[tap]).to(own))
    return out


def _weight_gradient(feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, dtype: torch.dtype) -> torch.Tensor:
    """dW[k] = Σ over pairs of feats[i]ᵀ grad[o]: (S, Cin), (T, Cout) -> (K, Cin, Cout)."""
    out = grad.new_zeros(len(kernel_map.sizes), feats.shape[1], grad.shape[1])
    feats, grad = feats.to(dtype), grad.to(dtype)
    for tap, in_rows, out_rows in _taps(kernel_map):
        if tap == kernel_map.identity_tap:
            out[tap] = feats.t() @ grad
        else:
            out[tap] = feats.index_select(0, in_rows).t() @ grad.index_select(0, out_rows)
    return out


def _taps(kernel_map: KernelMap) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(tap, in_rows (P,), out_rows (P,)) of every tap that has pairs."""
    all_in = kernel_map.in_rows.split(kernel_map.sizes)
    all_out = kernel_map.out_rows.split(kernel_map.sizes)
    for tap, (in_rows, out_rows) in enumerate(zip(all_in, all_out, strict=True)):
        if len(in_rows):
            yield tap, in_rows, out_rows
