"""2D ResNets, from the same table of shapes as the 3D ones that are inflated from them: for looking at features of images.

(B, 3, H, W) images in, logits (B, L) out. Parameter names as in torchvision; those of akamaster's CIFAR nets but for `linear`.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from models.errors import BadWeights, nearest
from models.resnet3d import SHAPES, ResNetShape
from training.image_weights import ImageWeights


class Block(nn.Module):
    """conv-bn-relu, …, conv-bn, plus shortcut, relu; the stride is on the 3×3."""

    def __init__(self, shape: ResNetShape, in_channels: int, mid: int, out: int, stride: int) -> None:
        super().__init__()
        kernels = (3, 3) if shape.block == "basic" else (1, 3, 1)
        widths = (in_channels, *(mid,) * (len(kernels) - 1), out)
        strided = kernels.index(3)
        self.depth = len(kernels)
        for i, kernel in enumerate(kernels):
            step = stride if i == strided else 1
            self.add_module(f"conv{i + 1}", nn.Conv2d(widths[i], widths[i + 1], kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.stride, self.added = stride, out - in_channels
        self.downsample: nn.Module | None = None
        if shape.shortcut == "conv2" and (stride > 1 or self.added):
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = x
        for i in range(1, self.depth + 1):
            branch = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(branch))
            branch = branch if i == self.depth else F.relu(branch)
        return F.relu(branch + self._shortcut(x))

    def _shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.downsample is not None:
            shortcut: torch.Tensor = self.downsample(x)
            return shortcut
        before = self.added // 2  # option A: every other pixel, zero channels around
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))


class ImageResNet(nn.Module):
    """The net of a shape. Those of CIFAR (shortcut `mean_pad` in 3D) begin with 3×3 at full resolution, the others with 7×7 and a pool."""

    def __init__(self, shape: ResNetShape, num_classes: int) -> None:
        super().__init__()
        self.small = shape.shortcut == "mean_pad"
        size, stride = (3, 1) if self.small else (7, 2)
        self.conv1 = nn.Conv2d(3, shape.stem, size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        self.stages, channels = len(shape.depths), shape.stem
        for stage, depth in enumerate(shape.depths):
            blocks = []
            for b in range(depth):
                blocks.append(Block(shape, channels, shape.mid[stage], shape.out[stage], 2 if stage and not b else 1))
                channels = shape.out[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def image_net(network: str, image: ImageWeights) -> ImageResNet:
    """The 2D net that a 3D one called `network` is inflated from, with its weights, in evaluation mode.

    Raises: BadWeights (there is no such 2D net; a tensor is missing, does not fit or is not expected).
    """
    twins = [name for name, shape in SHAPES.items() if shape.shortcut != "conv1"]
    if network not in twins:
        raise BadWeights(f"no 2D net is known that {network!r} is inflated from{nearest(network, twins)}", known=twins)
    tensors = {_named(name): tensor for name, tensor in image.tensors.items() if not name.endswith("num_batches_tracked")}
    head = tensors.get("fc.weight")
    net = ImageResNet(SHAPES[network], head.shape[0] if head is not None else 1)
    _load(net, tensors, image.name)
    return net.eval().requires_grad_(False)


def _named(name: str) -> str:
    return "fc." + name.removeprefix("linear.") if name.startswith("linear.") else name


def _load(net: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    wanted = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    missing, surplus = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or surplus:
        raise BadWeights(
            f"not the 2D net: {len(missing)} tensors missing {missing[:3]}, {len(surplus)} not expected {surplus[:3]}", where=where
        )
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            raise BadWeights(f"{name} has shape {tuple(tensors[name].shape)}, the 2D net wants {tuple(tensor.shape)}", where=where)
        tensor.copy_(tensors[name])
