"""Nets from the table: exact parameter counts, 2D names, levels."""

import numpy as np
import pytest
import torch

from models.errors import BadCheckpoint
from models.manifest import FeatureSpec, InputSpec, NetworkSpec, VoteSpec
from models.pointcloud import PointCloud
from models.resnet3d import SHAPES, ResNet3d
from models.sparse.tensor import SparseTensor, collate, sparse_tensor
from models.voxelize import Voxels, variants, voxelize
from models.zoo import build

# Image2Point with 3 input channels and 40 classes, head's batch norm included; 34 is torchvision's shape
PARAMETERS = {
    "resnet18": 34_368_056,
    "resnet34": 64_677_688,
    "resnet50": 65_602_616,
    "resnet101": 104_648_760,
    "resnet152": 136_807_480,
    "wide_resnet101_2": 315_051_832,
    "res16unet34c": 24_624_152,
}


def cube_shell(side: int = 12) -> SparseTensor:
    grid = torch.cartesian_prod(*[torch.arange(side)] * 3)
    shell = grid[((grid == 0) | (grid == side - 1)).any(1)]
    coords = torch.cat([torch.zeros(len(shell), 1, dtype=torch.int64), shell], dim=1)
    both = torch.cat([coords, coords + torch.tensor([1, 0, 0, 0])])
    return sparse_tensor(both.int(), both[:, 1:].float() / side)


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_parameter_counts(name: str, expected: int) -> None:
    with torch.device("meta"):
        net = ResNet3d(SHAPES[name], 3, 40)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_counts(depth: int) -> None:
    """Stages hold 3 taps for each 2D tap: 27/9 of the 2D kernels, the same batch norms, no shortcut parameters."""
    with torch.device("meta"):
        net = ResNet3d(SHAPES[f"cifar_resnet{depth}"], 3, 40)
    blocks = (depth - 2) // 6
    kernels = 27 * (2 * blocks * 16**2 + 16 * 32 + (2 * blocks - 1) * 32**2 + 32 * 64 + (2 * blocks - 1) * 64**2)
    norms = 2 * 2 * blocks * (16 + 32 + 64)
    stem, head = 27 * 3 * 16 + 32, 64 * 40 + 40 + 80
    assert sum(parameter.numel() for parameter in net.parameters()) == stem + kernels + norms + head


def torchvision_names(depths: tuple[int, ...], convs: int) -> set[str]:
    """Stage parameter names of a torchvision ResNet, written down from its rules."""
    names = set()
    for stage, blocks in enumerate(depths, start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            for i in range(1, convs + 1):
                names |= {f"{prefix}.conv{i}.weight", f"{prefix}.bn{i}.weight", f"{prefix}.bn{i}.bias"}
            if block == 0 and (stage > 1 or convs == 3):
                names |= {f"{prefix}.downsample.0.weight", f"{prefix}.downsample.1.weight", f"{prefix}.downsample.1.bias"}
    return names


@pytest.mark.parametrize(("name", "convs"), [("resnet18", 2), ("resnet34", 2), ("resnet50", 3), ("resnet152", 3), ("wide_resnet101_2", 3)])
def test_stage_names_equal_the_2d_ones(name: str, convs: int) -> None:
    with torch.device("meta"):
        net = ResNet3d(SHAPES[name], 3, 40)
    stages = {parameter for parameter, _ in net.named_parameters() if parameter.startswith("layer")}
    assert stages == torchvision_names(SHAPES[name].depths, convs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "res16unet34c", "cifar_resnet20"])
def test_forward_and_backward(name: str) -> None:
    torch.manual_seed(0)
    net = build(NetworkSpec(name=name, in_channels=3, num_classes=10))
    x = cube_shell()
    logits = net(x)
    assert logits.shape == (2, 10)
    logits[:, 3].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    deepest = 4 if name.startswith("cifar") else 8
    assert x.sites.coords(deepest)[:, 1:].max() == 11 // deepest


def test_one_cloud_does_not_see_another() -> None:
    torch.manual_seed(0)
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=5)).eval()
    both = cube_shell()
    one = both.coords[:, 0] == 1
    alone = sparse_tensor(both.coords[one] - torch.tensor([1, 0, 0, 0], dtype=torch.int32), both.feats[one] * 2)
    mixed = sparse_tensor(both.coords, torch.where(one[:, None], both.feats * 2, both.feats))
    torch.testing.assert_close(net(mixed)[1], net(alone)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "layout"), [("resnet18", None), ("resnet50", 2), ("res16unet34c", None), ("cifar_resnet20", 3)])
def test_variants_that_vote_do_not_see_each_other(name: str, layout: int | None) -> None:
    """The logits of a cloud with votes are the mean of those of its variants, whatever else is in the batch."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name=name, in_channels=3, num_classes=5, layout=layout)).double().eval()

    def logits(batch: list[Voxels]) -> torch.Tensor:
        tensor = collate(batch)
        found: torch.Tensor = net(tensor.with_feats(tensor.feats.double()))
        return found

    features = tuple(FeatureSpec(name=axis) for axis in ("x", "y", "z"))
    voted = InputSpec(features=features, voxel_size=0.1, votes=VoteSpec(count=4))
    single = voted.model_copy(update={"votes": None})
    assert voted.votes
    clouds = [PointCloud(np.random.default_rng(seed).normal(0, 0.5, (500, 3)).astype(np.float32)) for seed in range(3)]
    expected = [logits([voxelize(variant, single) for variant in variants(cloud, voted.votes)]).mean(0) for cloud in clouds]
    found = logits([voxelize(cloud, voted) for cloud in clouds])
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-9, rtol=1e-9)
    mixed = logits([voxelize(clouds[0], voted), voxelize(clouds[1], single), voxelize(clouds[2], voted)])
    torch.testing.assert_close(mixed[[0, 2]], found[[0, 2]], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(mixed[1:2], logits([voxelize(clouds[1], single)]), atol=1e-9, rtol=1e-9)


def test_unknown_network_lists_the_known() -> None:
    with pytest.raises(BadCheckpoint, match="did you mean 'resnet18'"):
        build(NetworkSpec(name="resnet81", in_channels=3, num_classes=2))
