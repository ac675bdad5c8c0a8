"""What the tests on a device share: sites, the engines that there are, and the reference on the CPU in float64."""

from collections.abc import Callable

import pytest
import torch

from models.sparse.backends import ENGINES, PREFERRED
from models.sparse.backends.protocol import Engine
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.kernel_map import KernelMap
from models.sparse.tensor import SiteCache

REFERENCE = ReferenceEngine()
CUDA = torch.device("cuda")
NAMES = PREFERRED["cuda"]
ROUTES = [
    (1, 1, False, ""),
    (2, 1, False, ""),
    (3, 1, False, ""),
    (3, 1, False, "y"),
    (3, 1, False, "xz"),
    (3, 2, False, ""),
    (3, 2, True, ""),
    (2, 2, False, "xyz"),
    (2, 2, True, ""),
]
Route = tuple[int, int, bool, str]


def engine_here(name: str) -> Engine:
    """Or a skip that says why there is none. torch is always there."""
    reason = ENGINES[name].unavailable()
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return ENGINES[name]


def sites(side: int = 24, share: float = 0.3, batch: int = 2) -> torch.Tensor:
    """Two clouds around the origin, in no order, on the CPU: (S, 4) int32."""
    generator = torch.Generator().manual_seed(side)
    found = (torch.rand(batch, side, side, side, generator=generator) < share).nonzero()
    found = found[torch.randperm(len(found), generator=generator)] - torch.tensor([0, side // 2, side // 2 + 1, 1])
    return found.int()


def both_maps(engine: Engine, route: Route, coords: torch.Tensor | None = None) -> tuple[KernelMap, KernelMap]:
    """Of the engine on the device, and of the reference on the CPU."""
    coords = sites() if coords is None else coords
    kernel_size, stride, back, tied = route
    found = []
    for cache in (SiteCache(coords.to(CUDA), engine), SiteCache(coords, REFERENCE)):
        found.append(cache.kernel_map(1, kernel_size, stride, transposed=back, tied=tied))
    return found[0], found[1]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    assert found.shape == expected.shape
    return float((found.double().cpu() - expected).abs().max() / expected.abs().max())


def three_ways(
    kernel_map: KernelMap, cin: int, cout: int
) -> dict[str, Callable[[Engine, KernelMap, torch.device, torch.dtype], torch.Tensor]]:
    """Forward, gradient of the input's kind (by the transposed weight), and weight gradient, of the same numbers on any device."""
    generator = torch.Generator().manual_seed(0)
    taps = len(kernel_map.sizes)
    feats, grad = torch.randn(kernel_map.num_in, cin, generator=generator), torch.randn(kernel_map.num_out, cout, generator=generator)
    weight = torch.randn(taps, cin, cout, generator=generator) / (taps * cin) ** 0.5
    flipped = weight.transpose(1, 2).contiguous()

    def on(device: torch.device, products: torch.dtype, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.to(device, torch.float64 if products == torch.float64 else torch.float32) for tensor in tensors]

    def forward(engine: Engine, where: KernelMap, device: torch.device, products: torch.dtype) -> torch.Tensor:
        x, w = on(device, products, feats, weight)
        return engine.conv(x, w, where, products=products)

    def flipped_forward(engine: Engine, where: KernelMap, device: torch.device, products: torch.dtype) -> torch.Tensor:
        x, w = on(device, products, feats, flipped)
        return engine.conv(x, w, where, products=products, transpose=True)

    def gradient(engine: Engine, where: KernelMap, device: torch.device, products: torch.dtype) -> torch.Tensor:
        x, g = on(device, products, feats, grad)
        return engine.weight_grad(x, g, where, products=products)

    return {"forward": forward, "by the transposed weight": flipped_forward, "weight gradient": gradient}
