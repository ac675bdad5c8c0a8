"""What is taken out of a net while it runs: features before the head, strongest answers of units, values of convolutions.

D clouds, C channels, L classes, U units (channels of the last stage), S sites of a batch.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.resnet3d import ResNet3d
from models.sparse.nn import SparseConv3d
from models.sparse.tensor import SparseTensor
from training.analyse.subject import Subject
from training.datasets import Clouds

Hook = Literal["convolution", "norm"]
HOOKS: tuple[Hook, ...] = ("convolution", "norm")
Keep = Callable[[str, Hook, torch.Tensor], None]
Norm2dOr3d = nn.BatchNorm1d | nn.BatchNorm2d
_MAIN_PATH = re.compile(r"(layer\d+\.\d+\.)conv(\d+)")


@dataclass(frozen=True)
class Pooled:
    """features (D, C) float64, what the head reads; logits (D, L) float64; targets (D,) int64."""

    features: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float64]
    targets: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Of the head, share of clouds."""
        return float((self.logits.argmax(1) == self.targets).mean())


@torch.inference_mode()
def pooled(net: ResNet3d, subject: Subject, clouds: Clouds) -> Pooled:
    """What the head reads of every cloud: means over the voxels of the last stage, of a head that keeps the layout those of each part
    by its share of the voxels; not normalised further.
    """
    features, logits = [], []
    for batch in subject.batches(clouds):
        found = net.features(batch)  # (B, C)
        features.append(found.double().cpu().numpy())
        logits.append(net.head(found).double().cpu().numpy())
    return Pooled(np.concatenate(features), np.concatenate(logits), clouds.targets)


def last_stage(net: ResNet3d) -> nn.Module:
    return net.get_submodule(f"layer{net.stages}")


@contextmanager
def catching(module: nn.Module) -> Iterator[list[SparseTensor]]:
    """A list of what the module returns."""
    caught: list[SparseTensor] = []

    def hook(_: nn.Module, args: Any, output: SparseTensor) -> None:
        caught.append(output)

    handle = module.register_forward_hook(hook)
    try:
        yield caught
    finally:
        handle.remove()


def maxima(x: SparseTensor) -> torch.Tensor:
    """The largest value of every channel over the sites of each cloud: (B, C)."""
    rows = x.coords[:, 0].long()[:, None].expand_as(x.feats)
    return x.feats.new_full((x.batch_size, x.feats.shape[1]), -torch.inf).scatter_reduce(0, rows, x.feats, "amax")


@torch.inference_mode()
def strongest(net: ResNet3d, subject: Subject, clouds: Clouds, bases: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
    """The largest value of every unit of the last stage in each cloud, (D, U).

    bases (R, U, U): with them (1 + R, D, U), then of the directions that are their columns.
    """
    turns = torch.from_numpy(bases).to(subject.device) if bases is not None else ()
    found = []
    with catching(last_stage(net)) as caught:
        for batch in subject.batches(clouds):
            net.features(batch)
            x = caught.pop()
            found.append(torch.stack([maxima(x), *(maxima(x.with_feats(x.feats @ turn)) for turn in turns)]).cpu().numpy())
    values = np.concatenate(found, axis=1)
    return values if bases is not None else values[0]


def main_path(net: nn.Module) -> dict[str, tuple[nn.Module, Norm2dOr3d]]:
    """The convolutions 3×3 or 3×3×3 of the residual branches, by name in the order of the pass, each with its batch norm."""
    found = {}
    for name, module in net.named_modules():
        match = _MAIN_PATH.fullmatch(name)
        if match and _kernel(module) == 3:
            norm = net.get_submodule(f"{match[1]}bn{match[2]}")
            assert isinstance(norm, Norm2dOr3d)
            found[name] = (module, norm)
    return found


@contextmanager
def watching(net: nn.Module, keep: Keep) -> Iterator[None]:
    """While it lasts, `keep` gets the output of every convolution of the main path, and the same after its batch norm.

    The norm is computed here: in the net it comes in one step with the residual and the ReLU.
    """
    handles = []
    for name, (conv, norm) in main_path(net).items():
        handles.append(conv.register_forward_hook(_kept(name, norm, keep)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept(name: str, norm: Norm2dOr3d, keep: Keep) -> Callable[[nn.Module, Any, SparseTensor | torch.Tensor], None]:
    def hook(_: nn.Module, args: Any, output: SparseTensor | torch.Tensor) -> None:
        values = output.feats if isinstance(output, SparseTensor) else output
        keep(name, "convolution", values)
        normed = nn.functional.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        keep(name, "norm", normed)

    return hook


def _kernel(module: nn.Module) -> int:
    if isinstance(module, SparseConv3d):
        return module.kernel_size
    return int(module.kernel_size[0]) if isinstance(module, nn.Conv2d) else 0
