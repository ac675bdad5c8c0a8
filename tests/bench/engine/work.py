"""How much there is to multiply: the convolutions of a net as an engine meets them, and the maps it asks for.

P pairs of all taps of a map, C channels.
"""

from collections.abc import Callable

import torch
from torch import nn

from models.sparse.backends.protocol import Engine, Epilogue, Packed
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.kernel_map import KernelMap
from models.sparse.tensor import SiteCache, SparseTensor
from tests.bench.engine.workloads import Workload

MapCall = tuple[int, int, int, bool, str]  # level, kernel size, stride, transposed, tied axes


def flop(kernel_map: KernelMap, in_channels: int, out_channels: int) -> int:
    """Two for every multiply-add of an active pair; nothing for the sums behind tied taps."""
    return 2 * len(kernel_map.in_rows) * in_channels * out_channels


def least_bytes(kernel_map: KernelMap, in_channels: int, out_channels: int) -> int:
    """What has to move at least: features, filters and pairs read once, results written once, 4 bytes each."""
    rows = kernel_map.num_in * in_channels + kernel_map.num_out * out_channels
    return 4 * (rows + len(kernel_map.sizes) * in_channels * out_channels + 2 * len(kernel_map.in_rows))


class CountingEngine(ReferenceEngine):
    """Adds up what it is given to multiply, forward and backward, and answers with zeros."""

    name = "counting"

    def __init__(self) -> None:
        self.flop = 0

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
        cout = weight.shape[1] if transpose else weight.shape[2]
        self.flop += flop(kernel_map, feats.shape[1], cout)
        return feats.new_zeros(kernel_map.num_out, cout)

    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        self.flop += flop(kernel_map, feats.shape[1], grad.shape[1])
        return feats.new_zeros(len(kernel_map.sizes), feats.shape[1], grad.shape[1])


def gflop(run: Callable[[Engine], object]) -> float:
    """Necessary operations of all convolutions of a run, 1e9."""
    engine = CountingEngine()
    run(engine)
    return engine.flop / 1e9


class MapCalls(SiteCache):
    """A cache that remembers which maps it was asked for."""

    def __init__(self, coords: torch.Tensor, engine: Engine) -> None:
        super().__init__(coords, engine)
        self.calls: list[MapCall] = []

    def kernel_map(self, level: int, kernel_size: int, stride: int, *, transposed: bool = False, tied: str = "") -> KernelMap:
        self.calls.append((level, kernel_size, stride, transposed, tied))
        return super().kernel_map(level, kernel_size, stride, transposed=transposed, tied=tied)


def all_maps(net: nn.Module, workload: Workload, engine: Engine) -> Callable[[], None]:
    """A function that builds every map of one evaluation of a net, from coordinates."""
    noted = MapCalls(workload.coords, engine)
    with torch.inference_mode():
        net(SparseTensor(workload.feats, noted, workload.batch_size))
    calls = list(dict.fromkeys(noted.calls))

    def build() -> None:
        cache = SiteCache(workload.coords, engine)
        for level, kernel_size, stride, transposed, tied in calls:
            cache.kernel_map(level, kernel_size, stride, transposed=transposed, tied=tied)

    return build
