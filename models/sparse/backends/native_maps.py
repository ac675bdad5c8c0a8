"""Kernel maps of the native engine: sites that ascend by key are found by merging two lists. S sites, P pairs."""

import ctypes

import torch

from models.errors import ExtentTooLarge
from models.sparse.backends.arena import ARENA
from models.sparse.backends.native_library import INT, address, map_pairs
from models.sparse.kernel_map import KernelMap, Lines, kernel_offsets
from models.sparse.search import check_reach
from models.sparse.tying import kernel_side, tap_groups


def native_coords(coords: torch.Tensor) -> bool:
    """Whether the library can read them where they are."""
    return coords.device.type == "cpu" and coords.dtype == torch.int32


def native_downsample(library: ctypes.CDLL, coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """unique(floor(c / stride)), ascending, and the output row of every input row: (S, 4) -> (T, 4), (S,).

    Raises: ExtentTooLarge, MemoryError, ValueError (negative batch index).
    """
    coords = coords.contiguous()
    sites, parents = torch.empty_like(coords), torch.empty(len(coords), dtype=torch.int64, device="cpu")
    count = library.fip_downsample(address(coords), len(coords), stride, address(sites), address(parents))
    if count == -1:
        raise MemoryError("no memory left to sort sites")
    if count == -3:
        raise ValueError("a batch index below zero")
    if count == -2:
        raise ExtentTooLarge("the box around the sites has more than 2^62 cells")
    return sites[:count].clone(), parents


def native_tie(library: ctypes.CDLL, kernel_map: KernelMap, axes: str) -> KernelMap | None:
    """The tied map (see models.sparse.tying); None for the rare ties that are not written in C. Raises: MemoryError."""
    side, pairs = kernel_side(len(kernel_map.sizes)), len(kernel_map.in_rows)
    # in a map of cells that do not overlap every input row, or in its transpose every output row, has one pair
    disjoint = side == 2 and pairs in (kernel_map.num_in, kernel_map.num_out)
    if kernel_map.in_rows.device.type != "cpu" or not (disjoint or (len(axes) == 1 and side <= 3)):
        return None
    groups = tap_groups(side, axes)
    width = side ** len(axes)
    count = len(groups) // width
    members = groups.argsort(stable=True).int()  # taps of a group in the order of their offsets, group after group
    in_rows, out_rows = torch.empty(pairs, dtype=torch.int32, device="cpu"), torch.empty(pairs, dtype=torch.int32, device="cpu")
    starts = torch.empty(count + 1, dtype=torch.int64, device="cpu")
    line_starts, line_rows = torch.empty(pairs + 1, dtype=torch.int32, device="cpu"), torch.empty(pairs, dtype=torch.int32, device="cpu")
    found = library.fip_tie(
        ctypes.byref(map_pairs(kernel_map)), address(members), count, width, disjoint,
        address(in_rows), address(out_rows), address(starts), address(line_starts), address(line_rows),
    )  # fmt: skip
    if found < 0:
        raise MemoryError("no memory left to tie a kernel map")
    used, sizes = int(starts[-1]), tuple(starts.diff().tolist())
    lines = Lines(line_starts[: found + 1].clone(), line_rows[: int(line_starts[found])].clone())
    return KernelMap(in_rows[:used].clone(), out_rows[:used].clone(), sizes, kernel_map.num_in, kernel_map.num_out, None, lines)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """One list of rows after the other: (P,) int32."""
    return torch.cat(parts, out=ARENA.empty(sum(len(part) for part in parts), dtype=torch.int32))


class SortedSites:
    """Sites whose keys ascend row by row, as the voxelizer leaves them: other sites then are found by merging two lists."""

    MARGIN = 4  # empty cells around the box, so that a key plus a kernel offset never lands in a neighbouring column

    def __init__(self, coords: torch.Tensor, library: ctypes.CDLL, low: list[int], size: list[int], keys: torch.Tensor) -> None:
        self.coords, self._library, self._low, self._size, self._keys = coords, library, low, size, keys

    @classmethod
    def of(cls, coords: torch.Tensor, library: ctypes.CDLL) -> "SortedSites | None":
        """None where the rows do not ascend or the box is too large: the general index then sorts, or says what is wrong."""
        if not len(coords) or not native_coords(coords):
            return None
        coords = coords.contiguous()
        low, high = (bound.tolist() for bound in coords.aminmax(dim=0))
        size = [int(high[d] - low[d] + 2 * cls.MARGIN + 1) for d in (1, 2, 3)]
        if (high[0] + 1) * size[0] * size[1] * size[2] > 1 << 62 or low[0] < 0:
            return None
        sites = cls(
            coords, library, [int(low[d]) - cls.MARGIN for d in (1, 2, 3)], size, torch.empty(len(coords), dtype=torch.int64, device="cpu")
        )
        return sites if sites._write_keys(coords, 1, sites._keys) else None

    def _write_keys(self, coords: torch.Tensor, stride: int, keys: torch.Tensor) -> bool:
        low, size = ((INT * 3)(*each) for each in (self._low, self._size))
        return bool(self._library.fip_keys(address(coords), len(coords), stride, low, size, address(keys)))

    def kernel_map(self, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap | None:
        """At stride 1 the second half of an odd kernel mirrors the first. None where output sites do not ascend.

        Raises: ValueError when a kernel reaches further than the keys can tell.
        """
        check_reach(kernel_size, stride, self.MARGIN)
        num_in, num_out = len(self.coords), len(out_coords)
        wanted = self._keys
        if stride > 1:
            wanted = ARENA.empty(num_out, dtype=torch.int64)
            if not self._write_keys(out_coords.contiguous(), stride, wanted):
                return None
        offsets = kernel_offsets(kernel_size)
        mirrored = stride == 1 and kernel_size % 2 == 1
        centre = len(offsets) // 2 if mirrored else None
        searched = offsets[:centre]
        found = ARENA.empty(2, len(searched), num_out, dtype=torch.int32)
        sizes = torch.zeros(len(searched), dtype=torch.int64, device="cpu")
        if searched:
            columns = [(dx * self._size[1] + dy) * self._size[2] + dz for dx, dy, dz in searched[::kernel_size]]
            self._library.fip_columns(
                address(self._keys), num_in, address(wanted), num_out, (INT * len(columns))(*columns), len(searched), kernel_size,
                address(found[0]), address(found[1]), address(sizes), torch.get_num_threads(),
            )  # fmt: skip
        counts = sizes.tolist()
        ins = [found[0, tap, :count] for tap, count in enumerate(counts)]
        outs = [found[1, tap, :count] for tap, count in enumerate(counts)]
        if centre is not None:
            every_row = torch.arange(num_in, dtype=torch.int32, device="cpu")
            ins, outs = [*ins, every_row, *reversed(outs)], [*outs, every_row, *reversed(ins)]
        return KernelMap(_joined(ins), _joined(outs), tuple(len(rows) for rows in ins), num_in, num_out, centre)
