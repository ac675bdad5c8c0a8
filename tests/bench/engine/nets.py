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
from models.resnet3d import ResNet3d
from models.sparse.backends import engine_named
from models.sparse.nn import SparseConv3d, prepare_inference
from models.unet3d import UNet3d
from models.zoo import build
from tests.bench.engine.workloads import SEED, WEIGHTS, Workload
from training.finetune import freeze_policy
from training.image_weights import load_image_weights
from training.inflate import InflateSpec, inflate_state_dict

Net = TypeVar("Net", bound=nn.Module)
PERTURBATION = 0.01  # of a filter's standard deviation


def classifier(data: Path, workload: Workload, num_classes: int = 40) -> ResNet3d:
    """ResNet18 with real image weights; its stem and head are random."""
    torch.manual_seed(SEED)
    net = build(NetworkSpec(name="resnet18", in_channels=workload.feats.shape[1], num_classes=num_classes))
    assert isinstance(net, ResNet3d)
    return _calibrated(_inflated(net, data), workload)


def unet(data: Path, workload: Workload, num_classes: int) -> UNet3d:
    """The U-Net of the paper's listing, whose encoder has real image weights; the rest is random."""
    torch.manual_seed(SEED)
    net = build(NetworkSpec(name="resnet18", in_channels=workload.feats.shape[1], num_classes=num_classes, decoder="listing"))
    assert isinstance(net, UNet3d)
    return _calibrated(_inflated(net, data), workload)


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
