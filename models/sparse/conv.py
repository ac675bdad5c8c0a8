"""Convolution with gradients: one autograd function over any engine.

S input rows, T output rows, K taps. Under torch.autocast the products take low-precision factors, while the sums over taps, the
features between layers and all gradients keep their own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from models.sparse.backends.protocol import Engine
from models.sparse.kernel_map import KernelMap
from models.sparse.tying import kernel_side, tied_filter


@dataclass(frozen=True)
class Route:
    """How features go through a convolution, and how gradients come back (built only when one does)."""

    engine: Engine
    there: KernelMap
    back: Callable[[], KernelMap]


class _SparseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, feats: torch.Tensor, weight: torch.Tensor, route: Route, repeats: str) -> torch.Tensor:
        needs_feats, needs_weight, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        empty = feats.new_empty(0)  # frozen filters: no activations kept; features without gradient: no filters
        ctx.save_for_backward(feats if needs_weight else empty, weight if needs_feats else empty)
        ctx.route, ctx.repeats = route, repeats  # type: ignore[attr-defined]
        ctx.products = products = product_dtype(feats)  # type: ignore[attr-defined]
        return route.engine.conv(feats, _filters(weight, repeats), route.there, products=products)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        feats, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        route: Route = ctx.route  # type: ignore[attr-defined]
        products: torch.dtype = ctx.products  # type: ignore[attr-defined]
        needs_feats, needs_weight, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        grad_feats = None
        if needs_feats:
            filters = _filters(weight, ctx.repeats)  # type: ignore[attr-defined]
            grad_feats = route.engine.conv(grad, filters, route.back(), products=products, transpose=True)
        grad_weight = route.engine.weight_grad(feats, grad, route.there, products=products) if needs_weight else None
        return grad_feats, grad_weight, None, None


def _filters(weight: torch.Tensor, repeats: str) -> torch.Tensor:
    return tied_filter(weight, repeats) if repeats else weight


def sparse_conv(feats: torch.Tensor, weight: torch.Tensor, route: Route, repeats: str = "") -> torch.Tensor:
    """out[o] = Σ over taps k and pairs (i, o) of feats[i] @ weight[k].

    feats (S, Cin), weight (K, Cin, Cout) -> (T, Cout). Differentiable in feats and weight. repeats: axes along which a frozen
    weight of k³ taps repeats itself, for a route that is tied along them; what is kept for backward is the weight, not a copy of
    its part. Deterministic on a CPU for a given engine: the order of sums depends on the map alone (of 1×1×1 kernels, in training,
    on the number of threads, too). Not twice differentiable. Raises: ValueError on shapes or dtypes that do not fit.
    """
    if feats.dtype != weight.dtype and not torch.is_autocast_enabled(feats.device.type):
        raise ValueError(f"feats are {feats.dtype}, weight is {weight.dtype}")
    if repeats and weight.requires_grad:
        raise ValueError("a filter that is trained is tied by its shape, not by its values")
    groups = kernel_side(len(weight)) ** (3 - len(repeats)) if repeats else len(weight)
    check_shapes(feats, (groups, *weight.shape[1:]), route.there)
    out: torch.Tensor = _SparseConv.apply(feats.contiguous(), weight, route, repeats)  # type: ignore[no-untyped-call]
    return out


def check_shapes(feats: torch.Tensor, weight_shape: tuple[int, ...], kernel_map: KernelMap) -> None:
    """Raises: ValueError when features, weight and map do not belong together."""
    taps, channels, _ = weight_shape
    if feats.shape != (kernel_map.num_in, channels) or len(kernel_map.sizes) != taps:
        expected = f"({kernel_map.num_in}, {channels}) and {len(kernel_map.sizes)} taps"
        raise ValueError(f"feats {tuple(feats.shape)} and weight {weight_shape} do not fit a map that wants {expected}")


def product_dtype(feats: torch.Tensor) -> torch.dtype:
    """What the inputs of the products are rounded to: autocast's dtype where it is on, else their own."""
    kind = feats.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else feats.dtype
