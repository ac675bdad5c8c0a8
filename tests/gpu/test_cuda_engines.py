"""Every engine for CUDA on a device: the same maps as on the CPU, and the reference's numbers to 1e-4 (float32) and 5e-3 (half)."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import torch

from models.errors import BadOption
from models.labels import IGNORE, OPEN
from models.manifest import NetworkSpec
from models.rounding import rounding
from models.sparse.backends import PREFERRED, choose, engine_for, engine_named, triton_engine
from models.sparse.backends.protocol import Epilogue
from models.sparse.backends.triton_engine import CONV, GRAD, Tiling, TritonEngine, _tuner
from models.sparse.nn import SparseBatchNorm, prepare_inference
from models.sparse.tensor import SiteCache, sparse_tensor
from models.zoo import build
from tests.gpu.cases import CUDA, NAMES, REFERENCE, ROUTES, Route, both_maps, engine_here, relative_error, sites, three_ways
from training.losses import batch_loss

pytestmark = pytest.mark.gpu
EXACT, HALF = 1e-4, 5e-3
MOST_WAITS = 8  # for a map, with the sites that it begins and ends on, and what an engine makes of it
CHANNELS = [(3, 16), (64, 64), (40, 70), (128, 256)]


@contextmanager
def waits(mode: Literal["warn", "error"]) -> Iterator[None]:
    """Whatever waits for the device warns, or raises."""
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")  # said once, when it is switched on
            torch.cuda.set_sync_debug_mode(mode)
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_maps_are_those_of_the_cpu(name: str, route: Route) -> None:
    found, expected = both_maps(engine_here(name), route)
    assert (found.sizes, found.num_in, found.num_out, found.identity_tap) == (
        expected.sizes,
        expected.num_in,
        expected.num_out,
        expected.identity_tap,
    )
    assert torch.equal(found.out_rows.cpu(), expected.out_rows)
    if route[3]:  # lines may be numbered otherwise
        assert (found.lines is None) == (expected.lines is None)
        assert len(found.lines or ()) == len(expected.lines or ())
    else:
        assert torch.equal(found.in_rows.cpu(), expected.in_rows)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize(("cin", "cout"), CHANNELS)
@pytest.mark.parametrize("products", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_the_reference(name: str, route: Route, cin: int, cout: int, products: torch.dtype) -> None:
    """bfloat16 keeps three bits fewer than float16."""
    engine = engine_here(name)
    ours, theirs = both_maps(engine, route)
    bound = {torch.float32: EXACT, torch.float16: HALF, torch.bfloat16: 8 * HALF}[products]
    for what, run in three_ways(theirs, cin, cout).items():
        found = run(engine, ours, CUDA, products)
        assert found.dtype == torch.float32
        assert relative_error(found, run(REFERENCE, theirs, torch.device("cpu"), torch.float64)) < bound, what


@pytest.mark.parametrize("name", NAMES)
def test_tf32_is_taken_only_where_it_is_asked_for(name: str) -> None:
    engine = engine_here(name)
    ours, theirs = both_maps(engine, (3, 1, False, ""))
    run = three_ways(theirs, 64, 64)["forward"]
    expected = run(REFERENCE, theirs, torch.device("cpu"), torch.float64)
    errors = {}
    for precision in ("fp32", "tf32"):
        with rounding(CUDA, precision):  # type: ignore[arg-type]
            errors[precision] = relative_error(run(engine, ours, CUDA, torch.float32), expected)
    assert errors["fp32"] < EXACT
    assert errors["tf32"] < HALF
    if name in ("triton", "torchsparse") and torch.cuda.get_device_capability() >= (8, 0):
        assert errors["tf32"] > 10 * errors["fp32"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
def test_bias_residual_and_relu_are_fused(name: str, packed: bool) -> None:
    engine = engine_here(name)
    ours, theirs = both_maps(engine, (3, 2, False, ""))
    feats, weight = torch.randn(ours.num_in, 33), torch.randn(27, 33, 40) / 30
    bias, residual = torch.randn(40), torch.randn(ours.num_out, 40)
    expected = (REFERENCE.conv(feats.double(), weight.double(), theirs, products=torch.float64) + bias + residual).relu()
    on_gpu = weight.cuda()
    used = engine.pack(on_gpu, torch.float32) if packed else on_gpu
    epilogue = Epilogue(bias.cuda(), residual.cuda(), relu=True)
    assert relative_error(engine.conv(feats.cuda(), used, ours, products=torch.float32, epilogue=epilogue), expected) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_none_and_few_sites(name: str) -> None:
    engine = engine_here(name)
    for coords in (torch.zeros(0, 4, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.int32), sites(3, 0.5)):
        ours, theirs = both_maps(engine, (3, 1, False, ""), coords)
        feats, weight = torch.randn(len(coords), 20), torch.randn(27, 20, 24)
        found = engine.conv(feats.cuda(), weight.cuda(), ours, products=torch.float32)
        expected = REFERENCE.conv(feats, weight, theirs, products=torch.float32)
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)
        assert engine.weight_grad(feats.cuda(), found, ours, products=torch.float32).shape == (27, 20, 24)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("fp16", 3e-2), ("bf16", 0.2)])
@pytest.mark.parametrize("decoder", [None, "listing"])
def test_whole_nets(name: str, precision: str, bound: float, decoder: str | None) -> None:
    """Folded as they are served, against float64 on the CPU. Layers add their rounding up: seventeen and more of them."""
    engine = engine_here(name)
    torch.manual_seed(0)
    net = build(
        NetworkSpec.model_validate({"name": "resnet18", "in_channels": 3, "num_classes": 5} | ({"decoder": decoder} if decoder else {}))
    )
    coords = sites(16, 0.4)
    feats = torch.randn(len(coords), 3)
    for module in net.modules():
        if isinstance(module, SparseBatchNorm):
            module.momentum = 1.0
    net.train()(sparse_tensor(coords, feats))  # statistics that keep features small
    net.eval().requires_grad_(False)
    with torch.inference_mode():
        expected = net.double()(sparse_tensor(coords, feats.double(), engine=REFERENCE))
    net = net.float().cuda()
    prepare_inference(net)
    with torch.inference_mode(), rounding(CUDA, precision):  # type: ignore[arg-type]
        found = net(sparse_tensor(coords.cuda(), feats.cuda(), engine=engine))
    assert relative_error(found.float(), expected) < bound


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device_once_maps_are_there(name: str) -> None:
    """Forward and backward of a whole net, on sites whose maps were built and whose kernels were tuned before."""
    engine = engine_here(name)
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=5)).cuda().train()
    coords = sites(16, 0.4).cuda()
    x = sparse_tensor(coords, torch.randn(len(coords), 3, device="cuda"), 2, engine)
    targets = torch.tensor([1, 3]).cuda()

    def step() -> None:
        batch_loss(net(x), targets, 2, label_smoothing=0.1, occurring=(1, 3)).backward()

    for _ in range(2):
        step()
    with waits("error"):
        step()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decoder", [{"decoder": "listing"}, {"decoder": "reference"}, {"decoder": "reference", "blur": True}], ids=str)
def test_nothing_waits_in_a_step_of_segmentation(name: str, decoder: dict[str, object]) -> None:
    """Every decoder, every part of the loss."""
    engine = engine_here(name)
    spec = {"name": "resnet18", "in_channels": 3, "num_classes": 5, **decoder}
    net = build(NetworkSpec.model_validate(spec)).cuda().train()
    coords = sites(16, 0.4).cuda()
    x = sparse_tensor(coords, torch.randn(len(coords), 3, device="cuda"), 2, engine)
    occurring = (OPEN, IGNORE, *range(5))
    targets = torch.tensor(occurring).repeat(len(coords))[: len(coords)].cuda()
    groups, weights = torch.tensor([[True, True, False, False, False]]).cuda(), torch.ones(5, device="cuda")

    def step() -> None:
        batch_loss(net(x), targets, 2, label_smoothing=0.1, lovasz=1.0, groups=groups, weights=weights, occurring=occurring).backward()

    for _ in range(2):
        step()
    with waits("error"):
        step()


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_on_new_sites_waits_a_few_times_for_each_map(name: str) -> None:
    """Not for each tap of each. Forward and back, with tied maps, on sites whose kernels are tuned."""
    engine = engine_here(name)
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=5, tied="y")).cuda().train()
    coords = sites(16, 0.4).cuda()
    feats = torch.randn(len(coords), 3, device="cuda")

    def forward_and_back() -> SiteCache:
        x = sparse_tensor(coords, feats, 2, engine)
        net(x).square().sum().backward()
        return x.sites

    for _ in range(2):
        forward_and_back()
    with warnings.catch_warnings(record=True) as said, waits("warn"):
        warnings.simplefilter("always")
        made = forward_and_back()
    found = sum("synchronizing" in str(each.message) for each in said)
    print(f"{name}: {found} waits for {len(made._maps)} maps")
    assert found <= MOST_WAITS * len(made._maps)


def test_what_runs_quickest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_here("triton")
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    _tuner.cache_clear()
    ours, _ = both_maps(TritonEngine(), (3, 1, False, ""))
    feats, weight = torch.randn(ours.num_in, 64, device="cuda"), torch.randn(27, 64, 64, device="cuda")
    TritonEngine().conv(feats, weight, ours, products=torch.float16)
    [kept] = (tmp_path / "tuned").iterdir()
    assert "conv 27 64 64" in kept.read_text()
    _tuner.cache_clear()


@pytest.mark.parametrize("products", [torch.float32, torch.float16])
@pytest.mark.parametrize("tiling", [*CONV, *GRAD], ids=str)
def test_every_tiling_is_right(tiling: Tiling, products: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is the quickest: the probe looks at one."""
    engine = engine_here("triton")
    monkeypatch.setattr(triton_engine, "CONV" if tiling in CONV else "GRAD", (tiling,))
    monkeypatch.setattr(triton_engine, "_tuner", lambda _: Only())
    ours, theirs = both_maps(engine, (3, 1, False, ""))
    for what, run in three_ways(theirs, 128, 136).items():
        if (tiling in GRAD) == (what == "weight gradient"):
            error = relative_error(run(engine, ours, CUDA, products), run(REFERENCE, theirs, torch.device("cpu"), torch.float64))
            assert error < (EXACT if products == torch.float32 else HALF), what


class Only:
    """A choice of one, of which nothing is kept."""

    def known(self, _: str, ways: dict[str, object]) -> str:
        [name] = ways
        return name


def test_the_choice_is_right_and_says_why() -> None:
    choice = choose("cuda")
    assert choice.name in PREFERRED["cuda"]
    assert choice.reports[choice.name].works
    assert choice.reason
    for name, report in choice.reports.items():
        print(f"{name}: {'works' if report.works else report.reason}, {report.forward_ms} ms, error {report.max_rel_error}")
    print(f"chosen: {choice.name}, {choice.reason}")
    assert engine_for("cuda").name == choice.name
    with pytest.raises(BadOption, match="unknown engine"):
        engine_named("touch")
