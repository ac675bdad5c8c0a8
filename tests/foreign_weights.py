"""Checkpoints as others publish them: made-up values in their names, shapes and wrappers.

`wrapped` and what it is given follow the code that saves or loads each of them; see the sources in `training.image_weights`.
"""

import math
from collections.abc import Mapping

import torch

from models.manifest import NetworkSpec
from models.zoo import build

State = dict[str, torch.Tensor]
POINTCONTRAST_STEM = {"conv0p1s1.kernel": (27, 3, 32), "conv1p1s2.kernel": (8, 32, 32)}
POINTCONTRAST_REST = {  # some of the decoder, and the head
    "convtr4p16s2.kernel": (8, 256, 256),
    "block5.0.conv1.kernel": (27, 384, 256),
    "block5.0.downsample.0.kernel": (384, 256),
    "final.kernel": (96, 32),
    "final.bias": (1, 32),
}


def image_state(network: str, classes: int, *, counted: bool = True) -> State:
    """A 2D ResNet by torchvision's names, which timm shares: what the stages of `network` come from, a stem and a head.

    counted: with `num_batches_tracked`, which torch has had since 0.4.1.
    """
    with torch.device("meta"):
        net = build(NetworkSpec(name=network, in_channels=3, num_classes=2))
    state = {"conv1.weight": torch.rand(64, 3, 7, 7), "fc.weight": torch.rand(classes, 8), "fc.bias": torch.rand(classes)}
    for name, tensor in net.state_dict().items():
        if name.startswith("layer") and (counted or tensor.dim()):
            taps = 3 if tensor.dim() == 3 and len(tensor) == 27 else 1
            shape = (tensor.shape[2], tensor.shape[1], taps, taps) if tensor.dim() == 3 else tuple(tensor.shape)
            state[name] = torch.rand(shape) if tensor.dim() else torch.tensor(7)
    return state


def pointcontrast_state() -> State:
    """Res16UNet34C of PointContrast: all of its encoder, some of its decoder. Kernels (K, Cin, Cout), (Cin, Cout) where K = 1."""
    shapes: dict[str, tuple[int, ...]] = {**POINTCONTRAST_STEM, **POINTCONTRAST_REST}
    norms = {"bn0.bn": 32, "bn1.bn": 32}
    widths, depths = (32, 64, 128, 256), (2, 3, 4, 6)
    before = 32
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        if stage > 1:
            shapes[f"conv{stage}p{2 ** (stage - 1)}s2.kernel"] = (8, before, before)
            norms[f"bn{stage}.bn"] = before
        for block in range(depth):
            path = f"block{stage}.{block}"
            shapes[f"{path}.conv1.kernel"] = (27, width if block else before, width)
            shapes[f"{path}.conv2.kernel"] = (27, width, width)
            norms |= {f"{path}.norm1.bn": width, f"{path}.norm2.bn": width}
            if block == 0 and width != before:
                shapes[f"{path}.downsample.0.kernel"] = (before, width)
                norms[f"{path}.downsample.1.bn"] = width
        before = width
    state = {name: torch.randn(shape) / math.prod(shape[:-1]) ** 0.5 for name, shape in shapes.items()}
    for name, width in norms.items():
        state |= {f"{name}.{leaf}": torch.rand(width) for leaf in ("weight", "bias", "running_mean")}
        state[f"{name}.running_var"] = torch.rand(width) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def wrapped(state: Mapping[str, torch.Tensor], prefix: str = "", **beside: object) -> dict[str, object]:
    """In a `state_dict`, with what else a checkpoint holds."""
    return {"state_dict": {prefix + name: tensor for name, tensor in state.items()}, **beside}


def sgd_state(state: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """What SGD says of itself, by the ids of parameters, which were addresses before torch 1.5."""
    moved = {139_900_000_000_000 + i: {"momentum_buffer": torch.zeros_like(tensor)} for i, tensor in enumerate(list(state.values())[:3])}
    return {"state": moved, "param_groups": [{"lr": 0.1, "momentum": 0.9, "nesterov": False, "params": list(moved)}]}
