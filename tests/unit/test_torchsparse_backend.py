"""The torchsparse engine without a device: layouts, tap order and caching by stand-ins of its CUDA functions, and all that the real
library does on a CPU, where it is installed. tests/unit/test_engines.py runs over it there, too.
"""

import importlib.metadata

import pytest
import torch

from models.sparse.backends import ENGINES
from models.sparse.backends.protocol import Epilogue
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.backends.torchsparse_backend import HashedSites, Parts, TorchsparseEngine
from models.sparse.backends.torchsparse_dataflows import WAYS, ImplicitGemm
from models.sparse.kernel_map import KernelMap, kernel_offsets
from models.sparse.tensor import SiteCache
from tests import torchsparse_cuda
from tests.torchsparse_cuda import CudaFunctions, HashTable

REFERENCE = ReferenceEngine()
REAL = ENGINES["torchsparse"].unavailable()
real = pytest.mark.skipif(REAL is not None, reason=REAL or "")
KERNELS = [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]
ROUTES = [
    (3, 1, False, ""),
    (3, 1, False, "y"),
    (3, 1, False, "xz"),
    (3, 2, False, ""),
    (3, 2, True, ""),
    (2, 2, False, ""),
    (2, 2, True, ""),
]


def engine_of(functions: CudaFunctions, ways: tuple[int, ...] = WAYS) -> TorchsparseEngine:
    """As it works on CUDA, with these functions, on the CPU."""
    return TorchsparseEngine(lambda: Parts({"cpu": ImplicitGemm(functions, fp16=True, ways=ways)}, {"cpu": HashTable}))


@pytest.fixture
def functions() -> CudaFunctions:
    return CudaFunctions()


@pytest.fixture
def engine(functions: CudaFunctions) -> TorchsparseEngine:
    return engine_of(functions)


def random_sites(side: int = 5) -> torch.Tensor:
    """Two clouds around the origin, more than one block of rows, in no order."""
    generator = torch.Generator().manual_seed(0)
    sites = (torch.rand(2, side, side, side, generator=generator) < 0.7).nonzero() - torch.tensor([0, 2, 3, 1])
    return sites[torch.randperm(len(sites), generator=generator)].int()


def same_map(found: KernelMap, expected: KernelMap) -> None:
    assert (found.sizes, found.num_in, found.num_out) == (expected.sizes, expected.num_in, expected.num_out)
    assert found.identity_tap == expected.identity_tap
    assert torch.equal(found.in_rows, expected.in_rows)
    assert torch.equal(found.out_rows, expected.out_rows)
    assert found.in_rows.dtype == found.out_rows.dtype == torch.int32
    assert torch.equal(found.sources, expected.sources)


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_its_hash_table_gives_our_maps(engine: TorchsparseEngine, kernel_size: int, stride: int) -> None:
    coords = random_sites()
    out_coords = coords if stride == 1 else REFERENCE.downsample(coords, stride)[0]
    found = engine.kernel_map(engine.index(coords), out_coords, kernel_size, stride)
    expected = REFERENCE.kernel_map(REFERENCE.index(coords), out_coords, kernel_size, stride)
    same_map(found, expected)


def test_the_tap_order_is_found_not_assumed(monkeypatch: pytest.MonkeyPatch, engine: TorchsparseEngine) -> None:
    sites = engine.index(random_sites())
    assert isinstance(sites, HashedSites)
    assert sites.columns(2).tolist() == list(range(8))
    assert sites.columns(3).tolist() == [x + 3 * y + 9 * z for x in range(3) for y in range(3) for z in range(3)]
    straight = torchsparse_cuda.offset
    monkeypatch.setattr(torchsparse_cuda, "offset", lambda tap, sizes: straight(tap, sizes)[::-1])
    assert sites.columns(3).tolist() == list(range(27))
    monkeypatch.setattr(torchsparse_cuda, "offset", lambda tap, sizes: straight(max(tap, 1), sizes))
    with pytest.raises(RuntimeError, match="not each of its taps once"):
        sites.columns(3)


def test_duplicate_sites_are_refused(engine: TorchsparseEngine) -> None:
    coords = random_sites()
    with pytest.raises(ValueError, match="duplicate"):
        engine.index(torch.cat([coords, coords[3:4]]))


@pytest.mark.parametrize("splits", WAYS)
@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("products", [torch.float32, torch.float16])
def test_products_equal_the_reference(
    splits: int, route: tuple[int, int, bool, str], products: torch.dtype, functions: CudaFunctions
) -> None:
    """Forward, packed, by the transposed weight, and weight gradients: rows in each order that torchsparse has."""
    kernel_size, stride, back, tied = route
    engine = engine_of(functions, (splits,))
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, kernel_size, stride, transposed=back, tied=tied)
    taps, generator = len(kernel_map.sizes), torch.Generator().manual_seed(1)
    feats = torch.randn(kernel_map.num_in, 5, generator=generator)
    grad = torch.randn(kernel_map.num_out, 7, generator=generator)
    weight = torch.randn(taps, 5, 7, generator=generator) / (5 * taps) ** 0.5
    epilogue = Epilogue(torch.randn(7, generator=generator), torch.randn(kernel_map.num_out, 7, generator=generator), relu=True)
    exact = {"products": torch.float64}
    wide = [each.double() for each in (feats, weight, grad)]
    assert epilogue.bias is not None
    assert epilogue.residual is not None
    plain = REFERENCE.conv(wide[0], wide[1], kernel_map, **exact)
    fused = (plain + epilogue.bias + epilogue.residual).relu()
    flipped = weight.transpose(1, 2).contiguous()
    pairs = [
        (engine.conv(feats, weight, kernel_map, products=products), plain),
        (engine.conv(feats, engine.pack(weight, products), kernel_map, products=products, epilogue=epilogue), fused),
        (engine.conv(feats, flipped, kernel_map, products=products, transpose=True), plain),
        (engine.weight_grad(feats, grad, kernel_map, products=products), REFERENCE.weight_grad(wide[0], wide[2], kernel_map, **exact)),
    ]
    for found, expected in pairs:
        assert found.dtype == torch.float32
        assert float((found - expected).abs().max() / expected.abs().max()) < (1e-5 if products == torch.float32 else 5e-3)
    assert functions.called["gradient"] == (products == torch.float32)
    assert functions.called["sorted" if splits else "unsorted"] == 3
    assert functions.parts <= ({1, 3} if products == torch.float32 else {1})  # stored in float16, parts would be summed in it


def test_sums_of_each_part_have_to_be_addressed(functions: CudaFunctions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many as there are of the output."""
    engine = engine_of(functions)
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, 3, 1)
    feats, weight = torch.randn(kernel_map.num_in, 4), torch.randn(27, 4, 64)
    monkeypatch.setattr("models.sparse.backends.torchsparse_dataflows.LARGEST_PLACE", 2 * (kernel_map.num_out + 128) * 64)
    engine.conv(feats, weight, kernel_map, products=torch.float32)
    engine.weight_grad(feats, torch.randn(kernel_map.num_out, 64), kernel_map, products=torch.float32)
    assert functions.called["sorted"] + functions.called["unsorted"] + functions.called["gradient"] == 0


def test_more_sites_than_its_lookup_can_number_are_found_otherwise(engine: TorchsparseEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It numbers rows times taps in 32 bits."""
    coords = random_sites()
    monkeypatch.setattr("models.sparse.backends.torchsparse_backend.LARGEST_PLACE", 31 * len(coords))
    index = engine.index(coords)
    assert not isinstance(index, HashedSites)
    same_map(engine.kernel_map(index, coords, 3, 1), REFERENCE.kernel_map(REFERENCE.index(coords), coords, 3, 1))


def test_a_map_is_laid_out_once(engine: TorchsparseEngine, functions: CudaFunctions) -> None:
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, 3, 1)
    feats, weight = torch.randn(kernel_map.num_in, 4), torch.randn(27, 4, 4)
    for _ in range(3):
        engine.conv(feats, weight, kernel_map, products=torch.float32)
        engine.weight_grad(feats, feats, kernel_map, products=torch.float32)
    assert functions.called["bitmask"] == 1
    assert functions.called["sorted"] == functions.called["gradient"] == 3


def test_what_it_cannot_do_runs_through_torch(engine: TorchsparseEngine, functions: CudaFunctions, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = SiteCache(random_sites(), engine)
    whole, centre = sites.kernel_map(1, 3, 1), sites.kernel_map(1, 1, 1)
    none = torch.empty(0, dtype=torch.int32)
    calls = [
        (whole, torch.float64),
        (whole, torch.bfloat16),
        (centre, torch.float32),
        (KernelMap(none, none, (0,) * 27, 9, 4), torch.float32),
    ]
    for kernel_map, dtype in calls:
        feats, weight = torch.randn(kernel_map.num_in, 4).to(dtype), torch.randn(len(kernel_map.sizes), 4, 4).to(dtype)
        found = engine.conv(feats, engine.pack(weight, dtype), kernel_map, products=dtype)
        torch.testing.assert_close(found, ENGINES["torch"].conv(feats, weight, kernel_map, products=dtype))
        grad = engine.weight_grad(feats, found, kernel_map, products=dtype)
        torch.testing.assert_close(grad, ENGINES["torch"].weight_grad(feats, found, kernel_map, products=dtype))
    monkeypatch.setattr("models.sparse.backends.torchsparse_dataflows.LARGEST_PLACE", 100)  # more elements than it can address
    feats, weight = torch.randn(whole.num_in, 4), torch.randn(27, 4, 4)
    packed = engine.pack(weight, torch.float32)
    expected = REFERENCE.conv(feats, weight, whole, products=torch.float32)
    torch.testing.assert_close(engine.conv(feats, packed, whole, products=torch.float32), expected, rtol=1e-4, atol=1e-4)
    assert functions.called["sorted"] + functions.called["unsorted"] + functions.called["gradient"] == 0


def test_without_sites(engine: TorchsparseEngine) -> None:
    kernel_map = SiteCache(torch.empty(0, 4, dtype=torch.int32), engine).kernel_map(1, 3, 1)
    assert kernel_map.sizes == (0,) * 27
    assert engine.conv(torch.empty(0, 4), torch.randn(27, 4, 6), kernel_map, products=torch.float32).shape == (0, 6)


def test_the_stand_in_numbers_taps_as_they_say() -> None:
    """And a full cube around one site has each of them."""
    cube = torch.tensor([[x, y, z, 0] for x, y, z in kernel_offsets(3)], dtype=torch.int32)
    table = HashTable(torch.zeros(60, dtype=torch.int64), torch.zeros(60, dtype=torch.int32))
    table.insert_coords(cube)
    three, one = torch.full((3,), 3, dtype=torch.int32), torch.ones(3, dtype=torch.int32)
    found = table.lookup_coords(torch.zeros(1 + torchsparse_cuda.THREADS, 4, dtype=torch.int32)[:1], three, one, 27)[0] - 1
    assert [cube[row, :3].tolist() for row in found] == [torchsparse_cuda.offset(tap, [3, 3, 3]) for tap in range(27)]


@pytest.mark.parametrize(("version", "reason"), [(None, "not installed"), ("1.4.0", "2.1.x is needed"), ("2.0.0b0", "2.1.x is needed")])
def test_it_says_why_it_cannot_be_had(version: str | None, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("models.sparse.backends.torchsparse_backend.version", found)
    engine = TorchsparseEngine()
    assert reason in (engine.unavailable() or "")
    assert not engine.runs(torch.device("cpu"), torch.float32)
    assert not engine.runs(torch.device("cuda"), torch.float32)


@real
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_its_minkowski_downsampling_is_our_floor_set(kernel_size: int) -> None:
    from torchsparse.nn import functional

    coords = random_sites()
    found = functional.spdownsample(coords, 2, kernel_size, downsample_mode="minkowski")
    assert torch.equal(found, REFERENCE.downsample(coords, 2)[0])


@real
@pytest.mark.parametrize("route", [route for route in ROUTES if not route[3]], ids=str)
def test_its_own_layer_gives_the_same(route: tuple[int, int, bool, str]) -> None:
    """Its autograd function, on our map: output and both gradients."""
    from torchsparse.nn.functional.conv.func.gather_scatter import GatherScatterConvolutionFuntion as Theirs

    kernel_size, stride, back, tied = route
    sites = SiteCache(random_sites(), REFERENCE)
    there = sites.route(1, kernel_size, stride, transposed=back, tied=tied)
    kernel_map, engine = there.there, ENGINES["torchsparse"]
    feats = torch.randn(kernel_map.num_in, 5, requires_grad=True)
    weight = torch.randn(len(kernel_map.sizes), 5, 7, requires_grad=True)
    grad = torch.randn(kernel_map.num_out, 7)
    pairs = torch.stack([kernel_map.in_rows, kernel_map.out_rows], dim=1)
    nothing = {"input_mask": None, "output_mask": None}
    kmap = {"nbmaps": pairs, "nbsizes": torch.tensor(kernel_map.sizes), "sizes": (kernel_map.num_in, kernel_map.num_out), **nothing}
    theirs = Theirs.apply(feats, weight, kmap, {"epsilon": 0.0, "mm_thresh": 0}, False)
    theirs.backward(grad)
    with torch.no_grad():
        ours = engine.conv(feats, weight, kernel_map, products=torch.float32)
        grad_feats = engine.conv(grad, weight, there.back(), products=torch.float32, transpose=True)
        grad_weight = engine.weight_grad(feats, grad, kernel_map, products=torch.float32)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_feats, feats.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_weight, weight.grad, rtol=1e-4, atol=1e-4)
