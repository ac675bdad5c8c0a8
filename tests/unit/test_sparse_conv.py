"""Sparse convolution against dense conv3d, on every kernel the nets use."""

import pytest
import torch
from torch.nn.functional import conv3d, conv_transpose3d, pad

from models.sparse.backends import ENGINES
from models.sparse.backends.gemm import SMALLEST_WORTHWHILE, probe_gemm
from models.sparse.conv import sparse_conv
from models.sparse.kernel_map import kernel_offsets
from models.sparse.nn import GlobalAvgPool, SparseAvgPool3d, SparseConv3d, SparseConvTranspose3d
from models.sparse.tensor import SiteCache, SparseTensor, sparse_tensor

SIZE, MARGIN = 9, 12  # random sites in 9³ cells, inside a dense grid with 12 empty cells on every side
KERNELS = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)]


def random_tensor(
    channels: int, seed: int = 0, shift: tuple[int, int, int] = (-4, -5, 3), dtype: torch.dtype = torch.float32
) -> SparseTensor:
    """Two clouds, about a third of the cells occupied, rows in random order, negative and odd coordinates included."""
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(2, SIZE, SIZE, SIZE, generator=generator) < 0.3).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)] + torch.tensor([0, *shift])
    return sparse_tensor(coords.int(), torch.randn(len(coords), channels, generator=generator, dtype=dtype))


def to_dense(x: SparseTensor) -> torch.Tensor:
    """(B, C, X, Y, Z) with the origin at MARGIN / level."""
    extent = (SIZE + 2 * MARGIN + 3) // x.level
    dense = x.feats.new_zeros(x.batch_size, x.feats.shape[1], extent, extent, extent)
    b, cx, cy, cz = x.coords.long().T
    origin = MARGIN // x.level
    dense[b, :, cx + origin, cy + origin, cz + origin] = x.feats
    return dense


def from_dense(dense: torch.Tensor, coords: torch.Tensor, level: int) -> torch.Tensor:
    b, cx, cy, cz = coords.long().T
    origin = MARGIN // level
    return dense[b, :, cx + origin, cy + origin, cz + origin]


def dense_weight(weight: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """(K, Cin, Cout) -> (Cout, Cin, k, k, k)."""
    _, cin, cout = weight.shape
    return weight.reshape(kernel_size, kernel_size, kernel_size, cin, cout).permute(4, 3, 0, 1, 2)


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
@pytest.mark.parametrize("shift", [(0, 0, 0), (-4, -5, 3)])
def test_equals_dense_convolution(kernel_size: int, stride: int, shift: tuple[int, int, int]) -> None:
    x = random_tensor(5, shift=shift)
    conv = SparseConv3d(5, 7, kernel_size, stride)
    found = conv(x)
    before = (kernel_size - 1) // 2
    padded = pad(to_dense(x), (before, kernel_size - 1 - before) * 3)
    dense = conv3d(padded, dense_weight(conv.weight, kernel_size), stride=stride)
    torch.testing.assert_close(found.feats, from_dense(dense, found.coords, stride), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_transposed_equals_dense(kernel_size: int, stride: int) -> None:
    fine = random_tensor(5)
    coarse = SparseConv3d(5, 6, kernel_size, stride)(fine)
    conv = SparseConvTranspose3d(6, 4, kernel_size, stride)
    found = conv(coarse)
    assert found.level == 1
    weight = dense_weight(conv.weight, kernel_size).transpose(0, 1)  # (Cin, Cout, k, k, k)
    dense = conv_transpose3d(to_dense(coarse), weight, stride=stride)
    before = (kernel_size - 1) // 2
    b, x, y, z = fine.coords.long().T
    origin = MARGIN // stride * stride + before
    expected = dense[b, :, x + origin, y + origin, z + origin]
    torch.testing.assert_close(found.feats, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_output_sites(stride: int) -> None:
    x = random_tensor(3)
    sites = {kernel_size: SparseConv3d(3, 3, kernel_size, stride)(x).coords for kernel_size in (1, 2, 3)}
    cells = x.coords.clone()
    cells[:, 1:] = torch.div(cells[:, 1:], stride, rounding_mode="floor")
    for coords in sites.values():
        assert {tuple(row) for row in coords.tolist()} == {tuple(row) for row in cells.tolist()}
        assert torch.equal(coords, sites[1])


@pytest.mark.parametrize(("kernel_size", "stride"), KERNELS)
def test_gradients(kernel_size: int, stride: int) -> None:
    x = random_tensor(2, dtype=torch.float64)
    there, back = (x.sites.route(1, kernel_size, stride, transposed=transposed) for transposed in (False, True))
    weight = torch.randn(kernel_size**3, 2, 3, dtype=torch.float64, requires_grad=True)
    feats = x.feats.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv(f, w, there), (feats, weight), fast_mode=True)
    coarse = torch.randn(there.there.num_out, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv(f, w, back), (coarse, weight), fast_mode=True)


@pytest.mark.parametrize("engine", [name for name, engine in ENGINES.items() if engine.unavailable() is None])
@pytest.mark.parametrize("kernel_size", [1, 2])
def test_a_small_kernel_takes_its_pairs_from_the_map_of_a_larger_one(engine: str, kernel_size: int) -> None:
    """The same pairs in the same order as a map that is built for it, there and back."""
    coords = random_tensor(1).coords
    built, taken = (SiteCache(coords, ENGINES[engine]) for _ in range(2))
    taken.kernel_map(1, 3, 1)
    for transposed in (False, True):
        expected = built.kernel_map(1, kernel_size, 1, transposed=transposed)
        found = taken.kernel_map(1, kernel_size, 1, transposed=transposed)
        assert torch.equal(found.in_rows, expected.in_rows)
        assert torch.equal(found.out_rows, expected.out_rows)
        assert (found.sizes, found.num_in, found.num_out) == (expected.sizes, expected.num_in, expected.num_out)
        assert found.identity_tap == 0


def test_every_tap_hits_its_offset() -> None:
    """Impulse: one input voxel, one non-zero tap; the output is where tap and offset say."""
    for kernel_size in (2, 3):
        for tap, (dx, dy, dz) in enumerate(kernel_offsets(kernel_size)):
            grid = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
            coords = torch.cat([torch.zeros(len(grid), 1, dtype=torch.int64), grid], dim=1).int()
            feats = (grid == 0).all(1, keepdim=True).float()
            conv = SparseConv3d(1, 1, kernel_size)
            with torch.no_grad():
                conv.weight.zero_()[tap] = 1
            out = conv(sparse_tensor(coords, feats))
            assert out.coords[out.feats[:, 0] != 0, 1:].tolist() == [[-dx, -dy, -dz]]


def test_pooling_means_over_occupied_cells() -> None:
    x = random_tensor(4)
    pooled = SparseAvgPool3d(2)(x)
    for row, coords in zip(pooled.feats, pooled.coords.tolist(), strict=True):
        inside = [i for i, (b, *c) in enumerate(x.coords.tolist()) if [b, *(v // 2 for v in c)] == coords]
        torch.testing.assert_close(row, x.feats[inside].mean(0))
    everything = GlobalAvgPool()(x)
    for b in range(2):
        torch.testing.assert_close(everything[b], x.feats[x.coords[:, 0] == b].mean(0))


def test_row_order_does_not_matter() -> None:
    x = random_tensor(4)
    conv = SparseConv3d(4, 4, 3, 2)
    order = torch.argsort(x.coords[:, 1] * 7919 + x.coords[:, 3], stable=True)
    again = sparse_tensor(x.coords[order], x.feats[order])
    torch.testing.assert_close(conv(x).feats, conv(again).feats)
    assert torch.equal(conv(x).coords, conv(again).coords)


def test_same_batch_gives_the_same_bits() -> None:
    conv = SparseConv3d(4, 8, 3)
    assert all(torch.equal(conv(random_tensor(4)).feats, conv(random_tensor(4)).feats) for _ in range(5))


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_autocast_multiplies_low_and_sums_high(kernel_size: int) -> None:
    x = random_tensor(64)
    conv = SparseConv3d(64, 64, kernel_size)
    exact = conv(x).feats
    with torch.autocast("cpu", torch.bfloat16):
        low = conv(x).feats
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact)
    assert (low - exact).norm() / exact.norm() < 0.005


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_dtype(dtype: torch.dtype) -> None:
    """Forward and backward in the dtype of the features; 16-bit results near the float64 ones."""
    exact, x = random_tensor(8, dtype=torch.float64), random_tensor(8, dtype=torch.float64)
    conv = SparseConv3d(8, 8, 3, 2).to(torch.float64)
    expected = conv(exact).feats
    low = SparseConv3d(8, 8, 3, 2).to(dtype)
    low.load_state_dict(conv.state_dict())
    feats = x.feats.to(dtype).requires_grad_()
    found = low(x.with_feats(feats)).feats
    found.sum().backward()
    assert feats.grad is not None
    assert low.weight.grad is not None
    assert found.dtype == feats.grad.dtype == low.weight.grad.dtype == dtype
    assert (found.double() - expected).norm() / expected.norm() < 0.02


def test_pooling_many_sites_in_half_precision() -> None:
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.int64), torch.arange(70_000), torch.zeros(1).long(), torch.zeros(1).long())
    pooled = GlobalAvgPool()(sparse_tensor(grid.int(), torch.ones(70_000, 2, dtype=torch.float16)))
    assert torch.equal(pooled, torch.ones(1, 2, dtype=torch.float16))


def test_pooling_two_strides_from_one_level() -> None:
    x = random_tensor(3)
    assert (SparseAvgPool3d(2)(x).level, SparseAvgPool3d(4)(x).level) == (2, 4)


@pytest.mark.parametrize("gemm", ["mkl", "onednn"])
def test_both_products_on_a_large_layer(gemm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the size from which oneDNN may be chosen: forward and backward against dense, with either product."""
    monkeypatch.setenv("FIP_GEMM", gemm)
    probe_gemm.cache_clear()
    if probe_gemm().chosen != gemm:
        pytest.skip(f"{gemm} is not usable here: {probe_gemm().reason}")
    grid = torch.cartesian_prod(torch.arange(1), *[torch.arange(18)] * 3).int()
    assert len(grid) * 64 * 64 > SMALLEST_WORTHWHILE
    feats = torch.randn(len(grid), 64, requires_grad=True)
    conv = SparseConv3d(64, 64, 3)
    found = conv(sparse_tensor(grid, feats)).feats
    dense_feats = feats.detach().clone().requires_grad_()
    weight = dense_weight(conv.weight.detach(), 3).clone().requires_grad_()
    dense = conv3d(dense_feats.T.reshape(1, 64, 18, 18, 18), weight, padding=1).reshape(64, -1).T
    torch.testing.assert_close(found, dense, atol=1e-5, rtol=1e-4)
    outer = torch.randn_like(found)
    found.backward(outer)
    dense.backward(outer)
    torch.testing.assert_close(feats.grad, dense_feats.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dense_weight(conv.weight.grad, 3), weight.grad, atol=1e-3, rtol=1e-4)
    probe_gemm.cache_clear()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="feats are"):
        SparseConv3d(4, 4, 3).half()(random_tensor(4))
    x = random_tensor(4)
    with pytest.raises(ValueError, match="do not fit a map"):
        SparseConv3d(5, 4, 3)(x)
    with pytest.raises(ValueError, match="duplicate coordinates"):
        SparseConv3d(1, 1, 3)(sparse_tensor(torch.zeros(2, 4, dtype=torch.int32), torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"feats must be \(2, C\)"):
        sparse_tensor(torch.zeros(2, 4, dtype=torch.int32), torch.zeros(3, 1))
