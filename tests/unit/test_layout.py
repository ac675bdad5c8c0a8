"""The head that keeps the layout, against a slow sum in plain numpy."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.manifest import NetworkSpec
from models.resnet3d import ResNet3d
from models.sparse.nn import GlobalAvgPool, LayoutPool
from models.sparse.tensor import SparseTensor, sparse_tensor
from models.zoo import build
from training.recipe import load_recipe


def clouds(*sides: tuple[int, int, int], channels: int = 4, seed: int = 0) -> SparseTensor:
    """Boxes of sites, of which a third is left out; the corners stay."""
    rng = np.random.default_rng(seed)
    coords = []
    for number, side in enumerate(sides):
        places = np.stack(np.meshgrid(*map(np.arange, side), indexing="ij"), -1).reshape(-1, 3)
        kept = rng.random(len(places)) < 2 / 3
        kept[[0, -1]] = True
        coords.append(np.insert(places[kept], 0, number, axis=1))
    sites = np.concatenate(coords).astype(np.int32)
    return sparse_tensor(torch.from_numpy(sites), torch.from_numpy(rng.normal(size=(len(sites), channels)).astype(np.float32)), len(sides))


def slowly(x: SparseTensor, cells: int) -> np.ndarray:
    coords, feats = x.coords.numpy(), x.feats.detach().numpy()
    found = np.zeros((x.batch_size, cells, cells, cells, feats.shape[1]), np.float64)
    for number in range(x.batch_size):
        own = coords[:, 0] == number
        places, side = coords[own, 1:], coords[own, 1:].max(0) + 1
        for place, feat in zip(places, feats[own], strict=True):
            part = np.floor((place + 0.5) / side * cells).astype(int)
            found[number, part[0], part[1], part[2]] += feat / own.sum()
    return found.reshape(x.batch_size, -1)


@pytest.mark.parametrize("cells", [2, 3, 4])
def test_every_part_is_summed_on_its_own(cells: int) -> None:
    x = clouds((7, 5, 9), (1, 1, 1), (2, 11, 3))
    found = LayoutPool(cells)(x)
    assert found.shape == (3, cells**3 * 4)
    np.testing.assert_allclose(found.numpy(), slowly(x, cells), atol=1e-6)


def test_the_box_begins_where_the_cloud_does() -> None:
    x = clouds((7, 5, 9), (4, 4, 4))
    away = sparse_tensor(x.coords + torch.tensor([0, 100, -30, 7], dtype=torch.int32), x.feats, 2)
    torch.testing.assert_close(LayoutPool(3)(away), LayoutPool(3)(x))


def test_all_parts_together_are_the_global_mean() -> None:
    x = clouds((7, 5, 9), (4, 4, 4))
    parts = LayoutPool(3)(x).reshape(2, 27, 4)
    torch.testing.assert_close(parts.sum(1), GlobalAvgPool()(x))


def test_features_of_16_bits_are_summed_in_32() -> None:
    x = clouds((40, 40, 40), channels=1)
    ones = x.with_feats(torch.ones_like(x.feats, dtype=torch.float16))
    assert LayoutPool(2)(ones).float().sum() == pytest.approx(1, abs=1e-3)


def test_a_cloud_does_not_see_its_neighbours() -> None:
    alone, both = clouds((7, 5, 9)), clouds((7, 5, 9), (20, 2, 2))
    own = both.coords[:, 0] == 0
    same = alone.with_feats(both.feats[own])
    torch.testing.assert_close(LayoutPool(3)(both)[:1], LayoutPool(3)(same))


def test_gradients_reach_every_site() -> None:
    x = clouds((5, 6, 7), (3, 3, 3))
    feats = x.feats.double().requires_grad_()
    weights = torch.randn(2, 27 * 4, dtype=torch.float64)
    (LayoutPool(3)(x.with_feats(feats)) * weights).sum().backward()
    assert feats.grad is not None
    moved = feats.detach().clone()
    moved[3, 1] += 1e-3
    slope = ((LayoutPool(3)(x.with_feats(moved)) - LayoutPool(3)(x.with_feats(feats.detach()))) * weights).sum() / 1e-3
    assert float(feats.grad[3, 1]) == pytest.approx(float(slope), rel=1e-6)


def test_a_net_with_a_layout_tells_a_cloud_from_its_mirror_image() -> None:
    """Which a mean over sites alone, of a net that sees no place, cannot: here by a net whose convolutions see nothing but occupancy."""
    torch.manual_seed(0)
    nets = [build(NetworkSpec(name="cifar_resnet20", in_channels=1, num_classes=3, layout=layout)).eval() for layout in (None, 3)]
    x = clouds((20, 6, 6), (20, 6, 6), channels=1)
    towards = torch.where(x.coords[:, 0] == 0, x.coords[:, 1], 19 - x.coords[:, 1])
    kept = (towards < 6) | (x.coords[:, 2] < 2)  # thick at one end
    half = sparse_tensor(x.coords[kept], torch.ones(int(kept.sum()), 1), 2)
    unlike = []
    for net in nets:
        assert isinstance(net, ResNet3d)
        with torch.no_grad():
            one, other = net.features(half)
        unlike.append(float((one - other).abs().max() / torch.maximum(one.abs(), other.abs()).max()))
    assert unlike[1] > 0.5 > 2 * unlike[0]


def test_what_has_no_layout_is_refused() -> None:
    with pytest.raises(ValidationError, match="layout: is for nets that name whole clouds"):
        NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=3, layout=3, decoder="listing")
    with pytest.raises(Exception, match=r"leave out input\.views"):
        load_recipe("paper-modelnet40", {"layout": 3, "input.views": {"count": 4}})
    with pytest.raises(Exception, match="layout: is for nets that name whole clouds; leave it out"):
        load_recipe("semantickitti-resnet18", {"layout": 3})
