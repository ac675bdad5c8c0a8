"""Convolution with gradients: one autograd function over any engine.

S input rows, T output rows, K taps. Under torch.autocast the products take low-precision factors, while the sums over taps, the
features between layers and all gradients keep their own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd.function import FunctionCtx

from models.sparse.backends.protocol import Engine
from models.sparse.kernel_map import KernelMap


@dataclass(frozen=True)
class Route:
    """How features go through a convolution, and how gradients come back (built only when one does)."""

    engine: Engine
    there: KernelMap
    back: Callable[[], KernelMap]


class _SparseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, feats: torch.Tensor, weight: torch.Tensor, route: Route) -> torch.Tensor:
        needs_feats, needs_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        empty = feats.new_empty(0)  # frozen filters: no activations kept; features without gradient: no filters
        ctx.save_for_backward(feats if needs_weight else empty, weight if needs_feats else empty)
        ctx.route = route  # type: ignore[attr-defined]
        ctx.products = products = product_dtype(feats)  # type: ignore[attr-defined]
        return route.engine.conv(feats, weight, route.there, products=products)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        feats, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        route: Route = ctx.route  # type: ignore[attr-defined]
        products: torch.dtype = ctx.products  # type: ignore[attr-defined]
        needs_feats, needs_weight, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        grad = grad.contiguous()
        grad_feats = route.engine.conv(grad, weight, route.back(), products=products, transpose=True) if needs_feats else None
        grad_weight = route.engine.weight_grad(feats, grad, route.there, products=products) if needs_weight else None
        return grad_feats, grad_weight, None


def sparse_conv(feats: torch.Tensor, weight: torch.Tensor, route: Route) -> torch.Tensor:
    """out[o] = Σ over taps k and pairs (i, o) of feats[i] @ weight[k].

    feats (S, Cin), weight (K, Cin, Cout) -> (T, Cout). Differentiable in feats and weight. Deterministic on a CPU: the order of
    sums depends on the map alone. Raises: ValueError on shapes or dtypes that do not fit.
    """
    if feats.dtype != weight.dtype and not torch.is_autocast_enabled(feats.device.type):
        raise ValueError(f"feats are {feats.dtype}, weight is {weight.dtype}")
    check_shapes(feats, tuple(weight.shape), route.there)
    out: torch.Tensor = _SparseConv.apply(feats.contiguous(), weight, route)  # type: ignore[no-untyped-call]
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
