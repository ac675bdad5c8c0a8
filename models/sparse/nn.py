"""Layers on sparse tensors. weight (K, Cin, Cout), taps in `kernel_offsets()` order; parameter names as in torch.nn.

S sites before a layer, T after it, C channels.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

from models.sparse.backends.protocol import Engine, Epilogue, Packed
from models.sparse.conv import check_shapes, product_dtype, sparse_conv
from models.sparse.kernel_map import KernelMap
from models.sparse.norm import batch_norm_act
from models.sparse.tensor import SparseTensor
from models.sparse.tying import tied_axes, tied_filter

Norm = nn.BatchNorm1d | nn.SyncBatchNorm


class Convolution(nn.Module):
    """What both kinds of convolution share: a weight (K, Cin, Cout) or, tied, (G, Cin, Cout), and how it is used for inference.

    tied: axes along which the filter is one 2D (or 1D, 0D) filter repeated; the parameter is then that filter.
    A whole filter that is frozen is used as a tied one wherever it is found to repeat itself.
    """

    transposed = False

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, tied: str = "") -> None:
        super().__init__()
        self.kernel_size, self.stride, self.tied = kernel_size, stride, tied
        self.weight = nn.Parameter(torch.empty(kernel_size ** (3 - len(tied)), in_channels, out_channels))
        self._folded: Folded | None = None
        self._may_fold = False
        self._frozen: tuple[torch.Tensor, str] | None = None  # what `filters` says, while `filters_stay_frozen` lasts

    def forward(self, x: SparseTensor) -> SparseTensor:
        if self._frozen:
            (weight, tied), repeats = self._frozen, ""
        else:
            weight, repeats = self.weight, self._repeats()
            tied = self.tied or repeats
        route = x.sites.route(self._finer(x), self.kernel_size, self.stride, transposed=self.transposed, tied=tied)
        return SparseTensor(sparse_conv(x.feats, weight, route, repeats), x.sites, x.batch_size, self.level_after(x))

    def level_after(self, x: SparseTensor) -> int:
        """Level that the convolution ends on."""
        return x.level // self.stride if self.transposed else x.level * self.stride

    def map_for(self, x: SparseTensor, tied: str) -> KernelMap:
        """Its kernel map, of filters that are tied along these axes."""
        return x.sites.kernel_map(self._finer(x), self.kernel_size, self.stride, transposed=self.transposed, tied=tied)

    def _finer(self, x: SparseTensor) -> int:
        """The finer of the two levels between which it leads, by which maps are kept."""
        return min(x.level, self.level_after(x))

    def _repeats(self) -> str:
        """Axes along which the weight itself is found to repeat: only where it is whole and frozen.

        Looked at anew each time: weights may have changed, and fused optimisers do not raise their version.
        """
        return "" if self.tied or self.weight.requires_grad else tied_axes(self.weight)

    def filters(self) -> tuple[torch.Tensor, str]:
        """The weight without its repetitions, and the axes they are on."""
        repeats = self._repeats()
        return (tied_filter(self.weight, repeats) if repeats else self.weight), self.tied or repeats

    def extra_repr(self) -> str:
        _, in_channels, out_channels = self.weight.shape
        tied = f", tied={self.tied!r}" if self.tied else ""
        return f"{in_channels}, {out_channels}, kernel_size={self.kernel_size}, stride={self.stride}{tied}"

    def train(self, mode: bool = True) -> "Convolution":
        """Training ends what `prepare_inference` began."""
        if mode:
            self._may_fold, self._folded = False, None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._folded = self._frozen = None
        super()._load_from_state_dict(*args)

    def folded(self, norm: Norm, engine: Engine, products: torch.dtype) -> "Folded | None":
        """Convolution and norm as one, once `prepare_inference` allowed it; made at the first call.

        Not where an optimiser may still move something, nor where the norm follows the batch.
        """
        if not self._may_fold or torch.is_grad_enabled() or norm.training or _any_trained(self.weight, norm.weight, norm.bias):
            self._folded = None
            return None
        if self._folded is None or (self._folded.engine, self._folded.products) != (engine.name, products):
            self._folded = Folded.of(self, norm, engine, products)
        return self._folded


class SparseConv3d(Convolution):
    """Convolution without bias. Stride 1 keeps the sites (submanifold); stride s ends on unique(floor(c / s)).

    Like torch.nn.Conv3d it is a cross-correlation; offset -1 meets index 0 of the kernel. Empty neighbours add nothing.
    Initial weights are uniform in ±1/sqrt(Cin · K), as in torchsparse.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, tied: str = "") -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, tied)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1] * self.kernel_size**3)
        nn.init.uniform_(self.weight, -bound, bound)


class SparseConvTranspose3d(Convolution):
    """Transposed convolution onto the sites that the encoder left at the finer level, through the encoder's own map.

    Kernel size and stride must be those of an encoder's convolution between the two levels, or the map is built for it alone.
    Initial weights are uniform in ±1/sqrt(Cout), as in torchsparse.
    """

    transposed = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 2, stride: int = 2) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        bound = 1 / math.sqrt(out_channels)
        nn.init.uniform_(self.weight, -bound, bound)


def _any_trained(*parameters: torch.Tensor) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


@dataclass(frozen=True)
class Folded:
    """A convolution followed by batch norm in evaluation, as one convolution with bias: a snapshot of both.

    engine, products: what it was asked for; an engine may pack as another one does.
    """

    packed: Packed
    bias: torch.Tensor
    tied: str
    engine: str
    products: torch.dtype

    @classmethod
    def of(cls, conv: Convolution, norm: Norm, engine: Engine, products: torch.dtype) -> "Folded":
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = (norm.running_var + norm.eps).rsqrt() * norm.weight  # (Cout,)
        filters, tied = conv.filters()
        return cls(engine.pack(filters * scale, products), norm.bias - norm.running_mean * scale, tied, engine.name, products)


@dataclass(frozen=True)
class Tie:
    """A convolution of `taps` = k³ that repeats its filter along `axes` of "xyz"."""

    taps: int
    axes: str


def ties_of(net: nn.Module, weights: Mapping[str, torch.Tensor] | None = None) -> dict[str, Tie]:
    """Ties of a net's convolutions, by the name of their weight: by construction, and with `weights` those found in these too."""
    ties = {}
    for name, conv in net.named_modules():
        if isinstance(conv, SparseConv3d):
            weight = f"{name}.weight"
            axes = conv.tied or (tied_axes(weights[weight]) if weights and weight in weights else "")
            if axes:
                ties[weight] = Tie(conv.kernel_size**3, axes)
    return ties


def prepare_inference(net: nn.Module) -> None:
    """Let convolutions and the batch norms behind them run as one, from snapshots of their weights.

    For a net in evaluation mode whose weights stay as they are: only where neither a convolution nor its norm requires gradients.
    `net.train()` ends it; `net.load_state_dict` and a pass with gradients end the snapshots, so that the next pass without takes
    new ones. Whoever writes into weights in another way, or into a norm alone, has to prepare the net again.
    """
    if net.training:
        raise ValueError("only a net in evaluation mode can be prepared for inference")
    for module in net.modules():
        if isinstance(module, Convolution):
            module._may_fold, module._folded = True, None


@contextmanager
def filters_stay_frozen(net: nn.Module) -> Iterator[None]:
    """While it lasts, nothing writes to filters that are frozen now: which of them repeat themselves is then found only once."""
    frozen = [module for module in net.modules() if isinstance(module, Convolution) and not module.weight.requires_grad]
    before = [module._frozen for module in frozen]
    try:
        for module in frozen:
            weight, tied = module.filters()
            module._frozen = weight.detach().contiguous(), tied
        yield
    finally:
        for module, kept in zip(frozen, before, strict=True):
            module._frozen = kept


def forget_folded(net: nn.Module) -> None:
    """Let go of the weights that a pass has made snapshots of: from then on the net can do nothing but the same again, in less memory."""
    for module in net.modules():
        if isinstance(module, Convolution) and module._folded is not None:
            module.weight = nn.Parameter(module.weight.new_empty(0, *module.weight.shape[1:]), requires_grad=False)


def bytes_of(net: nn.Module) -> int:
    """Memory that the weights of a net take, and the snapshots of them."""
    folded = [module._folded for module in net.modules() if isinstance(module, Convolution) and module._folded is not None]
    tensors = [*net.parameters(), *net.buffers(), *(each.packed.data for each in folded), *(each.bias for each in folded)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def conv_norm(x: SparseTensor, conv: Convolution, norm: Norm, *, residual: SparseTensor | None = None, relu: bool = False) -> SparseTensor:
    """norm(conv(x)), + residual, ReLU: in one pass where the net was prepared for inference, else one after the other."""
    engine = x.sites.engine
    folded = conv.folded(norm, engine, product_dtype(x.feats))
    if folded is None:
        out: SparseTensor = conv(x)
        if isinstance(norm, SparseBatchNorm):  # where this convolution keeps its input for backward, the next one will too
            return norm(out, residual, relu=relu, output_is_kept=conv.weight.requires_grad)  # type: ignore[no-any-return]
        out = norm(out)
        feats = out.feats if residual is None else out.feats + residual.feats
        return out.with_feats(feats.relu() if relu else feats)
    kernel_map = conv.map_for(x, folded.tied)
    check_shapes(x.feats, folded.packed.shape, kernel_map)
    if residual is not None and residual.feats.shape != (kernel_map.num_out, folded.packed.shape[2]):
        raise ValueError(f"a residual of {tuple(residual.feats.shape)} does not fit {(kernel_map.num_out, folded.packed.shape[2])}")
    epilogue = Epilogue(folded.bias, None if residual is None else residual.feats, relu)
    feats = engine.conv(x.feats, folded.packed, kernel_map, products=folded.packed.products, epilogue=epilogue)
    return SparseTensor(feats, x.sites, x.batch_size, conv.level_after(x))


class ConvNorm(nn.Sequential):
    """A convolution, its batch norm and perhaps a ReLU: `conv_norm` under the names 0, 1 and 2."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        conv, norm = self[0], self[1]
        assert isinstance(conv, Convolution)
        assert isinstance(norm, Norm)
        return conv_norm(x, conv, norm, relu=len(self) == 3)


class SparseBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each channel over all sites of the batch, + residual, ReLU: (S, C) -> (S, C)."""

    def forward(  # type: ignore[override]
        self, x: SparseTensor, residual: SparseTensor | None = None, *, relu: bool = False, output_is_kept: bool = False
    ) -> SparseTensor:
        other = None if residual is None else residual.feats
        return x.with_feats(batch_norm_act(x.feats, self, other, relu=relu, output_is_kept=output_is_kept, norms=x.sites.engine.norms))


class SparseReLU(nn.Module):
    """max(0, x), site by site: (S, C) -> (S, C)."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.with_feats(x.feats.relu())


class SparseAvgPool3d(nn.Module):
    """Mean over the occupied cells of each stride³ cell: (S, C) -> (T, C)."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: SparseTensor) -> SparseTensor:
        parents = x.sites.parents(x.level, self.stride)  # (S,)
        level = x.level * self.stride
        feats = _mean_by_row(x.feats, parents, len(x.sites.coords(level)))
        return SparseTensor(feats, x.sites, x.batch_size, level)


class GlobalAvgPool(nn.Module):
    """Mean over the sites of each cloud: (S, C) -> dense (B, C)."""

    def forward(self, x: SparseTensor) -> torch.Tensor:
        return _mean_by_row(x.feats, x.coords[:, 0].long(), x.batch_size)


class LayoutPool(nn.Module):
    """Where in a cloud what was found: (S, C) -> dense (B, cells³ · C).

    The box around each cloud is cut into `cells` parts along each axis. Of each part the features of its sites are summed and divided
    by the number of sites of the whole cloud, so that all parts together are the global mean. Parts in the order [x][y][z], channels
    last.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: SparseTensor) -> torch.Tensor:
        clouds, places = x.coords[:, 0].long(), x.coords[:, 1:].long()
        first, last = (
            places.new_zeros(x.batch_size, 3).scatter_reduce_(0, clouds[:, None].expand_as(places), places, end, include_self=False)
            for end in ("amin", "amax")
        )
        sides = last - first + 1
        parts = (2 * (places - first[clouds]) + 1) * self.cells // (2 * sides[clouds])  # (S, 3), of the centre of each site
        rows = clouds
        for axis in range(3):
            rows = rows * self.cells + parts[:, axis]
        sums = _sums_by_row(x.feats, rows, x.batch_size * self.cells**3)
        counts = counts_of(clouds, x.batch_size).clamp(min=1)
        shares = sums.reshape(x.batch_size, -1) / counts[:, None].to(sums.dtype)
        return shares.to(x.feats.dtype)


def _mean_by_row(feats: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Mean of the feats (S, C) that share a target row: rows (S,) -> (num_rows, C)."""
    sums = _sums_by_row(feats, rows, num_rows)
    counts = counts_of(rows, num_rows).clamp(min=1)
    return (sums / counts[:, None].to(sums.dtype)).to(feats.dtype)


def _sums_by_row(feats: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Sum of the feats (S, C) that share a target row: rows (S,) -> (num_rows, C).

    16-bit features are summed in float32, and stay so: a count past 65,504 is infinite in float16. On CUDA the order of the sum,
    and so its last bits, may differ between runs.
    """
    wide = feats.float() if feats.dtype in (torch.float16, torch.bfloat16) else feats
    sums: torch.Tensor = _SumByRow.apply(wide, rows, num_rows)  # type: ignore[no-untyped-call]
    return sums


def counts_of(rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """How often each number below num_rows occurs: (S,) int64 -> (num_rows,) int64."""
    if rows.is_cuda:  # there bincount waits for the device, to see the largest one
        return rows.new_zeros(num_rows).scatter_add_(0, rows, torch.ones_like(rows))
    return torch.bincount(rows, minlength=num_rows)


class _SumByRow(torch.autograd.Function):
    """index_add, which by itself keeps the features for backward although it reads no more than their shape."""

    @staticmethod
    def forward(ctx: FunctionCtx, feats: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return feats.new_zeros(num_rows, feats.shape[1]).index_add_(0, rows, feats)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad.index_select(0, rows), None, None
