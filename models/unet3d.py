"""Inflated ResNets with a decoder: an answer for every voxel. Encoder stages and their names are those of the 2D nets.

Source: Image2Point Listing 2 and its public code. S sites, C channels, L classes. From level 1 down: stem (two 3×3×3), `down`
(2×2×2, stride 2), the stages of the backbone; and up again: a transposed convolution onto the sites that the encoder left there,
what the encoder had on them beside it, two residual blocks. The way up goes through the encoder's own kernel maps.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from models.manifest import Decoder
from models.resnet3d import Block, ResNetShape, make_stages
from models.sparse.blur import ParentBlur
from models.sparse.nn import ConvNorm, SparseBatchNorm, SparseConv3d, SparseConvTranspose3d, SparseReLU, conv_norm
from models.sparse.tensor import SparseTensor
from models.tiling import Reach

DROPOUT = 0.3


class Level(NamedTuple):
    """One step up: kernel of the transposed convolution, its width, and the width after the blocks behind it."""

    kernel_size: int
    up: int
    out: int


def decoder_levels(shape: ResNetShape, decoder: Decoder) -> tuple[Level, ...]:
    """The steps up, coarsest first; as many as the backbone has stages.

    listing: the widths of the stages' 3×3 filters mirrored, 512, 256, 128, 64 and behind them 256, 128, 64, 64 for ResNets of
    the ImageNet family, all 2×2×2. reference: 512, 256, 192, 192 on both sides (the last two are three stems wide), by the kernel
    of the encoder's own strided convolution: 3×3×3 where a stage has that, else 2×2×2.
    """
    mids = shape.mid[::-1]
    if decoder == "listing":
        return tuple(Level(2, up, out) for up, out in zip(mids, (*mids[1:], shape.stem), strict=True))
    widths = (*mids[:-2], 3 * shape.stem, 3 * shape.stem)
    strided = 2 if shape.separate_downsampling else 3
    kernels = [strided] * (len(widths) - 1) + [2]
    return tuple(Level(kernel, width, width) for kernel, width in zip(kernels, widths, strict=True))


class Up(nn.Module):
    """One step up: transposed convolution, batch norm, ReLU; the encoder's features beside it; two basic blocks."""

    def __init__(self, level: Level, in_channels: int, beside: int, block: ResNetShape) -> None:
        super().__init__()
        self.up = ConvNorm(SparseConvTranspose3d(in_channels, level.up, level.kernel_size), SparseBatchNorm(level.up), SparseReLU())
        self.blocks = nn.Sequential(
            Block(block, level.up + beside, level.out, level.out, 1), Block(block, level.out, level.out, level.out, 1)
        )

    def forward(self, x: SparseTensor, beside: SparseTensor) -> SparseTensor:
        finer: SparseTensor = self.up(x)
        joined: SparseTensor = self.blocks(finer.with_feats(torch.cat([finer.feats, beside.feats], dim=1)))
        return joined


class UNet3d(nn.Module):
    """SparseTensor with (S, in_channels) -> logits (S, num_classes).

    Parameter names: conv1, bn1, conv2, bn2, down.{0,1}, layer{1..4}… and [ds{i}…] as in ResNet3d, up{1..4}.{up.{0,1},blocks…}, fc.
    A backbone of n stages reaches level 2^n; `up1` is the coarsest step.

    tied: the axis along which the filters of the stages repeat themselves; nothing else is ever tied. blur: the quirk of the
    reference code at the coarsest level, see `ParentBlur`, with the dropout behind it.
    """

    def __init__(
        self, shape: ResNetShape, in_channels: int, num_classes: int, *, decoder: Decoder, blur: bool = False, tied: str = ""
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = SparseConv3d(in_channels, shape.stem), SparseBatchNorm(shape.stem)
        self.conv2, self.bn2 = SparseConv3d(shape.stem, shape.stem), SparseBatchNorm(shape.stem)
        self.down = ConvNorm(SparseConv3d(shape.stem, shape.stem, 2, 2), SparseBatchNorm(shape.stem), SparseReLU())
        self.num_stages = make_stages(self, shape, tied)
        self.blur = nn.Sequential(ParentBlur(), FeatsDropout(DROPOUT)) if blur else nn.Identity()
        block = ResNetShape("basic", (), (), (), shape.stem, "conv1" if decoder == "listing" else "conv2")
        channels = shape.out[-1]
        besides = (*shape.out[-2::-1], shape.stem)
        for number, (level, beside) in enumerate(zip(decoder_levels(shape, decoder), besides, strict=True), start=1):
            self.add_module(f"up{number}", Up(level, channels, beside, block))
            channels = level.out
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: SparseTensor) -> torch.Tensor:
        features = self.features(x)
        with torch.autocast(features.device.type, enabled=False):  # as in the classifier
            logits: torch.Tensor = self.fc(features)
        return logits

    def features(self, x: SparseTensor) -> torch.Tensor:
        """What the head reads: (S, C)."""
        x = conv_norm(x, self.conv1, self.bn1, relu=True)
        left = [conv_norm(x, self.conv2, self.bn2, relu=True)]
        x = self.down(left[0])
        for stage in range(1, self.num_stages + 1):
            if hasattr(self, f"ds{stage - 1}"):
                x = self.get_submodule(f"ds{stage - 1}")(x)
            x = self.get_submodule(f"layer{stage}")(x)
            left.append(x)
        x = self.blur(left.pop())
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"up{number}")(x, left.pop())
        return x.feats


def reach_of(net: UNet3d) -> Reach:
    """How far a net sees, at most: every convolution of three taps looks one cell of its level further, and so does a change of level."""
    radius, level = 2, 2  # conv1, conv2
    left = [radius]
    radius += 1  # down
    for stage in range(1, net.num_stages + 1):
        if hasattr(net, f"ds{stage - 1}"):
            radius, level = radius + level, 2 * level
        for conv in convolutions(net.get_submodule(f"layer{stage}")):
            radius += level * (conv.kernel_size // 2)
            level *= conv.stride
        left.append(radius)
    left.pop()
    stride = level
    if not isinstance(net.blur, nn.Identity):
        radius += 2 * level  # the site that follows, and all cells of its own
    for number in range(1, net.num_stages + 1):
        level //= 2
        radius = max(radius + level, left.pop())
        blocks = net.get_submodule(f"up{number}").get_submodule("blocks")
        radius += level * sum(conv.kernel_size // 2 for conv in convolutions(blocks))
    return Reach(stride, radius)


def convolutions(stage: nn.Module) -> Iterator[SparseConv3d]:
    """Those that residual blocks have one after the other; a shortcut looks no further."""
    for block in stage.children():
        assert isinstance(block, Block)
        for i in range(1, block.depth + 1):
            conv = block.get_submodule(f"conv{i}")
            assert isinstance(conv, SparseConv3d)
            yield conv


class FeatsDropout(nn.Dropout):
    """Dropout of single features: (S, C) -> (S, C)."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        return x.with_feats(super().forward(x.feats))
