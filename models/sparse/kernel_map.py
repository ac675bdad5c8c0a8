"""Which input row meets which output row through which tap of a kernel.

S input sites, T output sites, K taps, P pairs. Coordinates at every level are whole cells of that level: a level of
stride 2 has `floor(c / 2)` of the level below, so neighbours always differ by 1.

Tap order, the only one in the project: x slowest, z fastest, so weight.reshape(k, k, k, Cin, Cout) is indexed [x][y][z].
Odd kernels are centred (offsets -1, 0, 1); even kernels look forward (0, 1), as torchsparse and Minkowski have it.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch


def kernel_offsets(kernel_size: int) -> list[tuple[int, int, int]]:
    """Offsets (dx, dy, dz) of the k³ taps in the order of the weight's first dimension."""
    start = -((kernel_size - 1) // 2)
    steps = range(start, start + kernel_size)
    return list(itertools.product(steps, steps, steps))


@dataclass(frozen=True)
class Lines:
    """Rows that stand behind the S input rows of a map: row S + e is the sum of the input rows rows[starts[e]:starts[e + 1]].

    starts (E + 1,) int32, rows (R,) int32, at least two rows a line.
    """

    starts: torch.Tensor
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class KernelMap:
    """Pairs (input row, output row) of every tap, tap after tap.

    in_rows, out_rows (P,) int32; sizes: pairs of each tap, K numbers. Within a tap out_rows ascend and none occurs twice.
    `identity_tap` is the tap whose pairs are row i to row i for every row (the centre of a stride-1 kernel), else None.
    `lines`: where taps share a filter, an input row may be a sum of rows (see models.sparse.tying); K is then smaller than k³.
    """

    in_rows: torch.Tensor
    out_rows: torch.Tensor
    sizes: tuple[int, ...]
    num_in: int
    num_out: int
    identity_tap: int | None = None
    lines: Lines | None = None

    @cached_property
    def starts(self) -> torch.Tensor:
        """Where the pairs of each tap begin, and where the last ones end: (K + 1,) int64, on the CPU."""
        return torch.tensor([0, *itertools.accumulate(self.sizes)], device="cpu")

    @cached_property
    def sources(self) -> torch.Tensor:
        """The input row that each output row reads through each tap, -1 for none: (K, T) int32."""
        table = self.in_rows.new_full((len(self.sizes), self.num_out), -1)
        sizes = torch.tensor(self.sizes, device="cpu").to(table.device, non_blocking=True)
        taps = torch.repeat_interleave(sizes, output_size=len(self.in_rows))
        table.view(-1).scatter_(0, taps * self.num_out + self.out_rows, self.in_rows)
        return table

    @cached_property
    def like_rows(self) -> torch.Tensor:
        """Output rows in an order in which those that read the same taps follow each other: (T,) int64, of up to 62 taps."""
        reads = self.sources >= 0
        kind = torch.int32 if len(self.sizes) <= 31 else torch.int64  # half as much to sort
        taps = torch.arange(len(self.sizes), dtype=kind, device=reads.device)
        bits = torch.bitwise_left_shift(torch.ones_like(taps), taps)[:, None]
        return (reads * bits).sum(0, dtype=kind).argsort(stable=True)

    @cached_property
    def sources_by_likeness(self) -> torch.Tensor:
        """`sources`, its columns in the order of `like_rows`."""
        return self.sources.index_select(1, self.like_rows)

    @cached_property
    def prepared(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """What an engine made of this map in its own layout, under its own names: kept as long as the map."""
        return {}

    @classmethod
    def of_sources(cls, sources: torch.Tensor, num_in: int, identity_tap: int | None = None) -> "KernelMap":
        """The map that reads these input rows, (K, T) int32, -1 for none."""
        reads = sources >= 0
        taps, out_rows = reads.nonzero(as_tuple=True)
        sizes = tuple(reads.sum(1).tolist())
        found = cls(sources[taps, out_rows], out_rows.int(), sizes, num_in, sources.shape[1], identity_tap)
        vars(found)["sources"] = sources  # known already
        return found

    def transposed(self) -> "KernelMap":
        """The map of the transposed convolution: same taps, roles of input and output swapped. Only without lines."""
        if self.lines is not None:
            raise ValueError("a map with lines is transposed before it is tied")
        in_rows, out_rows = self.out_rows, self.in_rows
        first = self.starts[:-1]
        if not _ascending(out_rows, first):
            order = torch.cat([part.argsort() + start for part, start in zip(out_rows.split(self.sizes), first.tolist(), strict=True)])
            in_rows, out_rows = in_rows[order], out_rows[order]
        return KernelMap(in_rows, out_rows, self.sizes, self.num_out, self.num_in, self.identity_tap)

    def inner(self, kernel_size: int) -> "KernelMap":
        """Of the map of a kernel at stride 1, that of a smaller one, all of whose offsets the larger one has. Only without lines."""
        large = kernel_offsets(round(len(self.sizes) ** (1 / 3)))
        small = kernel_offsets(kernel_size)
        taps = [large.index(offset) for offset in small]
        in_rows, out_rows = (rows.split(self.sizes) for rows in (self.in_rows, self.out_rows))
        return KernelMap(
            torch.cat([in_rows[tap] for tap in taps]),
            torch.cat([out_rows[tap] for tap in taps]),
            tuple(self.sizes[tap] for tap in taps),
            self.num_in,
            self.num_out,
            small.index((0, 0, 0)),
        )


def _ascending(rows: torch.Tensor, first: torch.Tensor) -> bool:
    """Whether the rows of every tap ascend: only where a tap starts, at the places `first`, may they fall."""
    falls = (rows[1:] <= rows[:-1]).nonzero().squeeze(1) + 1
    return bool(torch.isin(falls, first.to(rows.device)).all())
