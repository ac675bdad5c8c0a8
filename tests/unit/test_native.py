"""The native engine: every instruction set against the reference, and a build with sanitizers.

Run as a program it exercises every kernel once; the sanitizer test does so in a process of its own.
"""

import copy
import dataclasses
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from models.errors import ExtentTooLarge
from models.sparse.backends.native import NativeEngine
from models.sparse.backends.native_build import CannotBuild, build, find_compiler
from models.sparse.backends.native_choice import INSTRUCTION_SETS, best_of, low_products_pay
from models.sparse.backends.native_library import Kernels, address
from models.sparse.backends.protocol import Epilogue
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.kernel_map import KernelMap
from models.sparse.nn import SparseConv3d
from models.sparse.tensor import SiteCache, sparse_tensor
from tests.unit.test_native_norms import compare_norms

CHANNELS = [(1, 1), (6, 40), (3, 64), (64, 64), (17, 33), (100, 65), (5, 130), (16, 16), (96, 48)]
KERNELS = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]
REFERENCE = ReferenceEngine()
OUT_OF_BOUNDS = "read a row that is not there"


def random_sites(side: int = 9) -> torch.Tensor:
    """Two clouds in side³ cells, about a third occupied, negative coordinates included, ascending. 9: one block of rows, 16: five."""
    generator = torch.Generator().manual_seed(0)
    return ((torch.rand(2, side, side, side, generator=generator) < 0.3).nonzero() + torch.tensor([0, -4, -5, 3])).int()


def compare(engine: NativeEngine, cin: int, cout: int, kernel_map: KernelMap, products: torch.dtype) -> float:
    """Largest of the relative errors of forward with everything fused, forward by the transposed weight, and weight gradient."""
    generator = torch.Generator().manual_seed(cin + cout)
    feats = torch.randn(kernel_map.num_in, cin, generator=generator)
    grad = torch.randn(kernel_map.num_out, cout, generator=generator)
    weight = torch.randn(len(kernel_map.sizes), cin, cout, generator=generator)
    epilogue = Epilogue(torch.randn(cout, generator=generator), torch.randn(kernel_map.num_out, cout, generator=generator), relu=True)
    assert epilogue.bias is not None
    assert epilogue.residual is not None
    wide = Epilogue(epilogue.bias.double(), epilogue.residual.double(), relu=True)
    flipped = weight.transpose(1, 2).contiguous()
    found = [
        engine.conv(feats, weight, kernel_map, products=products, epilogue=epilogue),
        engine.conv(feats, flipped, kernel_map, products=products, transpose=True),
        engine.weight_grad(feats, grad, kernel_map, products=products),
    ]
    if products == torch.bfloat16:  # what the engine is given is what the reference gets: rounded factors
        feats, weight, flipped, grad = (each.to(products).float() for each in (feats, weight, flipped, grad))
    exact = {"products": torch.float64}
    expected = [
        REFERENCE.conv(feats.double(), weight.double(), kernel_map, epilogue=wide, **exact),
        REFERENCE.conv(feats.double(), flipped.double(), kernel_map, transpose=True, **exact),
        REFERENCE.weight_grad(feats.double(), grad.double(), kernel_map, **exact),
    ]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(found, expected, strict=True))


def all_maps(engine: NativeEngine) -> list[KernelMap]:
    """Every kernel, stride, direction and tie, made by the engine; pairs equal those of the reference."""
    coords = random_sites()
    ours, theirs = SiteCache(coords, engine), SiteCache(coords, REFERENCE)
    maps = []
    for (kernel_size, stride), transposed, tied in itertools.product(KERNELS, (False, True), ("", "x", "y", "z", "xyz")):
        if kernel_size == 1 and tied:
            continue
        found, expected = (sites.kernel_map(1, kernel_size, stride, transposed=transposed, tied=tied) for sites in (ours, theirs))
        assert found.sizes == expected.sizes
        assert torch.equal(found.out_rows, expected.out_rows)
        assert members(found) == members(expected)
        maps.append(found)
    return maps


def members(kernel_map: KernelMap) -> list[frozenset[int]]:
    """The input rows that each pair stands for."""
    lines = kernel_map.lines
    own = [frozenset([row]) for row in range(kernel_map.num_in)]
    if lines is not None:
        own += [frozenset(part.tolist()) for part in lines.rows.split(lines.starts.diff().tolist())]
    return [own[row] for row in kernel_map.in_rows.tolist()]


def native(instruction_set: str) -> NativeEngine:
    engine = NativeEngine(instruction_set)
    if reason := engine.unavailable():
        pytest.skip(reason)
    return engine


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_equals_the_reference(instruction_set: str) -> None:
    engine = native(instruction_set)
    for kernel_map in all_maps(engine):
        for cin, cout in CHANNELS:
            assert compare(engine, cin, cout, kernel_map, torch.float32) < 1e-5


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_bfloat16_products_are_exact_sums_of_rounded_factors(instruction_set: str) -> None:
    """Where the processor multiplies bfloat16 itself, and where factors are rounded and multiplied in float32."""
    engine = native(instruction_set)
    sites = SiteCache(random_sites(), engine)
    for tied in ("", "y"):  # a line is rounded after it was summed, in ours; before, in the comparison
        for cin, cout in (*CHANNELS, (176, 336), (320, 272)):  # the last two: several shares and panels of tiles, and half a tile left over
            worst = compare(engine, cin, cout, sites.kernel_map(1, 3, 1, tied=tied), torch.bfloat16)
            assert worst < (0.01 if tied else 1e-5)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_factors_are_rounded_as_pytorch_rounds_them(instruction_set: str) -> None:
    """Ties, subnormal and infinite values, NaN of every kind, and a rest that is no whole vector."""
    engine = native(instruction_set)
    bits = torch.randint(-(1 << 31), 1 << 31, (100_003,), dtype=torch.int64, generator=torch.Generator().manual_seed(0)).to(torch.int32)
    special = [
        0,
        -(1 << 31),
        0x7F800000,
        0x7F800001,
        0x7FFFFFFF,
        0x7FC00000,
        0x00008000,
        0x00018000,
        0x3F808000,
        0x3F818000,
        0x7F7FFFFF,
        -1,
    ]
    values = torch.cat([torch.tensor(special, dtype=torch.int32), bits]).view(torch.float32)
    for count, threads in ((len(values), 1), (len(values), 2), (5, 1), (0, 1)):
        found = torch.empty(count)
        engine.kernels.round(address(values), count, address(found), threads)
        torch.testing.assert_close(found, values[:count].to(torch.bfloat16).float(), rtol=0, atol=0, equal_nan=True)


def test_bfloat16_products_are_measured_only_where_that_decides() -> None:
    def never() -> bool:
        raise AssertionError("asked")

    assert best_of(["amx", "avx512bf16", "avx512"], never) == "amx"
    assert best_of(["avx512", "avx2", "portable"], never) == "avx512"
    assert best_of(["avx512bf16"], never) == "avx512bf16"  # by name
    assert best_of(["avx512bf16", "avx512"], lambda: False) == "avx512"
    assert best_of(["avx512bf16", "avx512"], lambda: True) == "avx512bf16"


def test_what_multiplies_bfloat16_is_chosen_by_measuring() -> None:
    """By kernels of which one takes its time, and by real ones."""
    quick, slow = (lambda task: None), (lambda task: time.sleep(0.001))
    assert low_products_pay(cast("Kernels", SimpleNamespace(conv=slow, conv_bf16=quick)))
    assert not low_products_pay(cast("Kernels", SimpleNamespace(conv=quick, conv_bf16=slow)))
    assert not low_products_pay(cast("Kernels", SimpleNamespace(conv=slow, conv_bf16=slow)))  # as fast is not faster
    low_products_pay(native("avx512bf16").kernels)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_same_bits_whatever_the_threads(instruction_set: str) -> None:
    """Several blocks of rows, panels of columns and shares of channels, so that threads have something to divide."""
    engine = native(instruction_set)
    sites = SiteCache(random_sites(16), engine)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            kernel_map = sites.kernel_map(1, 3, 1, tied="y")
            feats = torch.randn(kernel_map.num_in, 200, generator=torch.Generator().manual_seed(0))
            grad = torch.randn(kernel_map.num_out, 70, generator=torch.Generator().manual_seed(1))
            weight = torch.randn(9, 200, 70, generator=torch.Generator().manual_seed(2))
            forward = engine.conv(feats, weight, kernel_map, products=torch.float32)
            results.append((forward, engine.weight_grad(feats, grad, kernel_map, products=torch.float32)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for again in results[1:] for a, b in zip(results[0], again, strict=True))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("side", [9, 16])
def test_same_bits_of_bfloat16_whatever_the_threads(instruction_set: str, side: int) -> None:
    """One block of rows, whose weights may be packed as they are used, and several; more threads than either has panels, too."""
    engine = native(instruction_set)
    sites = SiteCache(random_sites(side), engine)
    weight = torch.randn(27, 128, 336, generator=torch.Generator().manual_seed(2))
    kernel_map = sites.kernel_map(1, 3, 1)
    feats = torch.randn(kernel_map.num_in, 128, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(kernel_map.num_out, 336, generator=torch.Generator().manual_seed(1))
    low = {"products": torch.bfloat16}
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            there, back = engine.conv(feats, weight, kernel_map, **low), engine.conv(grad, weight, kernel_map, transpose=True, **low)
            packed = engine.conv(feats, engine.pack(weight, torch.bfloat16), kernel_map, **low)
            assert torch.equal(there, packed)
            results.append((there, back, engine.weight_grad(feats, grad, kernel_map, **low)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for again in results[1:] for a, b in zip(results[0], again, strict=True))


def test_a_pack_does_not_follow_its_weight() -> None:
    engine = native("portable")
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, 3, 1)
    feats, weight = torch.randn(kernel_map.num_in, 8), torch.randn(27, 8, 8)
    packed = engine.pack(weight, torch.float32)
    before = engine.conv(feats, packed, kernel_map, products=torch.float32)
    weight.zero_()
    assert torch.equal(engine.conv(feats, packed, kernel_map, products=torch.float32), before)
    assert not engine.conv(feats, weight, kernel_map, products=torch.float32).any()


def test_other_dtypes_run_through_torch() -> None:
    engine = native("portable")
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, 3, 1)
    feats, weight = torch.randn(kernel_map.num_in, 4, dtype=torch.float64), torch.randn(27, 4, 5, dtype=torch.float64)
    found = engine.conv(feats, weight, kernel_map, products=torch.float64)
    torch.testing.assert_close(found, REFERENCE.conv(feats, weight, kernel_map, products=torch.float64))


def test_sites_that_cannot_be_merged() -> None:
    """Rows in any order are sorted by the general index; a box too large for a key is a typed error, as is a duplicate."""
    engine = native("portable")
    coords = random_sites()
    shuffled = coords[torch.randperm(len(coords), generator=torch.Generator().manual_seed(3))]
    found, expected = (SiteCache(shuffled, each).kernel_map(1, 3, 2) for each in (engine, REFERENCE))
    assert torch.equal(found.in_rows, expected.in_rows)
    far = torch.tensor([[0, -(2**31), -(2**31), -(2**31)], [0, 2**31 - 9, 2**31 - 9, 2**31 - 9]], dtype=torch.int32)
    with pytest.raises(ExtentTooLarge):
        SiteCache(far, engine).kernel_map(1, 3, 1)
    with pytest.raises(ExtentTooLarge):
        SiteCache(far, engine).parents(1, 2)
    with pytest.raises(ValueError, match="reaches further"):
        SiteCache(coords, engine).kernel_map(1, 3, 9)
    with pytest.raises(ValueError, match="batch index"):
        engine.downsample(torch.tensor([[-1, 0, 0, 0]], dtype=torch.int32), 2)
    coarse = engine.downsample(coords, 2)[0]
    upside_down = coarse[torch.randperm(len(coarse), generator=torch.Generator().manual_seed(4))]
    found, expected = (each.kernel_map(each.index(coords), upside_down, 2, 2) for each in (engine, REFERENCE))
    assert torch.equal(found.in_rows, expected.in_rows)
    assert torch.equal(found.out_rows, expected.out_rows)
    with pytest.raises(ValueError, match="duplicate"):
        SiteCache(torch.zeros(2, 4, dtype=torch.int32), engine).kernel_map(1, 3, 1)


def test_what_does_not_fit_is_refused_before_it_is_read() -> None:
    engine = native("portable")
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, 3, 1)
    feats, weight = torch.randn(kernel_map.num_in, 4), torch.randn(27, 4, 8)
    exact = {"products": torch.float32}
    for wrong in (Epilogue(bias=torch.zeros(7)), Epilogue(residual=torch.zeros(kernel_map.num_out - 1, 8))):
        with pytest.raises(ValueError, match="must be"):
            engine.conv(feats, weight, kernel_map, epilogue=wrong, **exact)
    with pytest.raises(ValueError, match="feats must be"):
        engine.conv(feats[1:], weight, kernel_map, **exact)
    with pytest.raises(ValueError, match="grad must be"):
        engine.weight_grad(feats, torch.zeros(3, 8), kernel_map, **exact)
    expected = engine.conv(feats, weight, kernel_map, **exact)
    torch.testing.assert_close(engine.conv(feats, weight.double(), kernel_map, **exact), expected)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(engine.conv(feats, weight, kernel_map, **exact), expected)
        with torch.device("meta"):
            assert torch.equal(engine.conv(feats, weight, kernel_map, **exact), expected)
    finally:
        torch.set_default_dtype(before)


def test_a_tensor_on_the_engine_can_be_copied() -> None:
    x = sparse_tensor(random_sites(), torch.randn(len(random_sites()), 4), engine=native("portable"))
    again = copy.deepcopy(x)
    assert torch.equal(SparseConv3d(4, 4).requires_grad_(False)(again).coords, x.coords)


def test_no_sites() -> None:
    engine = native("portable")
    sites = SiteCache(torch.zeros(0, 4, dtype=torch.int32), engine)
    assert sites.parents(1, 2).shape == (0,)
    for kernel_size, stride in KERNELS:
        kernel_map = sites.kernel_map(1, kernel_size, stride)
        assert engine.conv(torch.zeros(0, 3), torch.randn(kernel_size**3, 3, 8), kernel_map, products=torch.float32).shape == (0, 8)


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Every kernel under AddressSanitizer and UndefinedBehaviorSanitizer; and a map that lies is found, so they do watch."""
    try:
        compiler = find_compiler()
        library = build(tmp_path, compiler, ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"))
    except CannotBuild as error:
        pytest.skip(str(error))
    runtimes = [
        subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip("this compiler comes without shared sanitizer runtimes")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "FIP_NATIVE_LIBRARY": str(library), "LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    environment |= {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(root), "GLIBC_TUNABLES": ""}
    for arguments, expected in (([], ""), ([OUT_OF_BOUNDS], "AddressSanitizer: heap-")):
        done = subprocess.run([sys.executable, __file__, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (not expected), done.stderr[-3000:]
        assert expected in done.stderr


def exercise() -> None:
    """Every instruction set of this machine, every map, a few widths, both kinds of products; then several blocks and shares."""
    for name in INSTRUCTION_SETS:
        engine = NativeEngine(name)
        if engine.unavailable() is None:
            compare_norms(engine)
            for kernel_map in all_maps(engine):
                for cin, cout in ((1, 1), (17, 81)):
                    for products in (torch.float32, torch.bfloat16):
                        compare(engine, cin, cout, kernel_map, products)
            large = SiteCache(random_sites(16), engine).kernel_map(1, 3, 1, tied="y")
            for products in (torch.float32, torch.bfloat16):
                compare(engine, 101, 130, large, products)
                compare(engine, 176, 48, large, products)
                compare(engine, 64, 272, large, products)
            compare(engine, 288, 272, SiteCache(random_sites(), engine).kernel_map(1, 3, 1), torch.bfloat16)


def read_out_of_bounds() -> None:
    """Rows are what C takes on trust: maps are made by engines, never by users."""
    engine = NativeEngine("portable")
    kernel_map = SiteCache(random_sites(), engine).kernel_map(1, 3, 1)
    lying = dataclasses.replace(kernel_map, in_rows=kernel_map.in_rows.clone().fill_(-1))
    feats = torch.randn(kernel_map.num_in, 8)
    engine.conv(feats, torch.randn(27, 8, 8), lying, products=torch.float32)


if __name__ == "__main__":
    read_out_of_bounds() if OUT_OF_BOUNDS in sys.argv else exercise()
