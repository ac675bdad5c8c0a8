"""Whatever is packed, folded or detected from weights follows them: after any optimiser, a live net answers as a fresh one.

Fused optimisers write into a tensor without raising its version counter, so nothing may be kept under that counter.
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.checkpoint import load_checkpoint
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.resnet3d import ResNet3d, ResNetShape
from models.sparse import nn as nn_of_sites
from models.sparse.backends import ENGINES
from models.sparse.backends.protocol import Engine
from models.sparse.nn import (
    SparseBatchNorm,
    SparseConv3d,
    SparseConvTranspose3d,
    conv_norm,
    filters_stay_frozen,
    prepare_inference,
    ties_of,
)
from models.sparse.tensor import SparseTensor, collate, sparse_tensor
from models.sparse.tying import tied_axes
from models.unet3d import UNet3d
from models.zoo import build
from training.finetune import Mode, freeze_policy

USABLE = [name for name, engine in ENGINES.items() if engine.unavailable() is None]
SHAPE = ResNetShape("basic", (1, 1), (16, 24), (16, 24), stem=16)
STEPS = 3

Optimise = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMISERS: dict[str, Optimise] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2, foreach=False),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2, foreach=True),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


def inflated(tied: str = "") -> ResNet3d:
    """A small net whose 3×3×3 filters repeat along y and whose shortcuts repeat everywhere, whole or tied by construction."""
    torch.manual_seed(0)
    net = ResNet3d(SHAPE, 3, 4, tied=tied)
    if not tied:
        with torch.no_grad():
            for name, conv in net.named_modules():
                if isinstance(conv, SparseConv3d) and name.startswith("layer"):
                    side = conv.kernel_size
                    cube = conv.weight.unflatten(0, (side, side, side))
                    cube.copy_(cube[:, :1].expand_as(cube).clone() if side == 3 else cube[:1, :1, :1].expand_as(cube).clone())
    return net


def clouds(engine: Engine) -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, 8, 8, 8, generator=generator) < 0.3).nonzero().int()
    return sparse_tensor(coords, torch.randn(len(coords), 3, generator=generator), 2, engine)


def train(net: nn.Module, mode: Mode, optimise: Optimise, x: SparseTensor, low: bool) -> None:
    policy = freeze_policy(net, mode)
    policy.apply(net)
    policy.set_train(net)
    optimiser = optimise(policy.parameters(net))
    for _ in range(STEPS):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            scores = net(x).float()  # of two clouds, or of every voxel
            loss = nn.functional.cross_entropy(scores, torch.arange(1, len(scores) + 1) % 4)
        loss.backward()
        optimiser.step()


def fresh(net: ResNet3d | UNet3d) -> ResNet3d | UNet3d:
    """Another net with a copy of the state; built anew, so that nothing but the state can be carried over."""
    tied = "y" if ties_of(net) else ""
    other = ResNet3d(SHAPE, 3, 4, tied=tied) if isinstance(net, ResNet3d) else UNet3d(SHAPE, 3, 4, decoder="listing", tied=tied)
    other.load_state_dict({name: tensor.clone() for name, tensor in net.state_dict().items()})
    for name, parameter in net.named_parameters():
        other.get_parameter(name).requires_grad_(parameter.requires_grad)
    return other


def assert_answers_as_fresh(net: ResNet3d | UNet3d, x: SparseTensor, low: bool) -> None:
    """Bit for bit, with the sites and maps that it was trained on against new ones: evaluation, prepared for inference, training."""
    engine = x.sites.engine
    for prepared in (False, True):
        answers = []
        for each, inputs in ((net, x), (fresh(net), clouds(engine))):
            trained = [parameter for parameter in each.parameters() if parameter.requires_grad]
            each.eval()
            if prepared:
                prepare_inference(each.requires_grad_(False))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                answers.append(each(inputs))
            for parameter in trained:
                parameter.requires_grad_(True)
        assert torch.equal(*answers)
    other = fresh(net)
    assert torch.equal(net.train()(x), other.train()(clouds(engine)))


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("tied", ["", "y"], ids=["whole", "tied"])
@pytest.mark.parametrize("engine", USABLE)
def test_a_trained_net_answers_as_a_fresh_one(engine: str, tied: str, optimiser: str, low: bool) -> None:
    net, x = inflated(tied), clouds(ENGINES[engine])
    prepare_inference(net.eval().requires_grad_(False))
    with torch.no_grad():
        before = net(x)  # packs and folds whatever is packed and folded
    assert any(conv._folded for conv in net.modules() if isinstance(conv, SparseConv3d))
    weights = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    train(net, "all", OPTIMISERS[optimiser], x, low)
    assert not any(torch.equal(weights[name], p) for name, p in net.named_parameters() if p.dim() == 3)
    with torch.no_grad():
        assert not torch.allclose(net.eval()(x), before)
    assert_answers_as_fresh(net, x, low)


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tied", ["", "y"], ids=["whole", "tied"])
@pytest.mark.parametrize("engine", USABLE)
def test_a_trained_unet_answers_as_a_fresh_one(engine: str, tied: str, low: bool) -> None:
    """Its transposed convolutions are folded, too."""
    torch.manual_seed(0)
    net, x = UNet3d(SHAPE, 3, 4, decoder="listing", tied=tied), clouds(ENGINES[engine])
    prepare_inference(net.eval().requires_grad_(False))
    with torch.no_grad():
        before = net(x)
    ups = [module for module in net.modules() if isinstance(module, SparseConvTranspose3d)]
    assert len(ups) == 2
    assert all(conv._folded for conv in ups)
    train(net, "all", OPTIMISERS["sgd-fused"], x, low)
    with torch.no_grad():
        assert not torch.allclose(net.eval()(x), before)
    assert_answers_as_fresh(net, x, low)


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("mode", ["io", "iobn"])
@pytest.mark.parametrize("engine", USABLE)
def test_frozen_weights_stay_as_they_are(engine: str, mode: Mode, optimiser: str, low: bool) -> None:
    """Bit for bit, tied filters and buffers of frozen norms included; everything that is trained moves."""
    net, x = inflated(), clouds(ENGINES[engine])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ties = ties_of(net, before)
    assert {tie.axes for tie in ties.values()} == {"y", "xyz"}
    train(net, mode, OPTIMISERS[optimiser], x, low)
    policy = freeze_policy(net, mode)
    frozen = {name for name, _ in net.named_parameters()} - policy.trained
    frozen |= {f"{norm}.{buffer}" for norm in policy.frozen_norms for buffer in ("running_mean", "running_var")}
    assert len(frozen) == {"io": 25, "iobn": 5}[mode]
    after = net.state_dict()
    unchanged = {name for name, tensor in before.items() if torch.equal(after[name], tensor) and not name.endswith("tracked")}
    assert unchanged - {"fc.bias"} == frozen  # the norm behind a bias cancels its gradient
    assert ties_of(net, after) == ties
    assert_answers_as_fresh(net, x, low)


@pytest.mark.parametrize("engine", USABLE)
def test_a_frozen_filter_that_stops_repeating_itself_is_noticed(engine: str) -> None:
    """Although nothing raised its version counter: the data is written to as a fused optimiser writes."""
    x = clouds(ENGINES[engine])
    torch.manual_seed(0)
    conv = SparseConv3d(3, 8).requires_grad_(False)
    conv.weight.copy_(conv.weight[:1].expand(27, 3, 8).clone())
    conv(x)
    version = conv.weight._version
    conv.weight.data[13] += 1
    assert conv.weight._version == version
    other = SparseConv3d(3, 8)
    other.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x).feats, other(clouds(ENGINES[engine])).feats.detach(), atol=1e-5, rtol=1e-5)


def one_layer() -> tuple[SparseConv3d, SparseBatchNorm, nn.Sequential]:
    torch.manual_seed(0)
    net = nn.Sequential(SparseConv3d(3, 8), SparseBatchNorm(8)).eval()
    conv, norm = net
    assert isinstance(conv, SparseConv3d)
    assert isinstance(norm, SparseBatchNorm)
    prepare_inference(net.requires_grad_(False))
    return conv, norm, net


@pytest.mark.parametrize("engine", USABLE)
@pytest.mark.parametrize("change", ["load_state_dict", "train", "statistics", "step in evaluation mode"])
def test_what_ends_a_snapshot(engine: str, change: str) -> None:
    x, (conv, norm, net) = clouds(ENGINES[engine]), one_layer()

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return conv_norm(x, conv, norm, relu=True).feats

    before = answer()
    assert conv._folded is not None
    if change == "load_state_dict":
        net.load_state_dict({name: tensor + 0.5 if tensor.dim() else tensor for name, tensor in net.state_dict().items()})
    elif change == "train":
        net.train()
        norm(conv(x))  # moves the running statistics
        net.eval()
    elif change == "statistics":  # batch norm set anew, without a gradient
        norm.train()
        answer()
        net.train().eval()
    else:
        optimiser = torch.optim.SGD(net.requires_grad_(True).parameters(), lr=1e-3, fused=True)
        conv_norm(x, conv, norm).feats.square().sum().backward()
        assert torch.allclose(answer(), before, atol=1e-5)  # looked at between backward and step
        optimiser.step()
    after = answer()
    with torch.no_grad():
        expected = norm(conv(x)).feats.relu()
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


def test_a_predictor_answers_as_before_only_if_the_net_is_its_own(tiny_registry: Path) -> None:
    """The net is taken over, not copied: trained afterwards, it answers anew, never with a mixture of old and new weights."""
    checkpoint = load_checkpoint(tiny_registry / "tiny" / "1")
    net = build(checkpoint.manifest.network)
    checkpoint.load_into(net)
    own, shared = Predictor(copy.deepcopy(net), checkpoint.manifest), Predictor(net, checkpoint.manifest)
    voxels = [own.voxelize(PointCloud(np.random.default_rng(seed).normal(size=(500, 3)).astype("f4"))) for seed in (0, 1)]
    before = own.forward(voxels)
    assert torch.equal(shared.forward(voxels), before)
    train(net, "all", OPTIMISERS["sgd-fused"], collate(voxels), low=False)
    assert torch.equal(own.forward(voxels), before)
    net.eval()
    after = shared.forward(voxels)
    assert not torch.allclose(after, before)
    again = build(checkpoint.manifest.network)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(after, Predictor(again, checkpoint.manifest).forward(voxels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["io", "iobn", "all"])
@pytest.mark.parametrize("engine", USABLE)
def test_filters_that_stay_frozen_are_looked_at_once_and_followed_again_afterwards(
    engine: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers and gradients meanwhile; then what was written is seen."""
    x, net = clouds(ENGINES[engine]), inflated()
    freeze_policy(net, mode).apply(net)
    net.eval()
    searched: list[torch.Tensor] = []

    def watched(weight: torch.Tensor) -> str:
        searched.append(weight)
        return tied_axes(weight)

    monkeypatch.setattr(nn_of_sites, "tied_axes", watched)

    def answers_and_gradients() -> list[torch.Tensor]:
        net.zero_grad()
        out = net(x)
        out.sum().backward()
        return [out.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]

    before = answers_and_gradients()
    assert bool(searched) == (mode != "all")
    with filters_stay_frozen(net):
        searched.clear()
        torch.testing.assert_close(answers_and_gradients(), before, atol=0.0, rtol=0.0)
        assert not searched
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.startswith("layer"):
                weight.mul_(torch.rand_like(weight))
    torch.testing.assert_close(net(x), fresh(net).eval()(x))
    assert not torch.equal(net(x), before[0])
