"""A quirk of the reference code: coarse features go to the occupied cells of level 1 and back, and are blurred on the way.

T sites of a coarse level, C channels. Each cell of level 1 interpolates between the coarse site it lies in and the seven that
follow it along the axes (weights by its place in the cell, over those that exist); each coarse site takes the mean of its cells.
"""

import torch
from torch import nn

from models.sparse.kernel_map import kernel_offsets
from models.sparse.nn import counts_of
from models.sparse.tensor import SparseTensor

EPSILON = 1e-8  # as in the reference: added to the sum of the weights


class ParentBlur(nn.Module):
    """(T, C) -> (T, C). All cells of a site meet the same eight sites, so their mean weights (T, 8) do the whole work."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        table = _neighbours(x)  # (T, 8)
        weights = _mean_weights(x, table >= 0).to(x.feats.dtype)
        out = torch.zeros_like(x.feats)
        for tap in range(table.shape[1]):
            out = out + weights[:, tap, None] * x.feats[table[:, tap].clamp(min=0)]
        return x.with_feats(out)


def _neighbours(x: SparseTensor) -> torch.Tensor:
    """Row of the site at each offset of {0, 1}³ from every site, -1 where there is none: (T, 8) int64."""
    kernel_map = x.sites.kernel_map(x.level, 2, 1)
    table = torch.full((kernel_map.num_out, 8), -1, dtype=torch.int64, device=x.feats.device)
    start = 0
    for tap, size in enumerate(kernel_map.sizes):
        table[kernel_map.out_rows[start : start + size].long(), tap] = kernel_map.in_rows[start : start + size].long()
        start += size
    return table


def _mean_weights(x: SparseTensor, present: torch.Tensor) -> torch.Tensor:
    """Mean over the level-1 cells of each site of their trilinear weights on the sites that are `present` (T, 8)."""
    cells = x.sites.coords(1)[:, 1:]
    parents = x.sites.parents(1, x.level)  # (S,)
    inside = (cells % x.level).float() / x.level  # (S, 3) in 0..1
    corners = torch.tensor(kernel_offsets(2), dtype=torch.float32, device="cpu").to(cells.device, non_blocking=True)  # (8, 3)
    weights = torch.where(corners.bool()[None], inside[:, None], 1 - inside[:, None]).prod(dim=2)  # (S, 8)
    weights = weights * present[parents]
    weights = weights / (weights.sum(dim=1, keepdim=True) + EPSILON)
    sums = torch.zeros(present.shape, device=cells.device).index_add_(0, parents, weights)
    counts = counts_of(parents, len(present)).clamp(min=1)
    return sums / counts[:, None]
