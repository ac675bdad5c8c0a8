"""The default engine where nothing was compiled: gather, the fastest product found on this machine, scatter. Any device, any dtype.

Output rows are taken in blocks, whose sums stay in the cache from the first tap to the ReLU, and which bound every temporary. The
order of sums is that of the taps for any block size. S input rows, T output rows, E lines, K taps, P pairs, C channels.
"""

import itertools
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag

from models.sparse.backends.gemm import Products, round_up
from models.sparse.backends.protocol import Epilogue, Packed
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.kernel_map import KernelMap

BLOCK_BYTES = 1 << 21  # of the output for each thread: sums that stay in the cache ...
FEWEST_ROWS, MOST_ROWS = 4096, 8192  # ... of products that are long enough to be fast
BLOCK_BYTES_CUDA = 1 << 28  # there a block is only a bound on memory


class TorchEngine(ReferenceEngine):
    name = "torch"

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        taps, cin, cout = weight.shape
        filters = weight.detach().to(products).transpose(1, 2)  # (K, Cout, Cin)
        return Packed(self.name, (taps, cin, cout), filters.clone(memory_format=torch.contiguous_format), products)

    @torch.no_grad()
    def conv(
        self,
        feats: torch.Tensor,
        weight: torch.Tensor | Packed,
        kernel_map: KernelMap,
        *,
        products: torch.dtype,
        transpose: bool = False,
        epilogue: Epilogue | None = None,
    ) -> torch.Tensor:
        if isinstance(weight, Packed):
            filters = weight.data  # (K, Cout, Cin)
        else:
            filters = (weight if transpose else weight.transpose(1, 2)).to(products).contiguous()
        _, cout, cin = filters.shape
        rows = with_lines(feats, kernel_map, products)
        out = feats.new_empty(kernel_map.num_out, cout)
        blocks = _blocks(kernel_map, _block_rows(feats, max(cin, cout)))
        multiply = Products(rows, max((block.longest for block in blocks), default=0), cin, cout)
        out_rows = kernel_map.out_rows.long()  # index_add takes a four times slower way with int32 rows
        for block in blocks:
            sums = out[block.low : block.high]
            _begin(sums, epilogue, slice(block.low, block.high))
            for tap, start, stop in block.pairs:
                if tap == kernel_map.identity_tap:
                    multiply.add_plain(sums, rows[block.low : block.high], filters[tap])
                else:
                    product = multiply.gathered(rows, kernel_map.in_rows[start:stop], filters[tap])
                    out.index_add_(0, out_rows[start:stop], product.to(out.dtype))
            if epilogue is not None and epilogue.relu:
                sums.relu_()
        return out

    @torch.no_grad()
    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        out = grad.new_zeros(len(kernel_map.sizes), feats.shape[1], grad.shape[1])
        rows, grads = with_lines(feats, kernel_map, products), grad.to(products)
        blocks = _blocks(kernel_map, _block_rows(feats, max(out.shape[1:])))
        longest = round_up(max((block.longest for block in blocks), default=0))
        left, right = rows.new_empty(longest, rows.shape[1]), grads.new_empty(longest, grads.shape[1])
        for block in blocks:
            for tap, start, stop in block.pairs:
                if tap == kernel_map.identity_tap:
                    x, g = rows[block.low : block.high], grads[block.low : block.high]
                else:
                    x, g = left[: stop - start], right[: stop - start]
                    torch.index_select(rows, 0, kernel_map.in_rows[start:stop], out=x)
                    torch.index_select(grads, 0, kernel_map.out_rows[start:stop], out=g)
                if out.dtype == x.dtype:
                    out[tap].addmm_(x.t(), g)
                else:
                    out[tap] += x.t() @ g
        return out


@dataclass(frozen=True)
class _Block:
    """Output rows [low, high), and the pairs of each tap that end there: (tap, start, stop) in the lists of the map."""

    low: int
    high: int
    pairs: list[tuple[int, int, int]]

    @property
    def longest(self) -> int:
        return max((stop - start for _, start, stop in self.pairs), default=0)


def _block_rows(feats: torch.Tensor, channels: int) -> int:
    """How many output rows a block has at most."""
    row_bytes = channels * feats.element_size()
    if feats.device.type == "cpu":
        return min(max(BLOCK_BYTES // row_bytes, FEWEST_ROWS), MOST_ROWS) * torch.get_num_threads()
    return max(BLOCK_BYTES_CUDA // row_bytes, FEWEST_ROWS)


def _blocks(kernel_map: KernelMap, most_rows: int) -> list[_Block]:
    """Blocks of about the same size. Within a tap out_rows ascend, so each block has one stretch of every tap."""
    rows = kernel_map.num_out
    count = max(1, -(-rows // most_rows))
    bounds = [rows * number // count for number in range(count + 1)]
    starts = [0, *itertools.accumulate(kernel_map.sizes)]
    if count == 1:
        cuts = [[0, size] for size in kernel_map.sizes]
    else:
        limits = torch.tensor(bounds, dtype=torch.int32, device=kernel_map.out_rows.device)
        cuts = [torch.searchsorted(part, limits).tolist() for part in kernel_map.out_rows.split(kernel_map.sizes)]
    blocks = []
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        spans = [(tap, start + cut[number], start + cut[number + 1]) for tap, (start, cut) in enumerate(zip(starts, cuts, strict=False))]
        blocks.append(_Block(low, high, [span for span in spans if span[2] > span[1]]))
    return blocks


def _begin(sums: torch.Tensor, epilogue: Epilogue | None, rows: slice) -> None:
    """What the sums of a block of output rows start from: bias and residual, or nothing."""
    bias = None if epilogue is None else epilogue.bias
    residual = None if epilogue is None or epilogue.residual is None else epilogue.residual[rows]
    if residual is not None and bias is not None:
        torch.add(residual, bias, out=sums)
    elif residual is not None:
        sums.copy_(residual)
    elif bias is not None:
        sums.copy_(bias)
    else:
        sums.zero_()


def with_lines(feats: torch.Tensor, kernel_map: KernelMap, products: torch.dtype) -> torch.Tensor:
    """The features, and behind them the sums that the map's lines ask for, as factors: (S, C) -> (S + E, C)."""
    lines = kernel_map.lines
    if lines is None or not len(lines):
        return feats.to(products)
    sums = embedding_bag(lines.rows, feats, lines.starts, mode="sum", include_last_offset=True)
    return torch.cat([feats.to(products), sums.to(products)])
