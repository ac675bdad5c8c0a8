"""Kernel maps in plain PyTorch, on any device: sorted keys and one binary search for each column of a kernel.

S input sites, T output sites, K = k³ taps, P pairs. coords (S, 4) int [b, x, y, z].
"""

import itertools

import torch

from models.errors import ExtentTooLarge
from models.sparse.kernel_map import KernelMap, kernel_offsets


class SiteIndex:
    """Finds the row of a coordinate. Coordinates are packed into one sorted int64 key, z fastest.

    coords (S, 4) int [b, x, y, z], no duplicates, any order, negative x, y, z allowed. Raises: ExtentTooLarge when the
    bounding box has more than 2^62 cells, ValueError on duplicates.
    """

    MARGIN = 4  # empty cells around the box, so that a key plus a kernel offset never lands in a neighbouring column

    def __init__(self, coords: torch.Tensor) -> None:
        xyz = coords[:, 1:].long()
        if len(coords):
            low, high = xyz.amin(0), xyz.amax(0)
            batches = int(coords[:, 0].max()) + 1
        else:
            low = high = torch.zeros(3, dtype=torch.int64, device=coords.device)
            batches = 1
        self._origin = low - self.MARGIN
        size = [int(n) for n in (high - low + 2 * self.MARGIN + 1)]
        if batches * size[0] * size[1] * size[2] > 1 << 62:
            raise ExtentTooLarge(f"a batch of {batches} with {size} cells cannot be indexed")
        self._strides = (size[0] * size[1] * size[2], size[1] * size[2], size[2], 1)
        keys = self.keys(coords)
        self._order: torch.Tensor | None = None
        steps = keys.diff()
        if not bool((steps > 0).all()):
            keys, self._order = keys.sort()
            if bool((keys.diff() == 0).any()):
                raise ValueError("duplicate coordinates in a sparse tensor")
        self._sorted_keys = keys
        self.coords = coords

    @property
    def in_order(self) -> bool:
        """Whether the rows ascend by key, so that rows found for ascending rows ascend too."""
        return self._order is None

    def keys(self, coords: torch.Tensor) -> torch.Tensor:
        """Packed key of each coordinate: (T, 4) -> (T,)."""
        b, x, y, z = self._strides
        shifted = coords[:, 1:].long() - self._origin  # (T, 3)
        return coords[:, 0].long() * b + shifted[:, 0] * x + shifted[:, 1] * y + shifted[:, 2] * z

    def column(self, keys: torch.Tensor, dx: int, dy: int, dzs: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each dz of one column of a kernel: (rows found, positions in `keys` they were found for).

        One binary search serves the whole column, because z neighbours are next to each other in the sorted keys.
        """
        _, x, y, _ = self._strides
        wanted = keys + (dx * x + dy * y + dzs[0])
        spot = torch.searchsorted(self._sorted_keys, wanted)
        last = len(self._sorted_keys) - 1
        found = []
        for step, dz in enumerate(dzs):
            if step:
                wanted = wanted + (dz - dzs[step - 1])
            hit = self._sorted_keys[spot.clamp(max=last)] == wanted
            positions = hit.nonzero().squeeze(1)
            rows = spot[positions]
            found.append((rows if self._order is None else self._order[rows], positions))
            spot = spot + hit
        return found


def build_kernel_map(index: SiteIndex, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
    """Pairs of a convolution: output site o and tap d read input site `stride · o + d`.

    out_coords (T, 4) in cells of the output level; at stride 1 they are the input sites, row by row, which lets half of an
    odd kernel be mirrored instead of searched.
    """
    num_in = len(index.coords)
    offsets = kernel_offsets(kernel_size)
    scale = torch.tensor([1, stride, stride, stride], dtype=out_coords.dtype, device=out_coords.device)
    keys = index.keys(out_coords * scale)
    mirrored = stride == 1 and kernel_size % 2 == 1
    centre = len(offsets) // 2 if mirrored else None
    pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    searched = offsets[:centre]
    for (dx, dy), column in itertools.groupby(enumerate(searched), key=lambda tap: tap[1][:2]):
        taps = list(column)
        found = index.column(keys, dx, dy, [offset[2] for _, offset in taps])
        for (tap, _), (in_rows, out_rows) in zip(taps, found, strict=True):
            pairs[tap] = in_rows, out_rows
            if mirrored:
                order = slice(None) if index.in_order else in_rows.argsort()
                pairs[len(offsets) - 1 - tap] = out_rows[order], in_rows[order]
    if centre is not None:
        every_row = torch.arange(num_in, device=out_coords.device)
        pairs[centre] = every_row, every_row
    ordered = [pairs[tap] for tap in range(len(offsets))]
    return KernelMap(
        in_rows=torch.cat([in_rows for in_rows, _ in ordered]).int(),
        out_rows=torch.cat([out_rows for _, out_rows in ordered]).int(),
        sizes=tuple(len(in_rows) for in_rows, _ in ordered),
        num_in=num_in,
        num_out=len(out_coords),
        identity_tap=centre,
    )


def downsample_sites(coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Output sites of a strided convolution: unique(floor(c / stride)), ascending, and each input row's output row.

    coords (S, 4) -> (T, 4), (S,). The floor also holds for negative coordinates. Source: Image2Point's nets need this
    set for every kernel size, so that a k3 branch and its k2 shortcut end on the same sites.
    """
    coarse = torch.cat([coords[:, :1], torch.div(coords[:, 1:], stride, rounding_mode="floor")], dim=1)
    if len(coords) == 0:
        return coarse, torch.zeros(0, dtype=torch.int64, device=coords.device)
    low = coarse[:, 1:].amin(0).long()
    size = coarse[:, 1:].amax(0).long() - low + 1
    shifted = coarse[:, 1:].long() - low
    key = ((coarse[:, 0].long() * size[0] + shifted[:, 0]) * size[1] + shifted[:, 1]) * size[2] + shifted[:, 2]
    unique, inverse = torch.unique(key, return_inverse=True)
    z = unique % size[2]
    y = (unique // size[2]) % size[1]
    x = (unique // (size[2] * size[1])) % size[0]
    b = unique // (size[2] * size[1] * size[0])
    sites = torch.stack([b, x + low[0], y + low[1], z + low[2]], dim=1)
    return sites.to(coords.dtype), inverse
