"""Layers on sparse tensors. weight (K, Cin, Cout), taps in `kernel_offsets()` order; parameter names as in torch.nn.

S sites before a layer, T after it, C channels.
"""

import math

import torch
from torch import nn

from models.sparse.backends.torch_backend import sparse_conv
from models.sparse.tensor import SparseTensor


class SparseConv3d(nn.Module):
    """Convolution without bias. Stride 1 keeps the sites (submanifold); stride s ends on unique(floor(c / s)).

    Like torch.nn.Conv3d it is a cross-correlation; offset -1 meets index 0 of the kernel. Empty neighbours add nothing.
    Initial weights are uniform in ±1/sqrt(Cin · K), as in torchsparse.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = nn.Parameter(torch.empty(kernel_size**3, in_channels, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        taps, in_channels, _ = self.weight.shape
        bound = 1 / math.sqrt(in_channels * taps)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        if self.kernel_size == 1 and self.stride == 1:
            return x.with_feats((x.feats @ self.weight[0]).to(x.feats.dtype))  # autocast would narrow what the next layer sums
        kernel_map = x.sites.kernel_map(x.level, self.kernel_size, self.stride)
        return SparseTensor(sparse_conv(x.feats, self.weight, kernel_map), x.sites, x.batch_size, x.level * self.stride)

    def extra_repr(self) -> str:
        _, in_channels, out_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


class SparseConvTranspose3d(nn.Module):
    """Transposed convolution onto the sites that the encoder left at the finer level, through the encoder's own map.

    Kernel size and stride must be those of the encoder's convolution between the two levels. Initial weights are uniform
    in ±1/sqrt(Cout), as in torchsparse.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 2, stride: int = 2) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = nn.Parameter(torch.empty(kernel_size**3, in_channels, out_channels))
        bound = 1 / math.sqrt(out_channels)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        level = x.level // self.stride
        kernel_map = x.sites.kernel_map(level, self.kernel_size, self.stride).transposed()
        return SparseTensor(sparse_conv(x.feats, self.weight, kernel_map), x.sites, x.batch_size, level)


class SparseBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each channel over all sites of the batch: (S, C) -> (S, C)."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        return x.with_feats(super().forward(x.feats))


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


def _mean_by_row(feats: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Mean of the feats (S, C) that share a target row: rows (S,) -> (num_rows, C).

    16-bit features are summed in float32: a count past 65,504 is infinite in float16. On CUDA the order of the sum, and so
    its last bits, may differ between runs.
    """
    wide = feats.float() if feats.dtype in (torch.float16, torch.bfloat16) else feats
    sums = wide.new_zeros(num_rows, feats.shape[1]).index_add(0, rows, wide)
    counts = torch.bincount(rows, minlength=num_rows).clamp(min=1)
    return (sums / counts[:, None].to(wide.dtype)).to(feats.dtype)
