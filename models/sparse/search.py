"""Kernel maps in plain PyTorch, on any device: a table of cells where the volume is small, else sorted keys and binary searches, on a
CPU one for each column of a kernel, on a device one for all taps, which is waited for twice and not 27 times. All give the same map,
bit for bit.

S input sites, T output sites, K = k³ taps, P pairs. coords (S, 4) int [b, x, y, z].
"""

import itertools

import torch

from models.errors import ExtentTooLarge
from models.sparse.dense_table import ALWAYS_PER_SITE, DenseTable, affordable, places
from models.sparse.kernel_map import KernelMap, kernel_offsets

LARGEST_INT32 = (1 << 31) - 1


class SiteIndex:
    """Finds the row of a coordinate. Coordinates are packed into one integer key, z fastest.

    coords (S, 4) int [b, x, y, z], no duplicates, any order, negative x, y, z allowed. Raises: ExtentTooLarge when the
    bounding box has more than 2^62 cells, ValueError on duplicates.
    """

    MARGIN = 4  # empty cells before each line, so that a key plus a kernel offset never lands on a site of another line

    def __init__(self, coords: torch.Tensor) -> None:
        if len(coords):
            low, high = torch.stack([coords.amin(0), coords.amax(0)]).tolist()
        else:
            low = high = [0, 0, 0, 0]
        size = [top - bottom + 1 + self.MARGIN for bottom, top in zip(low[1:], high[1:], strict=True)]
        x, y, z = size[1] * size[2], size[2], 1
        b = size[0] * x
        cells = (high[0] + 1) * b + self.MARGIN * (x + y + z)  # what lies past the last site is empty too
        if cells > 1 << 62:
            raise ExtentTooLarge(f"a batch of {high[0] + 1} with {size} cells cannot be indexed")
        self._strides = (b, x, y, z)
        self._start = sum((self.MARGIN - bottom) * stride for bottom, stride in zip(low[1:], (x, y, z), strict=True))
        self._dtype = torch.int32 if cells <= LARGEST_INT32 else torch.int64
        keys = self.keys(coords)
        self.in_order = bool((keys[1:] > keys[:-1]).all())
        self._finder: DenseTable | SortedKeys
        self._finder = DenseTable(keys, cells) if affordable(cells, len(keys)) else SortedKeys(keys, self.in_order)
        self.coords = coords

    def keys(self, coords: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Packed key of each site (b, scale · x, scale · y, scale · z): (T, 4) -> (T,)."""
        b, x, y, z = self._strides
        columns = coords.to(torch.int64).unbind(1)
        keys: torch.Tensor = columns[0] * b + self._start
        for column, stride in zip(columns[1:], (x, y, z), strict=True):
            keys.add_(column, alpha=stride * scale)
        return keys.to(self._dtype)

    def column(self, keys: torch.Tensor, dx: int, dy: int, dzs: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each dz of one column of a kernel: (rows found, positions in `keys` they were found for), both int32."""
        _, x, y, _ = self._strides
        return self._finder.column(keys, [dx * x + dy * y + dz for dz in dzs])

    def sources(self, keys: torch.Tensor, kernel_size: int) -> torch.Tensor:
        """The row that each of `keys` (T,) reads through each tap, -1 for none: (K, T) int32."""
        _, x, y, _ = self._strides
        side = torch.arange(kernel_size, dtype=keys.dtype, device=keys.device) - (kernel_size - 1) // 2
        steps = ((side[:, None] * x + side * y)[..., None] + side).flatten()  # (K,), in the order of kernel_offsets()
        return self._finder.rows((steps[:, None] + keys).flatten()).view(len(steps), len(keys))


class SortedKeys:
    """Keys (S,) in ascending order. Raises: ValueError on duplicates."""

    def __init__(self, keys: torch.Tensor, in_order: bool) -> None:
        self._order: torch.Tensor | None = None
        if not in_order:
            keys, order = keys.sort()
            self._order = order.int()
            if bool((keys[1:] == keys[:-1]).any()):
                raise ValueError("duplicate coordinates in a sparse tensor")
        self._keys = torch.cat([keys, keys.new_full((1,), torch.iinfo(keys.dtype).max)])  # found where nothing is

    def column(self, keys: torch.Tensor, steps: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """As DenseTable.column, for steps that differ by one: neighbours in z are next to each other, so one search serves all."""
        wanted = keys + steps[0]
        spot = _lower_bound(self._keys, wanted)
        found = []
        for number, step in enumerate(steps):
            if number:
                wanted = wanted + (step - steps[number - 1])
            hit = self._keys.index_select(0, spot) == wanted
            positions = places(hit)
            rows = spot.index_select(0, positions)
            found.append((rows.int() if self._order is None else self._order.index_select(0, rows), positions))
            spot = spot + hit
        return found

    def rows(self, wanted: torch.Tensor) -> torch.Tensor:
        """As DenseTable.rows."""
        spot = _lower_bound(self._keys, wanted)
        hit = self._keys.index_select(0, spot) == wanted
        if self._order is not None:
            spot = torch.cat([self._order, self._order.new_zeros(1)]).index_select(0, spot)
        return torch.where(hit, spot.int(), -1)


def _lower_bound(ascending: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """First place of ascending (S,) that is not below: (Q,) -> (Q,) int64. On a CPU numpy takes half the time."""
    if ascending.device.type == "cpu":
        return torch.from_numpy(ascending.numpy().searchsorted(wanted.numpy()))
    return torch.searchsorted(ascending, wanted)


def build_kernel_map(index: SiteIndex, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
    """Pairs of a convolution: output site o and tap d read input site `stride · o + d`.

    out_coords (T, 4) in cells of the output level; at stride 1 they are the input sites, row by row, which lets half of an
    odd kernel be mirrored instead of searched. Raises: ValueError when a kernel reaches further than the index can tell.
    """
    check_reach(kernel_size, stride, index.MARGIN)
    keys = index.keys(out_coords, stride)
    centre = kernel_size**3 // 2 if stride == 1 and kernel_size % 2 else None
    if out_coords.device.type == "cpu":
        return column_by_column(index, keys, kernel_size, centre)
    return all_at_once(index, keys, kernel_size, centre)


def all_at_once(index: SiteIndex, keys: torch.Tensor, kernel_size: int, centre: int | None) -> KernelMap:
    """Where a search costs less than to wait for what it found."""
    return KernelMap.of_sources(index.sources(keys, kernel_size), len(index.coords), centre)


def column_by_column(index: SiteIndex, keys: torch.Tensor, kernel_size: int, centre: int | None) -> KernelMap:
    """Neighbours along z are found by one search, and what lies behind the tap `centre`, if any, not searched at all."""
    offsets = kernel_offsets(kernel_size)
    mirrored = centre is not None
    pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    searched = offsets[:centre]
    for (dx, dy), column in itertools.groupby(enumerate(searched), key=lambda tap: tap[1][:2]):
        taps = list(column)
        found = index.column(keys, dx, dy, [offset[2] for _, offset in taps])
        for (tap, _), (in_rows, out_rows) in zip(taps, found, strict=True):
            pairs[tap] = in_rows, out_rows
            if mirrored:
                pairs[len(offsets) - 1 - tap] = (out_rows, in_rows) if index.in_order else _by_second(out_rows, in_rows)
    if centre is not None:
        every_row = torch.arange(len(index.coords), dtype=torch.int32, device=keys.device)
        pairs[centre] = every_row, every_row
    ordered = [pairs[tap] for tap in range(len(offsets))]
    return KernelMap(
        in_rows=torch.cat([in_rows for in_rows, _ in ordered]),
        out_rows=torch.cat([out_rows for _, out_rows in ordered]),
        sizes=tuple(len(in_rows) for in_rows, _ in ordered),
        num_in=len(index.coords),
        num_out=len(keys),
        identity_tap=centre,
    )


def check_reach(kernel_size: int, stride: int, margin: int) -> None:
    """Raises: ValueError when a kernel may ask for cells beyond the margin around an index's box."""
    if kernel_size // 2 + stride - 1 > margin:
        raise ValueError(f"a kernel of {kernel_size} with stride {stride} reaches further than {margin} cells")


def _by_second(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs in ascending order of their second half."""
    second, order = second.sort()
    return first.index_select(0, order), second


def downsample_sites(coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Output sites of a strided convolution: unique(floor(c / stride)), ascending, and each input row's output row.

    coords (S, 4) -> (T, 4), (S,). The floor also holds for negative coordinates. Source: Image2Point's nets need this
    set for every kernel size, so that a k3 branch and its k2 shortcut end on the same sites.
    """
    if len(coords) == 0:
        return coords, torch.zeros(0, dtype=torch.int64, device=coords.device)
    b, *xyz = coords.to(torch.int64).unbind(1)
    x, y, z = (_floor_div(column, stride) for column in xyz)
    columns = x, y, z
    last, *bounds = torch.stack([b.max(), *(column.min() for column in columns), *(column.max() for column in columns)]).tolist()
    lows, highs = bounds[:3], bounds[3:]
    sizes = [high - low + 1 for low, high in zip(lows, highs, strict=True)]
    cells = (last + 1) * sizes[0] * sizes[1] * sizes[2]
    keys = ((b * sizes[0] + (x - lows[0])) * sizes[1] + (y - lows[1])) * sizes[2] + (z - lows[2])
    if cells <= ALWAYS_PER_SITE * len(keys):
        number, count = _number_by_table(keys, cells)
    else:
        number, count = _number_by_sorting(keys.int() if cells <= LARGEST_INT32 else keys)
    member = torch.empty(count, dtype=torch.int64, device=coords.device)
    member.scatter_(0, number, torch.arange(len(keys), device=coords.device))  # any one of the rows of a site: all say the same
    sites = torch.stack([column.index_select(0, member) for column in (b, x, y, z)], dim=1)
    return sites.to(coords.dtype), number


def _floor_div(cells: torch.Tensor, stride: int) -> torch.Tensor:
    """floor(c / stride), also of negative cells; by a shift where it can be, five times as fast."""
    if stride & (stride - 1) == 0:
        return cells >> (stride.bit_length() - 1)
    return torch.div(cells, stride, rounding_mode="floor")


def _number_by_table(keys: torch.Tensor, cells: int) -> tuple[torch.Tensor, int]:
    """Rank of each key among the different ones, (S,) -> (S,) int64, and how many there are."""
    occupied = torch.zeros(cells, dtype=torch.bool, device=keys.device)
    occupied[keys] = True
    rank = occupied.cumsum(0)  # (cells,), from 1
    return rank.index_select(0, keys) - 1, int(rank[-1])


def _number_by_sorting(keys: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The same by sorting. Neighbours along z that fall together are next to each other, so they are put together first."""
    runs, run_of = torch.unique_consecutive(keys, return_inverse=True)
    ascending, order = runs.sort(stable=True)  # stable: integers are then sorted by radix
    steps = torch.zeros(len(runs), dtype=torch.int64, device=keys.device)
    steps[1:] = ascending[1:] != ascending[:-1]
    rank = steps.cumsum(0)
    number = torch.empty_like(rank).scatter_(0, order, rank)
    return number.index_select(0, run_of), int(rank[-1]) + 1
