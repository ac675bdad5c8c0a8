"""What the CUDA functions of torchsparse.backend 2.1.0 do, in PyTorch, for where there is no device: written after their sources, and as
strict as they are, which read memory by the layout that they expect and check nothing. tests/gpu runs the real ones.

Tables: (T rounded up to 128, K) int32, -1 for none. Order: of each part of the taps, the row of the table that stands at each place.
"""

from collections import Counter

import torch

BLOCK = 128
THREADS = 256  # of a block of its hash table: those of the last one read coordinates, whether there are any or not


class HashTable:
    """GPUHashTable(keys, values): coordinates (S, 4) [x, y, z, b] to 1 + their row. A later insertion of the same one stays."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        assert keys.dtype == torch.int64
        assert values.dtype == torch.int32
        assert len(keys) == len(values) > 0
        self._places, self._rows = len(keys), dict[tuple[int, ...], int]()

    def insert_coords(self, coords: torch.Tensor) -> None:
        _plain(coords, torch.int32)
        self._rows |= {tuple(site): row + 1 for row, site in enumerate(coords.tolist())}
        assert len(self._rows) < self._places, "the real one would search a full table for ever"

    def lookup_coords(self, coords: torch.Tensor, kernel_size: torch.Tensor, stride: torch.Tensor, taps: int) -> torch.Tensor:
        for tensor in (coords, kernel_size, stride):
            _plain(tensor, torch.int32)
        behind = coords.untyped_storage().nbytes() - coords.itemsize * (coords.storage_offset() + coords.numel())
        assert behind >= 4 * coords.itemsize * THREADS // taps, "the real one reads past the end"
        found = torch.zeros(-(-len(coords) // BLOCK) * BLOCK, taps, dtype=torch.int32)
        for row, (*xyz, b) in enumerate(coords.tolist()):
            for tap in range(taps):
                site = [c * s + d for c, s, d in zip(xyz, stride.tolist(), offset(tap, kernel_size.tolist()), strict=True)]
                found[row, tap] = self._rows.get((*site, b), 0)
        return found


def offset(tap: int, sizes: list[int]) -> list[int]:
    """As its lookup numbers taps: x fastest where they are odd in number, z fastest where even."""
    steps, odd = [0, 0, 0], sizes[0] * sizes[1] * sizes[2] % 2
    for axis in (0, 1, 2) if odd else (2, 1, 0):
        steps[axis] = tap % sizes[axis] - (sizes[axis] - 1) // 2
        tap //= sizes[axis]
    return steps


class CudaFunctions:
    """torchsparse.backend as it is built with CUDA. called: how often each function was. parts: in how many products were summed."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()
        self.parts = set[int]()

    def derive_bitmask_from_out_in_map(self, table: torch.Tensor, splits: int, num_out: int) -> torch.Tensor:
        """Which taps of each part a row reads, as bits; -1 for rows that are none: (splits, rows)."""
        self.called["bitmask"] += 1
        _plain(table, torch.int32)
        masks = torch.full((splits, len(table)), -1, dtype=torch.int32)
        for part, taps in enumerate(_parts(table, splits)):
            bits = torch.tensor([1 << bit for bit in range(len(taps))], dtype=torch.int32)
            masks[part, :num_out] = ((table[:num_out, taps] >= 0) * bits).sum(1).int()
        return masks

    def reorder_out_in_map_cuda(self, table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        _plain(order, torch.int32)
        ordered = table.clone()
        for part, taps in enumerate(_parts(table, len(order))):
            ordered[:, taps] = table[order[part].long()][:, taps]
        return ordered

    def reduce_bitmask_cuda(self, masks: torch.Tensor, rows: int) -> torch.Tensor:
        """The taps that any row of a block reads: (splits, blocks)."""
        _plain(masks, torch.int32)
        blocks = [torch.zeros(len(masks), dtype=torch.int32) for _ in range(-(-masks.shape[1] // rows))]
        for number, block in enumerate(blocks):
            for column in masks[:, number * rows : (number + 1) * rows].unbind(1):
                block |= column
        return torch.stack(blocks, dim=1)

    def conv_forward_implicit_gemm_cuda(
        self, feats: torch.Tensor, weight: torch.Tensor, table: torch.Tensor, num_out: int, cout: int, tf32: bool, fp16: bool
    ) -> torch.Tensor:
        self.called["unsorted"] += 1
        _factors(feats, weight, fp16)
        assert len(table) == -(-num_out // BLOCK) * BLOCK
        assert weight.shape == (table.shape[1], feats.shape[1], cout)
        return _product(feats, weight, table)[:num_out].to(feats.dtype)

    def conv_forward_implicit_gemm_sorted_cuda(
        self,
        feats: torch.Tensor,
        weight: torch.Tensor,
        table: torch.Tensor,
        masks: torch.Tensor,
        order: torch.Tensor,
        num_out: int,
        cout: int,
        tf32: bool,
        fp16: bool,
    ) -> torch.Tensor:
        self.called["sorted"] += 1
        self.parts.add(len(order))
        _factors(feats, weight, fp16)
        _plain(masks, torch.int32)
        out = torch.full((len(order), num_out, cout), torch.nan)
        for part, taps in enumerate(_parts(table, len(order))):
            read = _read(table, masks, part, taps, BLOCK)
            product = _product(feats, weight[taps], read)
            inside = order[part] < num_out
            out[part, order[part][inside].long()] = product[inside]
        return out.sum(0).to(feats.dtype)

    def conv_backward_wgrad_implicit_gemm_sorted_cuda(
        self,
        feats: torch.Tensor,
        grad: torch.Tensor,
        table: torch.Tensor,
        masks: torch.Tensor,
        order: torch.Tensor,
        splits: int,
        tf32: bool,
        fp16: bool,
    ) -> torch.Tensor:
        """(K · Cin, Cout)."""
        self.called["gradient"] += 1
        _factors(feats, grad, fp16)
        assert len(grad) == len(table), "the real one reads past the end"
        out = torch.zeros(table.shape[1], feats.shape[1], grad.shape[1])
        for part, taps in enumerate(_parts(table, len(order))):
            read = _read(table, masks, part, taps, 64)
            for column, tap in zip(read.unbind(1), taps, strict=True):
                there = column >= 0
                out[tap] = feats[column[there].long()].float().t() @ grad[order[part][there].long()].float()
        return out.flatten(0, 1).to(feats.dtype)


def _parts(table: torch.Tensor, splits: int) -> list[list[int]]:
    taps = list(range(table.shape[1]))
    each = -(-len(taps) // splits)
    return [taps[part * each : (part + 1) * each] for part in range(splits)]


def _read(table: torch.Tensor, masks: torch.Tensor, part: int, taps: list[int], block: int) -> torch.Tensor:
    """The table's columns of these taps, without what the mask of a block passes over."""
    bits = torch.tensor([1 << bit for bit in range(len(taps))], dtype=torch.int32)
    looked_at = (masks[part].repeat_interleave(block)[: len(table), None] & bits) != 0
    assert len(looked_at) == len(table)
    return torch.where(looked_at, table[:, taps], -1)


def _product(feats: torch.Tensor, weight: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(len(table), weight.shape[2])
    for column, filters in zip(table.unbind(1), weight, strict=True):
        there = column >= 0
        out[there] += feats[column[there].long()].float() @ filters.float()
    return out


def _factors(left: torch.Tensor, right: torch.Tensor, fp16: bool) -> None:
    assert left.dtype == right.dtype
    assert left.dtype == torch.float32 or (left.dtype == torch.float16 and fp16)
    for each in (left, right):
        _plain(each, left.dtype)


def _plain(tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """As it is read: through a pointer."""
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
