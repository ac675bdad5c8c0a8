"""Inflated ResNets for point clouds: one table of shapes, parameter names as in the 2D nets they come from.

Source: Image2Point §3 and its Listing 1. The stem is a fresh 3×3×3 convolution of stride 1 with batch norm and no ReLU;
no max-pooling; head = mean over voxels, Linear, BatchNorm on the logits. S sites, C channels, B clouds, L classes.
Beyond the source, a head that keeps the layout: what each part of the cloud's box adds to that mean, BatchNorm, Linear, BatchNorm.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from models.sparse.nn import ConvNorm, GlobalAvgPool, LayoutPool, SparseAvgPool3d, SparseBatchNorm, SparseConv3d, SparseReLU, conv_norm
from models.sparse.tensor import SparseTensor
from models.sparse.tying import AXES

Shortcut = Literal["conv2", "conv1", "mean_pad"]


@dataclass(frozen=True)
class ResNetShape:
    """mid: width of the 3×3 convolutions of each stage; out: width after each stage; expansion is out over mid.

    shortcut: `conv2` = 2×2×2 convolution, the inflation of a strided 1×1; `conv1` = 1×1×1; `mean_pad` = mean over the
    2×2×2 cell, then zero channels (the parameter-free option A of the CIFAR nets).
    separate_downsampling: a k2 s2 convolution `ds{i}` before each later stage, whose blocks then keep stride 1.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    mid: tuple[int, ...]
    out: tuple[int, ...]
    stem: int
    shortcut: Shortcut = "conv2"
    separate_downsampling: bool = False


def _imagenet(block: Literal["basic", "bottleneck"], depths: tuple[int, ...], width: int = 64) -> ResNetShape:
    mid = tuple(width * 2**stage for stage in range(4))
    out = mid if block == "basic" else (256, 512, 1024, 2048)
    return ResNetShape(block, depths, mid, out, stem=64)


def _cifar(depth: int) -> ResNetShape:
    blocks = (depth - 2) // 6
    return ResNetShape("basic", (blocks,) * 3, (16, 32, 64), (16, 32, 64), stem=16, shortcut="mean_pad")


SHAPES: dict[str, ResNetShape] = {
    "resnet18": _imagenet("basic", (2, 2, 2, 2)),
    "resnet34": _imagenet("basic", (3, 4, 6, 3)),
    "resnet50": _imagenet("bottleneck", (3, 4, 6, 3)),
    "resnet101": _imagenet("bottleneck", (3, 4, 23, 3)),
    "resnet152": _imagenet("bottleneck", (3, 8, 36, 3)),
    "wide_resnet101_2": _imagenet("bottleneck", (3, 4, 23, 3), width=128),
    "res16unet34c": ResNetShape(
        "basic", (2, 3, 4, 6), (32, 64, 128, 256), (32, 64, 128, 256), stem=32, shortcut="conv1", separate_downsampling=True
    ),
    **{f"cifar_resnet{depth}": _cifar(depth) for depth in (20, 32, 44, 56, 110)},
}


class MeanPadShortcut(nn.Module):
    """Option A in 3D: mean over the occupied cells of 2×2×2, then zero channels, half before and half after."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.pad = (before, out_channels - in_channels - before)
        self.pool = SparseAvgPool3d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: SparseTensor) -> SparseTensor:
        pooled: SparseTensor = self.pool(x)
        return pooled.with_feats(nn.functional.pad(pooled.feats, self.pad))


def _shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int, tied: str) -> nn.Module | None:
    """What a block adds its branch to; None where that is the input itself."""
    if in_channels == out_channels and stride == 1:
        return None
    if kind == "mean_pad":
        return MeanPadShortcut(in_channels, out_channels, stride)
    kernel_size = 2 if kind == "conv2" else 1
    everywhere = AXES if tied and kernel_size > 1 else ""  # one matrix, in all eight taps
    return ConvNorm(SparseConv3d(in_channels, out_channels, kernel_size, stride, everywhere), SparseBatchNorm(out_channels))


class Block(nn.Module):
    """A residual block: conv-bn-relu, …, conv-bn, plus shortcut, relu. Two 3×3×3 (basic) or 1-3-1 (bottleneck)."""

    def __init__(self, shape: ResNetShape, in_channels: int, mid: int, out: int, stride: int, tied: str = "") -> None:
        super().__init__()
        if shape.block == "basic":
            layers = [(in_channels, mid, 3, stride), (mid, out, 3, 1)]
        else:
            layers = [(in_channels, mid, 1, 1), (mid, mid, 3, stride), (mid, out, 1, 1)]
        self.depth = len(layers)
        for i, (cin, cout, kernel_size, step) in enumerate(layers, start=1):
            self.add_module(f"conv{i}", SparseConv3d(cin, cout, kernel_size, step, tied if kernel_size > 1 else ""))
            self.add_module(f"bn{i}", SparseBatchNorm(cout))
        self.downsample = _shortcut(shape.shortcut, in_channels, out, stride, tied)

    def forward(self, x: SparseTensor) -> SparseTensor:
        shortcut: SparseTensor = x if self.downsample is None else self.downsample(x)
        branch = x
        for i in range(1, self.depth + 1):
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"bn{i}")
            branch = conv_norm(branch, conv, norm, residual=shortcut if i == self.depth else None, relu=True)
        return branch


def make_stages(net: nn.Module, shape: ResNetShape, tied: str) -> int:
    """Give a net the residual stages of a backbone, under the names they have in 2D (`layer{i}`, `ds{i}`); returns how many.

    The first stage keeps the level that it gets, each later one halves it. They begin with `shape.stem` channels.
    """
    channels = shape.stem
    for stage in range(len(shape.depths)):
        downsamples = stage > 0
        if downsamples and shape.separate_downsampling:
            down = ConvNorm(SparseConv3d(channels, channels, 2, 2, tied), SparseBatchNorm(channels), SparseReLU())
            net.add_module(f"ds{stage}", down)
        stride = 2 if downsamples and not shape.separate_downsampling else 1
        blocks = []
        for b in range(shape.depths[stage]):
            blocks.append(Block(shape, channels, shape.mid[stage], shape.out[stage], stride if b == 0 else 1, tied))
            channels = shape.out[stage]
        net.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    return len(shape.depths)


class ResNet3d(nn.Module):
    """Classifier: SparseTensor with (S, in_channels) -> logits (B, num_classes), of variants that vote the mean.

    Parameter names: conv1, bn1, layer{1..4}.{b}.{conv,bn}{1,2,3}, layer{i}.{b}.downsample.{0,1}, [ds{i}.{0,1}], [layout_bn], fc, fc_bn.

    tied: the axis along which the filters of the stages repeat themselves; they are then parameters of (9, Cin, Cout), the
    shortcuts' 2×2×2 of (1, Cin, Cout), the same matrix in all taps. Stem and head are never tied. layout: the parts along each axis
    that a head which keeps the layout tells apart; None = the mean over all voxels.
    """

    def __init__(self, shape: ResNetShape, in_channels: int, num_classes: int, *, tied: str = "", layout: int | None = None) -> None:
        super().__init__()
        self.conv1 = SparseConv3d(in_channels, shape.stem)
        self.bn1 = SparseBatchNorm(shape.stem)
        self.stages = make_stages(self, shape, tied)
        self.pool = LayoutPool(layout) if layout else GlobalAvgPool()
        self.channels = shape.out[-1]
        width = self.channels * (layout**3 if layout else 1)
        self.layout_bn = nn.BatchNorm1d(width) if layout else nn.Identity()
        self.fc = nn.Linear(width, num_classes)
        self.fc_bn = nn.BatchNorm1d(num_classes)

    def forward(self, x: SparseTensor) -> torch.Tensor:
        logits = self.head(self.features(x))
        if x.variants is None:
            return logits
        return torch.stack([votes.mean(0) for votes in logits.split(list(x.variants))])

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C) -> logits (B, L)."""
        with torch.autocast(features.device.type, enabled=False):  # in bfloat16 it would round every logit, and save nothing
            logits: torch.Tensor = self.fc_bn(self.fc(self.layout_bn(features)))
        return logits

    def features(self, x: SparseTensor) -> torch.Tensor:
        """What the head reads: (B, C), with a layout (B, cells³ · C)."""
        x = conv_norm(x, self.conv1, self.bn1)
        for stage in range(self.stages):
            if hasattr(self, f"ds{stage}"):
                x = self.get_submodule(f"ds{stage}")(x)
            x = self.get_submodule(f"layer{stage + 1}")(x)
        pooled: torch.Tensor = self.pool(x)
        return pooled
