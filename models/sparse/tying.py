"""Filters that repeat themselves along an axis, and the shorter kernel maps they allow.

An inflated filter is a 2D filter copied along one axis: W[a, b, c] = V[b, c]. Then a convolution is Σ_bc V[b, c] · B(b, c), where
B sums the input rows that the taps (·, b, c) would read: nine products instead of 27. The same holds for a 1×1 filter that was
copied into all taps of a 2×2×2. Exact up to the order of sums. G tap groups, S input rows, T output rows.
"""

import torch

from models.sparse.kernel_map import KernelMap, Lines

AXES = "xyz"


def kernel_side(taps: int) -> int:
    """k of k³ taps."""
    return next(side for side in (1, 2, 3, 4, 5) if side**3 >= taps)


def tied_axes(weight: torch.Tensor) -> str:
    """Axes of "xyz" along which a filter (k³, Cin, Cout) is the same in every tap, bit for bit; "" where there are none."""
    side = kernel_side(len(weight))
    if side == 1:
        return ""
    cube = weight.unflatten(0, (side, side, side))
    return "".join(axis for dim, axis in enumerate(AXES) if _repeats(cube, dim))


def tied_filter(weight: torch.Tensor, axes: str) -> torch.Tensor:
    """The filter without its repetitions: (k³, Cin, Cout) -> (G, Cin, Cout), taps in the order of the axes that are left."""
    side = kernel_side(len(weight))
    cube = weight.unflatten(0, (side, side, side))
    for axis in axes:
        cube = cube.narrow(AXES.index(axis), 0, 1)
    found: torch.Tensor = cube.flatten(0, 2)
    return found


def repeat_filter(filters: torch.Tensor, kernel_size: int, axes: str) -> torch.Tensor:
    """The inverse of `tied_filter`: (G, Cin, Cout) -> (k³, Cin, Cout)."""
    shape = [1 if axis in axes else kernel_size for axis in AXES]
    cube = filters.unflatten(0, shape)
    whole: torch.Tensor = cube.expand(kernel_size, kernel_size, kernel_size, *filters.shape[1:]).flatten(0, 2)
    return whole


def tap_groups(kernel_size: int, axes: str) -> torch.Tensor:
    """The row of the tied filter that each tap uses: (k³,) int64."""
    shape = [1 if axis in axes else kernel_size for axis in AXES]
    groups = torch.arange(torch.Size(shape).numel())[:, None, None]
    return repeat_filter(groups, kernel_size, axes).flatten()


def _repeats(cube: torch.Tensor, dim: int) -> bool:
    """Whether all slices along a dimension are equal; a look at a corner spares most comparisons of everything."""
    first = cube.narrow(dim, 0, 1)
    corner = cube[..., :1, :16]
    if not bool((corner == corner.narrow(dim, 0, 1)).all()):
        return False
    return all(torch.equal(cube.narrow(dim, place, 1), first) for place in range(1, cube.shape[dim]))


def tie(kernel_map: KernelMap, axes: str) -> KernelMap:
    """The map of a tied filter from the map of the whole one: pairs of the same output row and group become one pair.

    Where such a pair stands for several input rows, it reads a line: their sum (see KernelMap). Lines that several pairs read
    are summed once.
    """
    side = kernel_side(len(kernel_map.sizes))
    device = kernel_map.in_rows.device
    groups = tap_groups(side, axes).to(device)
    num_groups = int(groups.max()) + 1
    place = torch.zeros(len(groups), dtype=torch.int64, device=device)  # of a tap among the taps of its group
    for group in range(num_groups):
        members = (groups == group).nonzero().squeeze(1)
        place[members] = torch.arange(len(members), device=device)
    width = side ** len(axes)
    table = torch.full((num_groups, kernel_map.num_out, width), -1, dtype=torch.int64, device=device)
    taps = torch.repeat_interleave(torch.arange(len(groups), device=device), torch.tensor(kernel_map.sizes, device=device))
    table[groups[taps], kernel_map.out_rows.long(), place[taps]] = kernel_map.in_rows.long()
    occupied = (table >= 0).any(2)  # (G, T)
    sizes = tuple(int(size) for size in occupied.sum(1))
    members_of = table[occupied]  # (P, width), group after group, output rows ascending
    out_rows = occupied.nonzero()[:, 1]
    counts = (members_of >= 0).sum(1)
    in_rows = members_of.amax(1)  # right where there is one member
    many = counts > 1
    unique, line = torch.unique(members_of[many], dim=0, return_inverse=True)
    in_rows[many] = kernel_map.num_in + line
    present = unique >= 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), present.sum(1).cumsum(0)])
    lines = Lines(starts.int(), unique[present].int())
    return KernelMap(in_rows.int(), out_rows.int(), sizes, kernel_map.num_in, kernel_map.num_out, None, lines)
