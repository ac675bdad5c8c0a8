"""The nets that are measured: an inflated ResNet18 as a classifier, and a U-Net around it.

S sites, C channels, L classes. "Tied" nets have the inflated filters as they are; in "untied" ones every filter of the backbone
was moved a little, so that none repeats itself and all 27 taps have to be computed.
"""

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from models.manifest import NetworkSpec
from models.resnet3d import SHAPES, Block, ResNet3d
from models.sparse.backends import engine_named
from models.sparse.nn import ConvNorm, SparseBatchNorm, SparseConv3d, SparseConvTranspose3d, SparseReLU, prepare_inference
from models.sparse.tensor import SparseTensor
from models.zoo import build
from tests.bench.engine.workloads import SEED, WEIGHTS, Workload
from training.finetune import freeze_policy
from training.image_weights import load_image_weights
from training.inflate import InflateSpec, inflate_state_dict

Net = TypeVar("Net", bound=nn.Module)
SHAPE = SHAPES["resnet18"]
DECODER = (256, 128, 64, 64)  # widths after each way up, as in the paper
PERTURBATION = 0.01  # of a filter's standard deviation


class Up(nn.Module):
    """A transposed convolution onto the finer sites, what the encoder left there beside it, and two residual blocks."""

    def __init__(self, channels: int, beside: int, out: int) -> None:
        super().__init__()
        self.conv = SparseConvTranspose3d(channels, channels)
        self.bn = SparseBatchNorm(channels)
        self.blocks = nn.Sequential(Block(SHAPE, channels + beside, out, out, 1), Block(SHAPE, out, out, out, 1))

    def forward(self, x: SparseTensor, beside: SparseTensor) -> SparseTensor:
        up: SparseTensor = self.bn(self.conv(x), relu=True)
        joined: SparseTensor = self.blocks(up.with_feats(torch.cat([up.feats, beside.feats], dim=1)))
        return joined


class UNet(nn.Module):
    """SparseTensor with (S, in_channels) -> scores (S, L). The encoder's stages are those of ResNet3d, at levels 2 to 16."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        stem, width = SHAPE.stem, (SHAPE.stem, *SHAPE.out)
        self.stem = nn.Sequential(_conv(in_channels, stem, 3), _conv(stem, stem, 3))
        self.down = _conv(stem, stem, 2, stride=2)
        for stage in range(4):
            first = Block(SHAPE, width[stage], width[stage + 1], width[stage + 1], 2 if stage else 1)
            rest = [Block(SHAPE, width[stage + 1], width[stage + 1], width[stage + 1], 1) for _ in range(SHAPE.depths[stage] - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        below = (width[4], *DECODER)
        beside = (width[3], width[2], width[1], stem)
        self.ups = nn.ModuleList(Up(below[i], beside[i], DECODER[i]) for i in range(4))
        self.head = nn.Linear(DECODER[-1], num_classes)

    def forward(self, x: SparseTensor) -> torch.Tensor:
        left = [self.stem(x)]
        x = self.down(left[0])
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            left.append(x)
        for up, beside in zip(self.ups, reversed(left[:-1]), strict=True):
            x = up(x, beside)
        scores: torch.Tensor = self.head(x.feats)
        return scores


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(SparseConv3d(in_channels, out_channels, kernel_size, stride), SparseBatchNorm(out_channels), SparseReLU())


def classifier(data: Path, workload: Workload, num_classes: int = 40) -> ResNet3d:
    """ResNet18 with real image weights; its stem and head are random."""
    torch.manual_seed(SEED)
    net = build(NetworkSpec(name="resnet18", in_channels=workload.feats.shape[1], num_classes=num_classes))
    assert isinstance(net, ResNet3d)
    return _calibrated(_inflated(net, data), workload)


def unet(data: Path, workload: Workload, num_classes: int) -> UNet:
    """A U-Net whose encoder has real image weights; the rest is random."""
    torch.manual_seed(SEED)
    return _calibrated(_inflated(UNet(workload.feats.shape[1], num_classes), data), workload)


def _inflated(net: Net, data: Path) -> Net:
    state, _ = inflate_state_dict(load_image_weights(str(data / WEIGHTS)).tensors, net.state_dict(), InflateSpec())
    net.load_state_dict(state)
    return net.eval()


def _calibrated(net: Net, workload: Workload) -> Net:
    """A copy whose fresh norms (all but the backbone's) have the statistics of a batch, as they would after training.

    With the image statistics alone, activations grow from stage to stage and scores reach thousands: then the last digits of
    the scores say nothing of how exact an engine is.
    """
    fitted = copy.deepcopy(net)
    norms = [module for module in fitted.modules() if isinstance(module, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    freeze_policy(fitted, "io").set_train(fitted)
    with torch.no_grad():
        fitted(workload.tensor(engine_named("torch")))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return fitted.eval()


def untied(net: Net) -> Net:
    """A copy whose filters no longer repeat themselves."""
    moved = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(SEED)
    for module in moved.modules():
        if isinstance(module, SparseConv3d):
            weight = module.weight.data
            weight += PERTURBATION * weight.std() * torch.randn(weight.shape, generator=generator)
    return moved


def prepared(net: Net) -> Net:
    """A copy as the service would run it: frozen, convolutions and norms folded at the first call."""
    ready = copy.deepcopy(net).eval().requires_grad_(False)
    prepare_inference(ready)
    return ready


def plain(net: Net) -> Net:
    """A copy in which every layer is run as it stands: no tied filters sought, nothing folded."""
    return copy.deepcopy(net).eval().requires_grad_(True)
