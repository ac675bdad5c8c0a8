"""The Triton engine in Triton's interpreter, which runs kernels on the CPU; tests/gpu runs them compiled."""

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from models.sparse.backends import triton_engine
from models.sparse.backends.protocol import Epilogue
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.backends.torchsparse_backend import Parts, TorchsparseEngine
from models.sparse.backends.torchsparse_dataflows import ImplicitGemm
from models.sparse.backends.triton_engine import CONV, FEWEST_PAIRS, GRAD, TritonEngine, splits_of
from models.sparse.kernel_map import KernelMap
from models.sparse.tensor import SiteCache
from tests.torchsparse_cuda import CudaFunctions, HashTable

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if torch.cuda.is_available():
    pytest.skip("there is a GPU: tests/gpu runs the compiled kernels", allow_module_level=True)

REFERENCE = ReferenceEngine()
KERNELS = [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Iterator[None]:
    """Triton makes everything for the interpreter where that is asked for when it is imported, which is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        triton_engine._why_not.cache_clear()
        triton_engine._kernels()
        yield
    triton_engine._why_not.cache_clear()


def random_sites(side: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return ((torch.rand(2, side, side, side, generator=generator) < 0.3).nonzero() + torch.tensor([0, -4, -5, 3])).int()


def maps() -> list[KernelMap]:
    """Whole and tied, one way and back; one without pairs, one without sites."""
    sites = SiteCache(random_sites(), REFERENCE)
    cases = [(1, 1, False, ""), (3, 1, False, ""), (3, 1, False, "y"), (3, 2, True, ""), (2, 2, False, "xyz"), (2, 2, True, "")]
    found = [sites.kernel_map(1, size, stride, transposed=back, tied=tied) for size, stride, back, tied in cases]
    none = torch.empty(0, dtype=torch.int32)
    return [*found, KernelMap(none, none, (0,) * 27, 9, 40), KernelMap(none, none, (0,) * 27, 0, 0)]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1)) if found.numel() else 0.0


@pytest.mark.parametrize(("cin", "cout", "products"), [(3, 16, torch.float32), (40, 70, torch.float32), (17, 33, torch.float16)])
def test_equals_the_reference(cin: int, cout: int, products: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward with everything fused, forward by the transposed weight, weight gradient in several parts; factors rounded before.

    Not in bfloat16, which the interpreter multiplies as if it were integers.
    """
    monkeypatch.setattr(triton_engine, "FEWEST_PAIRS", 8)
    monkeypatch.setattr(triton_engine, "_processors", lambda _: 16)
    engine, generator = TritonEngine(), torch.Generator().manual_seed(cin)
    for kernel_map in maps():
        feats = torch.randn(kernel_map.num_in, cin, generator=generator).to(products).float()
        grad = torch.randn(kernel_map.num_out, cout, generator=generator).to(products).float()
        weight = torch.randn(len(kernel_map.sizes), cin, cout, generator=generator).to(products).float()
        bias, residual = torch.randn(cout, generator=generator), torch.randn(kernel_map.num_out, cout, generator=generator)
        wide = Epilogue(bias.double(), residual.double(), relu=True)
        flipped, exact = weight.transpose(1, 2).contiguous(), {"products": torch.float64}
        tolerance = 1e-5 if products == torch.float32 or kernel_map.lines is None else 2e-2  # sums of lines are rounded, too
        pairs = [
            (engine.conv(feats, weight, kernel_map, products=products, epilogue=Epilogue(bias, residual, relu=True)), "fused"),
            (engine.conv(feats, engine.pack(weight, products), kernel_map, products=products), "packed"),
            (engine.conv(feats, flipped, kernel_map, products=products, transpose=True), "flipped"),
            (engine.weight_grad(feats, grad, kernel_map, products=products), "gradient"),
        ]
        plain = REFERENCE.conv(feats.double(), weight.double(), kernel_map, **exact)
        expected = [
            REFERENCE.conv(feats.double(), weight.double(), kernel_map, epilogue=wide, **exact),
            plain,
            plain,
            REFERENCE.weight_grad(feats.double(), grad.double(), kernel_map, **exact),
        ]
        for (found, what), wanted in zip(pairs, expected, strict=True):
            assert error(found.double(), wanted) < tolerance, (what, kernel_map.sizes)


@pytest.mark.parametrize("tiling", [*CONV, *GRAD])
def test_every_tiling_computes_the_same(tiling: triton_engine.Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_engine, "CONV" if tiling in CONV else "GRAD", (tiling,))
    kernel_map = SiteCache(random_sites(), REFERENCE).kernel_map(1, 2, 2)
    feats, grad = torch.randn(kernel_map.num_in, 66), torch.randn(kernel_map.num_out, 130)
    weight, exact = torch.randn(8, 66, 130), {"products": torch.float64}
    if tiling in CONV:
        found = TritonEngine().conv(feats, weight, kernel_map, products=torch.float32)
        expected = REFERENCE.conv(feats.double(), weight.double(), kernel_map, **exact)
    else:
        found = TritonEngine().weight_grad(feats, grad, kernel_map, products=torch.float32)
        expected = REFERENCE.weight_grad(feats.double(), grad.double(), kernel_map, **exact)
    assert error(found.double(), expected) < 1e-5


def test_weight_gradients_fill_the_device() -> None:
    """With programs that have something to do."""
    processors = 132
    for longest in (0, 100, 5_000, 200_000, 3_000_000):
        for programs in (9, 27, 27 * 16, 27 * 64):  # 9: tied, and few channels
            splits = splits_of(longest, programs, processors)
            assert splits == 1 or longest / splits >= FEWEST_PAIRS
            assert splits * programs >= min(4 * processors, programs * (longest // FEWEST_PAIRS))
            assert splits * programs < 4 * processors + programs  # as many sums are kept until they are added up
    assert splits_of(200_000, 9, processors) == 59


def test_the_version_is_what_triton_says_whoever_packed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(triton, "__version__", "3.7.1+rocm")
    assert TritonEngine().detail() == "Triton 3.7.1+rocm, interpreted"


def test_torchsparse_hands_it_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16, weight gradients of float16, and what is too large."""
    functions = CudaFunctions()
    engine = TorchsparseEngine(lambda: Parts({"cpu": ImplicitGemm(functions, fp16=True)}, {"cpu": HashTable}))
    kernel_map = SiteCache(random_sites(), REFERENCE).kernel_map(1, 3, 1)
    feats, weight, exact = torch.randn(kernel_map.num_in, 16), torch.randn(27, 16, 16), {"products": torch.float64}
    assert engine.pack(weight, torch.bfloat16).engine == "triton"
    assert engine.pack(weight, torch.float16).engine == "torchsparse"
    started: list[str] = []
    kernels = triton_engine._kernels()

    class Seen:
        def __getattr__(self, name: str) -> object:
            started.append(name)
            return getattr(kernels, name)

    monkeypatch.setattr(triton_engine, "_kernels", Seen)
    found = engine.weight_grad(feats, feats, kernel_map, products=torch.float16)
    assert error(found.double(), REFERENCE.weight_grad(feats.double(), feats.double(), kernel_map, **exact)) < 5e-3
    assert started == ["weight_grad_kernel"]
    monkeypatch.setattr("models.sparse.backends.torchsparse_dataflows.LARGEST_PLACE", 100)
    found = engine.conv(feats, weight, kernel_map, products=torch.float32)
    assert error(found.double(), REFERENCE.conv(feats.double(), weight.double(), kernel_map, **exact)) < 1e-5
    assert started == ["weight_grad_kernel", "conv_kernel"]
    assert not functions.called


def test_what_is_not_a_number_stays() -> None:
    kernel_map = SiteCache(random_sites(), REFERENCE).kernel_map(1, 1, 1)
    feats = torch.full((kernel_map.num_in, 16), torch.nan)
    out = TritonEngine().conv(feats, torch.ones(1, 16, 16), kernel_map, products=torch.float32, epilogue=Epilogue(relu=True))
    assert bool(out.isnan().all())


def test_other_dtypes_run_through_torch() -> None:
    kernel_map = SiteCache(random_sites(), REFERENCE).kernel_map(1, 3, 1)
    feats, weight = torch.randn(kernel_map.num_in, 4, dtype=torch.float64), torch.randn(27, 4, 4, dtype=torch.float64)
    found = TritonEngine().conv(feats, weight, kernel_map, products=torch.float64)
    torch.testing.assert_close(found, REFERENCE.conv(feats, weight, kernel_map, products=torch.float64))


def test_rows_that_read_the_same_taps_follow_each_other() -> None:
    """And the table says what the pairs do."""
    for kernel_map in maps():
        reads = (kernel_map.sources_by_likeness >= 0).T
        changes = (reads[1:] != reads[:-1]).any(1).sum() + min(len(reads), 1)
        assert int(changes) == len(reads.unique(dim=0))
        pairs = {
            (tap, int(i), int(o))
            for tap, (ins, outs) in enumerate(
                zip(kernel_map.in_rows.split(kernel_map.sizes), kernel_map.out_rows.split(kernel_map.sizes), strict=True)
            )
            for i, o in zip(ins, outs, strict=True)
        }
        taps, outs = (kernel_map.sources >= 0).nonzero(as_tuple=True)
        assert pairs == {(int(k), int(kernel_map.sources[k, o]), int(o)) for k, o in zip(taps, outs, strict=True)}
