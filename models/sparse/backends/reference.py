"""The reference engine: gather, torch.mm, scatter. Nothing else, so that the others have something to be measured against."""

from collections.abc import Iterator

import torch

from models.sparse.backends.norms import TORCH_NORMS
from models.sparse.backends.protocol import Epilogue, Packed, SiteIndexLike
from models.sparse.kernel_map import KernelMap
from models.sparse.search import SiteIndex, build_kernel_map, downsample_sites
from models.sparse.tying import tie


class ReferenceEngine:
    """Any device, any dtype, K and P as the map has them."""

    name = "reference"
    norms = TORCH_NORMS

    def unavailable(self) -> str | None:
        return None

    def detail(self) -> str:
        return "torch.mm"

    def runs(self, device: torch.device, dtype: torch.dtype) -> bool:
        return True

    def downsample(self, coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        return downsample_sites(coords, stride)

    def index(self, coords: torch.Tensor) -> SiteIndexLike:
        return SiteIndex(coords)

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        assert isinstance(index, SiteIndex)
        return build_kernel_map(index, out_coords, kernel_size, stride)

    def tie(self, kernel_map: KernelMap, axes: str) -> KernelMap:
        return tie(kernel_map, axes)

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        taps, cin, cout = weight.shape
        return Packed(self.name, (taps, cin, cout), weight.to(products, copy=True), products)

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
        filters = weight.data if isinstance(weight, Packed) else weight.to(products)
        if transpose:
            filters = filters.transpose(1, 2)
        rows = with_lines(feats, kernel_map).to(products)
        out = feats.new_zeros(kernel_map.num_out, filters.shape[2])
        for tap, in_rows, out_rows in pairs_of_taps(kernel_map):
            places = out_rows.long()  # PyTorch's own index type: with int32 rows index_add is four times slower
            out.index_add_(0, places, (rows.index_select(0, in_rows) @ filters[tap]).to(feats.dtype))
        return finish(out, epilogue)

    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        out = grad.new_zeros(len(kernel_map.sizes), feats.shape[1], grad.shape[1])
        rows, grad = with_lines(feats, kernel_map).to(products), grad.to(products)
        for tap, in_rows, out_rows in pairs_of_taps(kernel_map):
            out[tap] = rows.index_select(0, in_rows).t() @ grad.index_select(0, out_rows)
        return out


def pairs_of_taps(kernel_map: KernelMap) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(tap, in_rows (P,), out_rows (P,)) of every tap that has pairs."""
    all_in = kernel_map.in_rows.split(kernel_map.sizes)
    all_out = kernel_map.out_rows.split(kernel_map.sizes)
    for tap, (in_rows, out_rows) in enumerate(zip(all_in, all_out, strict=True)):
        if len(in_rows):
            yield tap, in_rows, out_rows


def with_lines(feats: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """The features, and behind them the sums that the map's lines ask for: (S, C) -> (S + E, C)."""
    lines = kernel_map.lines
    if lines is None or not len(lines):
        return feats
    line_of = torch.repeat_interleave(torch.arange(len(lines), device=feats.device), lines.starts.diff().long())
    sums = feats.new_zeros(len(lines), feats.shape[1]).index_add_(0, line_of, feats.index_select(0, lines.rows))
    return torch.cat([feats, sums])


def finish(out: torch.Tensor, epilogue: Epilogue | None) -> torch.Tensor:
    """Apply an epilogue in place."""
    if epilogue is not None:
        if epilogue.bias is not None:
            out += epilogue.bias
        if epilogue.residual is not None:
            out += epilogue.residual
        if epilogue.relu:
            out.relu_()
    return out
