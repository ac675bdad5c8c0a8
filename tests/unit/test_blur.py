"""The reference's detour of coarse features over the points, against a loop over them."""

import itertools

import pytest
import torch

from models.sparse.blur import ParentBlur
from models.sparse.nn import SparseAvgPool3d
from models.sparse.tensor import SparseTensor, sparse_tensor


def scattered(share: float = 0.1, seed: int = 0) -> SparseTensor:
    """Two clouds of level 1, negative cells included, rows in no order."""
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(2, 14, 14, 14, generator=generator) < share).nonzero() - torch.tensor([0, 9, 4, 7])
    coords = coords[torch.randperm(len(coords), generator=generator)]
    return sparse_tensor(coords.int(), torch.randn(len(coords), 3, generator=generator, dtype=torch.float64))


def blurred_one_by_one(x: SparseTensor) -> torch.Tensor:
    """To every occupied cell of level 1: Σ w(p, n) x(n) / Σ w(p, n) over the coarse sites n that exist at {0, 1}³ from its own.

    w is trilinear in the place of the cell within its coarse one, from that one's corner. Then the mean over the cells of each.
    """
    level = x.level
    rows = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    sums, counts = torch.zeros_like(x.feats), torch.zeros(len(rows), 1)
    for b, *cell in x.sites.coords(1).tolist():
        own = [axis // level for axis in cell]
        total, weights = torch.zeros(x.feats.shape[1], dtype=x.feats.dtype), 0.0
        for corner in itertools.product((0, 1), repeat=3):
            site = rows.get((b, *(axis + step for axis, step in zip(own, corner, strict=True))))
            if site is None:
                continue
            weight = 1.0
            for axis, start, step in zip(cell, own, corner, strict=True):
                inside = (axis - start * level) / level
                weight *= inside if step else 1 - inside
            total, weights = total + weight * x.feats[site], weights + weight
        sums[rows[b, *own]] += total / weights
        counts[rows[b, *own]] += 1
    return sums / counts


@pytest.mark.parametrize("share", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("level", [2, 4, 8, 16])
def test_is_what_a_loop_over_the_cells_finds(level: int, share: float) -> None:
    fine = scattered(share)
    x = fine
    while x.level < level:
        x = SparseAvgPool3d(2)(x)
    found = ParentBlur()(x)
    assert (found.level, found.feats.dtype) == (level, torch.float64)
    torch.testing.assert_close(found.feats, blurred_one_by_one(x), atol=1e-6, rtol=0)  # its weights are float32
    assert not torch.allclose(found.feats, x.feats, atol=1e-3)


def test_at_level_1_nothing_changes() -> None:
    """But for the 1e-8 that the reference adds to the sum of weights, which float32 does not see beside 1."""
    x = scattered()
    assert torch.equal(ParentBlur()(x).feats, x.feats)


def test_what_is_constant_stays_so_and_clouds_do_not_mix() -> None:
    x = SparseAvgPool3d(4)(scattered())
    marked = x.with_feats((x.coords[:, :1] + 1).double())
    torch.testing.assert_close(ParentBlur()(marked).feats, marked.feats, atol=1e-6, rtol=0)


def test_a_site_without_followers_keeps_its_features() -> None:
    coords = torch.tensor([[0, 3, 1, 2], [0, -20, 5, 5]], dtype=torch.int32)
    x = SparseAvgPool3d(4)(sparse_tensor(coords, torch.tensor([[2.0], [-7.0]])))
    torch.testing.assert_close(ParentBlur()(x).feats, x.feats)


def test_gradients_go_back_the_same_way() -> None:
    x = SparseAvgPool3d(4)(scattered())
    feats = x.feats[:, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda feats: ParentBlur()(x.with_feats(feats)).feats, (feats,))
