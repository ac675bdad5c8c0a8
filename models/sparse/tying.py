"""Filters that repeat themselves along an axis, and the shorter kernel maps they allow.

An inflated filter is a 2D filter copied along one axis: W[a, b, c] = V[b, c]. Then a convolution is Σ_bc V[b, c] · B(b, c), where
B sums the input rows that the taps (·, b, c) would read: nine products instead of 27. The same holds for a 1×1 filter that was
copied into all taps of a 2×2×2. Exact up to the order of sums. G tap groups, S input rows, T output rows.
"""

import functools
import itertools

import numpy as np
import torch

from models.sparse.dense_table import places
from models.sparse.kernel_map import KernelMap, Lines

AXES = "xyz"


def kernel_side(taps: int) -> int:
    """k of k³ taps. Raises: ValueError."""
    side: int = round(float(taps) ** (1 / 3))
    if side**3 != taps:
        raise ValueError(f"{taps} taps are no cube")
    return side


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
    groups = torch.arange(torch.Size(shape).numel(), device="cpu")[:, None, None]
    return repeat_filter(groups, kernel_size, axes).flatten()


def _repeats(cube: torch.Tensor, dim: int) -> bool:
    """Whether all slices along a dimension are equal; a look at a corner spares most comparisons of everything."""
    first = cube.narrow(dim, 0, 1)
    corner = cube[..., :1, :16]
    if not bool((corner == corner.narrow(dim, 0, 1)).all()):
        return False
    return all(_equal(cube.narrow(dim, place, 1), first) for place in range(1, cube.shape[dim]))


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit; on a CPU numpy compares twice as fast as torch."""
    if a.device.type == "cpu" and a.dtype == torch.float32:
        return np.array_equal(a.detach().numpy().view(np.int32), b.detach().numpy().view(np.int32))
    return torch.equal(a, b)


def tie(kernel_map: KernelMap, axes: str) -> KernelMap:
    """The map of a tied filter from the map of the whole one: pairs of the same output row and group become one pair.

    Where such a pair stands for several input rows, it reads a line: their sum (see KernelMap). Lines that several pairs read
    are summed once.
    """
    groups = _taps_of_groups(kernel_side(len(kernel_map.sizes)), axes)
    members, out_rows, sizes = (_group_by_group if _cached(kernel_map.in_rows) else _all_at_once)(kernel_map, groups)
    in_rows = _rows_of_one(members)
    many = places(_taken(members) > 1)
    lines, line_of = _lines(_at(members, many), kernel_map)
    in_rows.scatter_(0, many.long(), line_of + kernel_map.num_in)
    return KernelMap(in_rows, out_rows, sizes, kernel_map.num_in, kernel_map.num_out, None, lines)


def _taps_of_groups(kernel_size: int, axes: str) -> list[list[int]]:
    """The taps of each group, in their order."""
    group_of = tap_groups(kernel_size, axes).tolist()
    return [[tap for tap, group in enumerate(group_of) if group == wanted] for wanted in range(max(group_of) + 1)]


# The rows that pairs read, -1 for none, group after group: (W, P) int32; the outputs (P,) int32; how many pairs a group has.
Members = tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]


def _group_by_group(kernel_map: KernelMap, groups: list[list[int]]) -> Members:
    """For a CPU, in whose cache a group has room."""
    found = [_members(kernel_map, taps) for taps in groups]
    sizes = tuple(len(rows) for _, rows in found)
    members = kernel_map.in_rows.new_empty(len(groups[0]), sum(sizes))
    for slot, parts in zip(members, zip(*(slots for slots, _ in found), strict=True), strict=True):
        torch.cat(parts, out=slot)
    return members, torch.cat([rows for _, rows in found]), sizes


def _all_at_once(kernel_map: KernelMap, groups: list[list[int]]) -> Members:
    """For a device, which is waited for twice, whatever the number of groups."""
    taps = torch.tensor(groups, device="cpu").t().flatten()  # slot by slot
    sources = kernel_map.sources
    slots = sources.index_select(0, taps.to(sources.device, non_blocking=True)).unflatten(0, (-1, len(groups)))  # (W, G, T)
    taken = _taken(slots) > 0  # (G, T)
    group, out_rows = taken.nonzero(as_tuple=True)
    return slots[:, group, out_rows], out_rows.int(), tuple(taken.sum(1).tolist())


def _members(kernel_map: KernelMap, taps: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the W taps of a group read for each output row they write: W times rows (P,) int32, -1 for none; the outputs (P,) int32."""
    starts = [0, *itertools.accumulate(kernel_map.sizes)]
    slots = kernel_map.in_rows.new_full((len(taps), kernel_map.num_out), -1)
    for slot, tap in zip(slots, taps, strict=True):
        pairs = slice(starts[tap], starts[tap + 1])
        slot.scatter_(0, kernel_map.out_rows[pairs].long(), kernel_map.in_rows[pairs])
    written = places(_taken(slots) > 0)
    return [slot.index_select(0, written) for slot in slots], written


def _cached(tensor: torch.Tensor) -> bool:
    """Whether it pays to do slot by slot what a CPU's cache has room for; a device is asked for everything at once."""
    return tensor.device.type == "cpu"


def _taken(slots: torch.Tensor) -> torch.Tensor:
    """How many of W slots hold a row: (W, …) -> (…) uint8."""
    held: torch.Tensor
    if _cached(slots):
        held = functools.reduce(torch.add, [(slot >= 0).view(torch.uint8) for slot in slots])
    else:
        held = (slots >= 0).sum(0, dtype=torch.uint8)
    return held


def _rows_of_one(members: torch.Tensor) -> torch.Tensor:
    """The row that a pair reads, where it is one: (W, P) -> (P,)."""
    rows: torch.Tensor = functools.reduce(torch.maximum, members) if _cached(members) else members.amax(0)
    return rows


def _at(members: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """The slots of some pairs: (W, P), (R,) -> (W, R)."""
    if not _cached(members):
        return members.index_select(1, pairs)
    found = members.new_empty(len(members), len(pairs))
    for slot, taken in zip(members, found, strict=True):
        torch.index_select(slot, 0, pairs, out=taken)
    return found


def _lines(members: torch.Tensor, kernel_map: KernelMap) -> tuple[Lines, torch.Tensor]:
    """The different lines among R pairs of two members at least, given as W slots (W, R), and the line of each: (R,) int32."""
    device = members.device
    named = _names(members, kernel_map)
    if named is None:
        kept, number = members, torch.arange(members.shape[1], dtype=torch.int32, device=device)
    else:
        names, num_names = named
        marks = torch.zeros(num_names, dtype=torch.bool, device=device).index_fill_(0, names, True)
        upto = marks.cumsum(0, dtype=torch.int32)
        number = upto.index_select(0, names) - 1
        holder = torch.empty(int(upto[-1]) if num_names else 0, dtype=torch.int64, device=device)
        holder.scatter_(0, number.long(), torch.arange(len(names), device=device))  # any pair of that name: all mean one line
        kept = _at(members, holder)
    starts = torch.zeros(kept.shape[1] + 1, dtype=torch.int32, device=device)
    torch.cumsum(_taken(kept), 0, dtype=torch.int32, out=starts[1:])
    rows = kept.t().flatten()  # (E · W,)
    return Lines(starts, rows.index_select(0, places(rows >= 0))), number


def _names(members: torch.Tensor, kernel_map: KernelMap) -> tuple[torch.Tensor, int] | None:
    """A number for each of R pairs, the same for the same rows, below the second result: (R,) int64; None where all pairs differ.

    Up to three sites along one axis are told by the first and by which of the two places after it are taken, because the map
    says what stands there. Where no input row is read twice, as by a 2×2×2 of stride 2, all pairs differ. Else by sorting.
    """
    if len(members) <= 3:
        led = members[0] >= 0  # else the other two are there, one after the other
        first = torch.where(led, members[0], members[1]).long()
        if len(members) == 3:
            ways = 2 * _taken(members[2:]) + _taken(members[1:2]) - 1
            first.add_(ways.mul_(led.view(torch.uint8)).long(), alpha=kernel_map.num_in)
        return first, 3 * kernel_map.num_in
    if _read_once(kernel_map):
        return None
    slots = members.gather(0, (members < 0).byte().argsort(dim=0, stable=True))  # no gaps: two outputs may see one line shifted
    name = torch.zeros(members.shape[1], dtype=torch.int64, device=members.device)
    for slot in slots:
        _, name = torch.unique(name * (kernel_map.num_in + 1) + slot + 1, return_inverse=True)
    return name, len(name)


def _read_once(kernel_map: KernelMap) -> bool:
    """Whether no input row is read by two pairs."""
    if len(kernel_map.in_rows) > kernel_map.num_in:
        return False
    reads = torch.zeros(kernel_map.num_in, dtype=torch.int32, device=kernel_map.in_rows.device)
    reads.index_add_(0, kernel_map.in_rows, torch.ones_like(kernel_map.in_rows))
    return not bool((reads > 1).any())
