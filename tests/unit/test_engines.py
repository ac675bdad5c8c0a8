"""Every engine that runs here in float32 on the CPU, against the reference engine in float64 and against dense conv3d."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import conv3d, pad

from models.manifest import NetworkSpec
from models.sparse.backends import ENGINES
from models.sparse.backends.protocol import Engine, Epilogue
from models.sparse.kernel_map import KernelMap, kernel_offsets
from models.sparse.nn import SparseBatchNorm, SparseConv3d, prepare_inference
from models.sparse.tensor import sparse_tensor
from models.sparse.tying import repeat_filter, tap_groups
from models.zoo import build

CPU, F32 = torch.device("cpu"), torch.float32
NAMES = [name for name, engine in ENGINES.items() if engine.runs(CPU, F32)]
CHANNELS = [(1, 3), (3, 1), (5, 17), (17, 5), (65, 100), (100, 65), (64, 64), (128, 32)]
KERNELS = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]
TIES = [(kernel_size, stride, axes) for kernel_size, stride in ((3, 1), (3, 2), (2, 2)) for axes in ("x", "y", "z", "xz", "xyz")]
REFERENCE = ENGINES["reference"]


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def random_coords(seed: int = 0, size: int = 7, share: float = 0.35) -> torch.Tensor:
    """Two clouds around the origin, rows in no order: (S, 4) int32."""
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(2, size, size, size, generator=generator) < share).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)] - torch.tensor([0, size // 2, size // 2 + 1, 1])
    return coords.int()


def maps_of(engine: Engine, coords: torch.Tensor, kernel_size: int, stride: int) -> tuple[KernelMap, KernelMap, torch.Tensor]:
    """There, back, and the output sites."""
    out_coords = coords if stride == 1 else engine.downsample(coords, stride)[0]
    there = engine.kernel_map(engine.index(coords), out_coords, kernel_size, stride)
    return there, there.transposed(), out_coords


def random_weight(taps: int, cin: int, cout: int) -> torch.Tensor:
    """Of a size that keeps outputs near those of the features."""
    return torch.randn(taps, cin, cout) / (taps * cin) ** 0.5


def assert_near(found: torch.Tensor, expected: torch.Tensor, bound: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found.double() - expected.double()).abs().max() if found.numel() else 0) <= bound


def assert_same_map(found: KernelMap, expected: KernelMap) -> None:
    assert torch.equal(found.in_rows, expected.in_rows)
    assert torch.equal(found.out_rows, expected.out_rows)
    assert found.in_rows.dtype == found.out_rows.dtype == torch.int32
    assert found.sizes == expected.sizes
    assert (found.num_in, found.num_out, found.identity_tap) == (expected.num_in, expected.num_out, expected.identity_tap)


def to_dense(coords: torch.Tensor, feats: torch.Tensor, extent: int, origin: int) -> torch.Tensor:
    """(B, C, X, Y, Z), zero where no site is."""
    dense = feats.new_zeros(2, feats.shape[1], extent, extent, extent)
    b, x, y, z = coords.long().T
    dense[b, :, x + origin, y + origin, z + origin] = feats
    return dense


def test_the_engines_in_question_are_there() -> None:
    assert {"torch", "reference"} <= set(NAMES)


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_maps_are_those_of_a_dictionary(engine: Engine, kernel_size: int, stride: int) -> None:
    coords = random_coords()
    found, back, out_coords = maps_of(engine, coords, kernel_size, stride)
    row_of = {tuple(site): row for row, site in enumerate(coords.tolist())}
    per_tap = []
    for dx, dy, dz in kernel_offsets(kernel_size):
        wanted = [(b, stride * x + dx, stride * y + dy, stride * z + dz) for b, x, y, z in out_coords.tolist()]
        per_tap.append([(row_of[site], out) for out, site in enumerate(wanted) if site in row_of])
    pairs = torch.tensor([pair for tap in per_tap for pair in tap]).int()
    centre = len(per_tap) // 2 if stride == 1 and kernel_size % 2 else None
    expected = KernelMap(pairs[:, 0], pairs[:, 1], tuple(len(tap) for tap in per_tap), len(coords), len(out_coords), centre)
    assert_same_map(found, expected)
    for tap, (in_rows, out_rows) in enumerate(zip(back.in_rows.split(back.sizes), back.out_rows.split(back.sizes), strict=True)):
        assert list(zip(out_rows.tolist(), in_rows.tolist(), strict=True)) == sorted(per_tap[tap])


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_against_dense_convolution(engine: Engine, kernel_size: int, stride: int) -> None:
    coords = random_coords()
    there, _, out_coords = maps_of(engine, coords, kernel_size, stride)
    feats, weight = torch.randn(len(coords), 6), random_weight(kernel_size**3, 6, 9)
    found = engine.conv(feats, weight, there, products=F32)
    before = (kernel_size - 1) // 2
    filters = weight.reshape(kernel_size, kernel_size, kernel_size, 6, 9).permute(4, 3, 0, 1, 2)
    padded = pad(to_dense(coords, feats, 20, 10), (before, kernel_size - 1 - before) * 3)
    dense = conv3d(padded.double(), filters.double(), stride=stride)
    b, x, y, z = out_coords.long().T
    origin = 10 // stride
    assert_near(found, dense[b, :, x + origin, y + origin, z + origin])


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
@pytest.mark.parametrize(("cin", "cout"), CHANNELS)
def test_forward_and_gradients_equal_float64(engine: Engine, kernel_size: int, stride: int, cin: int, cout: int) -> None:
    coords = random_coords()
    there, back, out_coords = maps_of(engine, coords, kernel_size, stride)
    feats, weight = torch.randn(len(coords), cin), random_weight(kernel_size**3, cin, cout)
    grad = torch.randn(len(out_coords), cout) / len(coords) ** 0.5
    assert_near(
        engine.conv(feats, weight, there, products=F32), REFERENCE.conv(feats.double(), weight.double(), there, products=torch.float64)
    )
    assert_near(
        engine.conv(grad, weight, back, products=F32, transpose=True),
        REFERENCE.conv(grad.double(), weight.double(), back, products=torch.float64, transpose=True),
    )
    assert_near(
        engine.weight_grad(feats, grad, there, products=F32),
        REFERENCE.weight_grad(feats.double(), grad.double(), there, products=torch.float64),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("axes", ["", "z"])
@pytest.mark.parametrize("products", [F32, torch.bfloat16])
def test_more_rows_than_an_engine_takes_at_once(engine: Engine, stride: int, axes: str, products: torch.dtype) -> None:
    torch.manual_seed(0)  # the largest of many rounding errors is near the bound
    coords = random_coords(size=33, share=0.6)
    there, back, out_coords = maps_of(engine, coords, 3, stride)
    feats, grad = torch.randn(len(coords), 7), torch.randn(len(out_coords), 9) / len(coords) ** 0.5
    weight = random_weight(9 if axes else 27, 7, 9) / (3 if axes else 1) ** 0.5
    forth, home = (engine.tie(there, axes), engine.tie(back, axes)) if axes else (there, back)
    assert forth.num_out > (40_000 if stride == 1 else 8_500)
    calls = [
        lambda used, f, w, g, kind: used.conv(f, w, forth, products=kind),
        lambda used, f, w, g, kind: used.conv(g, w, home, products=kind, transpose=True),
        lambda used, f, w, g, kind: used.weight_grad(f, g, forth, products=kind),
    ]
    for call in calls:
        exact = call(REFERENCE, feats.double(), weight.double(), grad.double(), torch.float64)
        found = call(engine, feats, weight, grad, products)
        if products == F32:
            assert_near(found, exact, 5e-5)  # dW sums 43,000 products
        else:
            assert float((found - exact).norm() / exact.norm()) < 0.006


def test_each_tap_alone_moves_an_impulse_by_its_offset(engine: Engine) -> None:
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), *[torch.arange(-2, 3)] * 3).int()
    impulse = (grid[:, 1:] == 0).all(1, keepdim=True).float()
    for kernel_size in (2, 3):
        there, _, _ = maps_of(engine, grid, kernel_size, 1)
        for tap, (dx, dy, dz) in enumerate(kernel_offsets(kernel_size)):
            weight = torch.zeros(kernel_size**3, 1, 1)
            weight[tap] = 1
            found = engine.conv(impulse, weight, there, products=F32)
            assert grid[found[:, 0] != 0, 1:].tolist() == [[-dx, -dy, -dz]]


@pytest.mark.parametrize(("kernel_size", "stride", "axes"), TIES)
def test_tied_equals_whole(engine: Engine, kernel_size: int, stride: int, axes: str) -> None:
    """Forward, dX, and dW = the sum over the taps of a group."""
    coords = random_coords()
    there, back, out_coords = maps_of(engine, coords, kernel_size, stride)
    tied_there, tied_back = engine.tie(there, axes), engine.tie(back, axes)
    groups = tap_groups(kernel_size, axes)
    small = torch.randn(int(groups.max()) + 1, 17, 20) / (kernel_size**3 * 17) ** 0.5
    whole = repeat_filter(small, kernel_size, axes)
    feats, grad = torch.randn(len(coords), 17), torch.randn(len(out_coords), 20) / len(coords) ** 0.5
    assert_near(engine.conv(feats, small, tied_there, products=F32), REFERENCE.conv(feats, whole, there, products=F32))
    assert_near(
        engine.conv(grad, small, tied_back, products=F32, transpose=True),
        REFERENCE.conv(grad, whole, back, products=F32, transpose=True),
    )
    of_taps = REFERENCE.weight_grad(feats.double(), grad.double(), there, products=torch.float64)
    expected = torch.zeros(small.shape, dtype=torch.float64).index_add(0, groups, of_taps)
    assert_near(engine.weight_grad(feats, grad, tied_there, products=F32), expected)


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["none", "one", "two far apart"])
def test_hardly_any_sites(engine: Engine, kernel_size: int, stride: int, kind: str) -> None:
    sites = {"none": [], "one": [[0, -7, 3, 2]], "two far apart": [[0, -50_000, 3, 2], [1, 50_000, 9, -40_000]]}[kind]
    coords = torch.tensor(sites, dtype=torch.int32).reshape(-1, 4)
    there, back, out_coords = maps_of(engine, coords, kernel_size, stride)
    assert len(out_coords) == len(coords)
    feats, weight = torch.randn(len(coords), 5), random_weight(kernel_size**3, 5, 3)
    for axes in ("", "y", "xyz"):
        small = weight if not axes else weight[: int(tap_groups(kernel_size, axes).max()) + 1].contiguous()
        whole = repeat_filter(small, kernel_size, axes) if axes else weight
        forth = engine.tie(there, axes) if axes else there
        assert_near(engine.conv(feats, small, forth, products=F32), REFERENCE.conv(feats, whole, there, products=F32))
        grad_map = engine.tie(back, axes) if axes else back
        grad = torch.randn(len(out_coords), 3)
        assert engine.conv(grad, small, grad_map, products=F32, transpose=True).shape == feats.shape
        assert engine.weight_grad(feats, grad, forth, products=F32).shape == small.shape


def test_sites_stay_as_they_are_found_in_any_order(engine: Engine) -> None:
    """Rows in order or not, in a small box or in a huge one: the same sums."""
    coords = random_coords()
    order = (((coords[:, 0] * 99 + coords[:, 1]) * 99 + coords[:, 2]) * 99 + coords[:, 3]).argsort()
    feats, weight = torch.randn(len(coords), 8), random_weight(27, 8, 8)
    far = torch.tensor([[0, 1_000_000, -1_000_000, 500_000]], dtype=torch.int32)
    outs = []
    for rows in (torch.arange(len(coords)), order):
        for extra in (coords[:0], far):
            sites = torch.cat([coords[rows], extra])
            out = engine.conv(torch.cat([feats[rows], feats[: len(extra)]]), weight, maps_of(engine, sites, 3, 1)[0], products=F32)
            outs.append(torch.empty(len(coords), 8).index_copy_(0, rows, out[: len(coords)]))
    for out in outs[1:]:
        assert_near(out, outs[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("parts", ["bias", "residual", "relu", "bias residual relu"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_epilogue_does_what_its_parts_do(engine: Engine, stride: int, parts: str, packed: bool) -> None:
    coords = random_coords()
    there, _, out_coords = maps_of(engine, coords, 3, stride)
    feats, weight = torch.randn(len(coords), 33), random_weight(27, 33, 40)
    bias, residual = torch.randn(40), torch.randn(len(out_coords), 40)
    kept = residual.clone()
    expected = REFERENCE.conv(feats.double(), weight.double(), there, products=torch.float64)
    expected = expected + bias * ("bias" in parts) + residual * ("residual" in parts)
    epilogue = Epilogue(bias if "bias" in parts else None, residual if "residual" in parts else None, "relu" in parts)
    used = engine.pack(weight, F32) if packed else weight
    found = engine.conv(feats, used, there, products=F32, epilogue=epilogue)
    assert_near(found, expected.relu() if "relu" in parts else expected)
    assert torch.equal(residual, kept)


@pytest.mark.parametrize("shape", [(27, 6, 9), (1, 1, 4), (1, 4, 1)])
def test_a_packed_weight_is_a_snapshot(engine: Engine, shape: tuple[int, int, int]) -> None:
    coords = random_coords()
    there, _, _ = maps_of(engine, coords, 3 if shape[0] == 27 else 1, 1)
    feats, weight = torch.randn(len(coords), shape[1]), random_weight(*shape)
    packed = engine.pack(weight, F32)
    before = engine.conv(feats, packed, there, products=F32)
    weight.fill_(torch.nan)
    assert packed.shape == shape
    assert torch.equal(engine.conv(feats, packed, there, products=F32), before)
    assert not before.isnan().any()


def test_the_same_bits_every_time(engine: Engine) -> None:
    def run() -> list[torch.Tensor]:
        coords = random_coords(size=14)
        there, back, out_coords = maps_of(engine, coords, 3, 2)
        tied = engine.tie(there, "y")
        feats, grad, weight = (
            torch.randn(shape, generator=torch.Generator().manual_seed(1))
            for shape in ((len(coords), 32), (len(out_coords), 48), (27, 32, 48))
        )
        return [
            engine.conv(feats, weight, there, products=F32),
            engine.conv(feats, weight[:9].contiguous(), tied, products=F32),
            engine.conv(grad, weight, back, products=F32, transpose=True),
            engine.weight_grad(feats, grad, there, products=F32),
            engine.weight_grad(feats, grad, tied, products=F32),
        ]

    first = run()
    for _ in range(20):
        assert all(torch.equal(again, once) for again, once in zip(run(), first, strict=True))


MEMORY_OF_ONE_LARGE_TAP = """
import pathlib, re, sys, torch
from models.sparse.backends import ENGINES
from models.sparse.kernel_map import KernelMap
rows = torch.arange(600_000, dtype=torch.int32)
kernel_map = KernelMap(rows.flip(0).contiguous(), rows, (len(rows),), len(rows), len(rows))
engine, feats, weight = ENGINES[sys.argv[1]], torch.randn(len(rows), 64), torch.randn(1, 64, 64)
few = rows[:20_000]  # first what is done once a process
engine.conv(feats[:20_000], weight, KernelMap(few, few, (20_000,), 20_000, 20_000), products=torch.float32)
memory = lambda what: 1024 * int(re.search(what + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
before = memory("VmRSS")
out = engine.conv(feats, weight, kernel_map, products=torch.float32)
print((memory("VmHWM") - before) / out.nbytes)  # highest so far; getrusage would tell of the parent's as well
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell how much memory a process has")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "reference"])
def test_a_large_tap_is_not_gathered_at_once(name: str) -> None:
    """600,000 pairs of 64 channels: 154 MB of output; gathered rows or products of all of them would be as much again, each."""
    found = subprocess.run([sys.executable, "-c", MEMORY_OF_ONE_LARGE_TAP, name], check=True, capture_output=True, text=True)
    assert 0.9 < float(found.stdout) < 1.4


OTHER_DTYPES = [(e, dtype) for e in ENGINES.values() for dtype in (torch.float64, torch.bfloat16, torch.float16) if e.runs(CPU, dtype)]


@pytest.mark.parametrize(("engine", "dtype"), OTHER_DTYPES, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.parametrize("axes", ["", "y"])
def test_other_dtypes(engine: Engine, dtype: torch.dtype, axes: str) -> None:
    coords = random_coords()
    there, _, _ = maps_of(engine, coords, 3, 1)
    there = engine.tie(there, axes) if axes else there
    feats, weight = torch.randn(len(coords), 8).to(dtype), random_weight(len(there.sizes), 8, 12).to(dtype)
    grad = torch.randn(len(coords), 12).to(dtype)
    pairs = [
        (engine.conv(feats, weight, there, products=dtype), REFERENCE.conv(feats.double(), weight.double(), there, products=torch.float64)),
        (
            engine.weight_grad(feats, grad, there, products=dtype),
            REFERENCE.weight_grad(feats.double(), grad.double(), there, products=torch.float64),
        ),
    ]
    for found, expected in pairs:
        assert found.dtype == dtype
        assert float((found.double() - expected).norm() / expected.norm()) < (1e-12 if dtype == torch.float64 else 0.01)


def test_low_precision_factors(engine: Engine) -> None:
    """Factors are rounded, results keep the features' dtype: near the exact ones, and not equal to them."""
    coords = random_coords()
    there, back, out_coords = maps_of(engine, coords, 3, 1)
    feats, weight, grad = torch.randn(len(coords), 64), random_weight(27, 64, 48), torch.randn(len(out_coords), 48)
    calls = [
        lambda kind: engine.conv(feats, weight, there, products=kind),
        lambda kind: engine.conv(feats, engine.pack(weight, kind), there, products=kind),
        lambda kind: engine.conv(grad, weight, back, products=kind, transpose=True),
        lambda kind: engine.weight_grad(feats, grad, there, products=kind),
    ]
    for call in calls:
        exact, low = call(F32), call(torch.bfloat16)
        assert low.dtype == F32
        assert 0 < float((low - exact).norm() / exact.norm()) < 0.006


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_what_memory_held_before_does_not_matter(engine: Engine, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are longer than what is in them: all memory that is taken holds NaN at first. Taps of many lengths."""
    maps = [maps_of(engine, random_coords(seed, size), 3, 2)[0] for seed, size in enumerate((5, 6, 7, 8, 9, 10, 11, 12))]
    weight = random_weight(27, channels, 16)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        for there, products in itertools.product(maps, (F32, torch.bfloat16, torch.float16)):
            feats, grad = torch.randn(there.num_in, channels), torch.randn(there.num_out, 16)
            assert engine.conv(feats, weight, there, products=products).isfinite().all(), products
            assert engine.conv(feats, engine.pack(weight, products), there, products=products).isfinite().all(), products
            assert engine.weight_grad(feats, grad, there, products=products).isfinite().all(), products
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "cifar_resnet20"])
@pytest.mark.parametrize("tied", [False, True])
def test_folded_nets_answer_as_unfolded_ones(engine: Engine, network: str, tied: bool) -> None:
    torch.manual_seed(0)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=5))
    coords = random_coords(size=9)
    feats = torch.randn(len(coords), 3)
    for module in net.modules():
        if isinstance(module, SparseBatchNorm):  # statistics that are not those of a fresh net
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, SparseConv3d) and tied and module.kernel_size > 1:
            axes = "xyz" if module.kernel_size == 2 else "y"
            kept = module.weight.detach()[: int(tap_groups(module.kernel_size, axes).max()) + 1]
            module.weight.data = repeat_filter(kept, module.kernel_size, axes).contiguous()
    net = net.eval().requires_grad_(False)
    prepared = copy.deepcopy(net)
    prepare_inference(prepared)
    with torch.no_grad():
        expected = net.double()(sparse_tensor(coords, feats.double(), engine=REFERENCE))
        found = prepared(sparse_tensor(coords, feats, engine=engine))
    scale = max(1, float(expected.abs().max()))
    assert_near(found / scale, expected / scale)
