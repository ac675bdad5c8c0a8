"""The default engine where nothing was compiled: gather, the fastest product found on this machine, scatter. Any device, any dtype.

Output rows are taken in blocks, whose sums stay in the cache from the first tap to the ReLU, and which bound every temporary. The
order of sums is that of the taps for any block size, and in the gradient of a weight that of the blocks, whatever the threads.
S input rows, T output rows, E lines, K taps, P pairs, C channels.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import embedding_bag, pad

from models.sparse.backends.arena import ARENA
from models.sparse.backends.gemm import Products, always_onednn, round_up
from models.sparse.backends.norms import TORCH_NORMS
from models.sparse.backends.protocol import Epilogue, Packed
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.kernel_map import KernelMap

BLOCK_BYTES = 1 << 21  # of the output for each thread: sums that stay in the cache ...
BAG_CHANNELS = 32  # up to here adding row by row costs more than the products
PRODUCTS_PER_ROW = 4  # for a block that also keeps its products, a few a row, in the cache
FEWEST_ROWS, MOST_ROWS = 4096, 8192  # ... of products that are long enough to be fast
BLOCK_BYTES_CUDA = 1 << 28  # there a block is only a bound on memory


class TorchEngine(ReferenceEngine):
    name = "torch"
    norms = TORCH_NORMS

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        taps, cin, cout = weight.shape
        filters = weight.detach().to(products).transpose(1, 2)  # (K, Cout, Cin)
        return Packed(TorchEngine.name, (taps, cin, cout), filters.clone(memory_format=torch.contiguous_format), products)

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
        rows = with_lines(feats, kernel_map, products)
        if rows.shape[1] % 2 and always_onednn(rows):  # it multiplies in pairs: of an odd row the last by 0 is the next row's first, or NaN
            rows, filters = pad(rows, (0, 1)), pad(filters, (0, 1))
        _, cout, cin = filters.shape
        factors = _Factors(rows, filters, kernel_map)
        shape = kernel_map.num_out, cout
        out = ARENA.empty(*shape, dtype=feats.dtype) if feats.device.type == "cpu" else feats.new_empty(shape)
        by_bags = cout <= BAG_CHANNELS and feats.device.type == "cpu" and feats.dtype == products == torch.float32
        row_bytes = feats.element_size() * (PRODUCTS_PER_ROW * cout if by_bags else max(cin, cout))
        blocks = _blocks(kernel_map, _block_rows(feats.device, row_bytes, torch.get_num_threads()))
        multiply = Products(factors.rows, max((block.longest for block in blocks), default=0), cin, cout)
        for block in blocks:
            sums = out[block.low : block.high]
            _begin(sums, epilogue, slice(block.low, block.high))
            (_add_by_bags if by_bags else _add_by_taps)(sums, block, factors, multiply)
            if epilogue is not None and epilogue.relu:
                sums.relu_()
        return out

    @torch.no_grad()
    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        out = grad.new_zeros(len(kernel_map.sizes), feats.shape[1], grad.shape[1])
        rows, grads = with_lines(feats, kernel_map, products), grad.to(products)
        row_bytes = feats.element_size() * max(out.shape[1:])
        blocks = _blocks(kernel_map, _block_rows(feats.device, row_bytes, threads=1))  # summed block by block: not by threads
        longest = round_up(max((block.longest for block in blocks), default=0))
        left, right = rows.new_empty(longest, rows.shape[1]), grads.new_empty(longest, grads.shape[1])
        rounds = always_onednn(rows)
        for block in blocks:
            for tap, start, stop in block.pairs:
                count = stop - start
                size = round_up(count) if rounds else count
                x, g = left[:size], right[:size]
                if tap != kernel_map.identity_tap:
                    torch.index_select(rows, 0, kernel_map.in_rows[start:stop], out=x[:count])
                    torch.index_select(grads, 0, kernel_map.out_rows[start:stop], out=g[:count])
                elif rounds:
                    x[:count], g[:count] = rows[block.low : block.high], grads[block.low : block.high]
                else:
                    x, g = rows[block.low : block.high], grads[block.low : block.high]
                if size > count:  # what is past the end adds nothing
                    x[count:].zero_()
                    g[count:].zero_()
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


@dataclass(frozen=True)
class _Factors:
    """rows (S + E, Cin), filters (K, Cout, Cin), and which row meets which filter."""

    rows: torch.Tensor
    filters: torch.Tensor
    kernel_map: KernelMap


def _add_by_taps(sums: torch.Tensor, block: _Block, factors: _Factors, multiply: Products) -> None:
    """Products of one tap after the other, each added where it belongs."""
    for tap, start, stop in block.pairs:
        if tap == factors.kernel_map.identity_tap:
            multiply.add_plain(sums, factors.rows[block.low : block.high], factors.filters[tap])
        else:
            product = multiply.gathered(factors.rows, factors.kernel_map.in_rows[start:stop], factors.filters[tap])
            places = factors.kernel_map.out_rows[start:stop].long() - block.low  # with int32 ones index_add takes a four times slower way
            sums.index_add_(0, places, product.to(sums.dtype))


def _add_by_bags(sums: torch.Tensor, block: _Block, factors: _Factors, multiply: Products) -> None:
    """Products of all taps, then one sum for each output row: quicker where rows are short, but needs room for all products."""
    if not block.pairs:
        return
    kernel_map = factors.kernel_map
    products = sums.new_empty(sum(stop - start for _, start, stop in block.pairs), sums.shape[1])
    filled = 0
    for tap, start, stop in block.pairs:
        part = products[filled : filled + stop - start]
        if tap == kernel_map.identity_tap:
            torch.mm(factors.rows[block.low : block.high], factors.filters[tap].t(), out=part)
        else:
            multiply.gathered_into(part, factors.rows, kernel_map.in_rows[start:stop], factors.filters[tap])
        filled += stop - start
    places = torch.cat([kernel_map.out_rows[start:stop] for _, start, stop in block.pairs]) - block.low
    few = np.uint16 if sums.shape[0] <= 1 << 16 else np.int32  # 16 bits are sorted by radix
    order = torch.from_numpy(places.numpy().astype(few).argsort(kind="stable"))
    bags = torch.bincount(places, minlength=sums.shape[0]).cumsum(0)
    starts = torch.cat([bags.new_zeros(1), bags])
    sums += embedding_bag(order, products, starts, mode="sum", include_last_offset=True)


def _block_rows(device: torch.device, row_bytes: int, threads: int) -> int:
    """How many output rows a block has at most."""
    if device.type == "cpu":
        return min(max(BLOCK_BYTES // row_bytes, FEWEST_ROWS), MOST_ROWS) * threads
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
        name = f"blocks {count}"
        if name not in kernel_map.prepared:
            kernel_map.prepared[name] = (_cuts(kernel_map, bounds),)
        cuts = kernel_map.prepared[name][0].tolist()
    blocks = []
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        spans = [(tap, start + cut[number], start + cut[number + 1]) for tap, (start, cut) in enumerate(zip(starts, cuts, strict=False))]
        blocks.append(_Block(low, high, [span for span in spans if span[2] > span[1]]))
    return blocks


def _cuts(kernel_map: KernelMap, bounds: list[int]) -> torch.Tensor:
    """Where the pairs of each tap that end in each block begin, and where the last ones end: (K, blocks + 1) int64, on the CPU."""
    limits = torch.tensor(bounds, dtype=torch.int32, device="cpu").to(kernel_map.out_rows.device, non_blocking=True)
    return torch.stack([torch.searchsorted(part, limits) for part in kernel_map.out_rows.split(kernel_map.sizes)]).cpu()


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
