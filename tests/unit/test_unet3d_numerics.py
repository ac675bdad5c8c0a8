"""What U-Nets compute: against a dense one on full grids, folded against plain, engine against engine, and their gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as dense

from models.manifest import Decoder, NetworkSpec
from models.resnet3d import ResNetShape
from models.sparse.backends import ENGINES
from models.sparse.nn import Convolution, SparseConvTranspose3d, prepare_inference, ties_of
from models.sparse.tensor import SparseTensor, sparse_tensor
from models.unet3d import UNet3d
from models.zoo import build

DECODERS: tuple[Decoder, ...] = ("listing", "reference")
SHAPES = {
    "basic": ResNetShape("basic", (1, 1, 1, 1), (3, 4, 5, 6), (3, 4, 5, 6), stem=3),
    "bottleneck": ResNetShape("bottleneck", (1, 2, 1), (3, 4, 5), (6, 8, 10), stem=3),
    "separate": ResNetShape("basic", (2, 1, 1), (3, 4, 6), (3, 4, 6), stem=3, shortcut="conv1", separate_downsampling=True),
    "mean_pad": ResNetShape("basic", (1, 1, 1), (3, 5, 6), (3, 5, 6), stem=3, shortcut="mean_pad"),
}
USABLE = [name for name, engine in ENGINES.items() if engine.unavailable() is None]


class DenseUNet:
    """A U-Net of torch's own conv3d and conv_transpose3d on (B, C, X, Y, Z), from the weights of a sparse one.

    Kernels of even size look forward: they are padded behind, never before.
    """

    def __init__(self, weights: dict[str, torch.Tensor], stages: int, training: bool) -> None:
        self.weights, self.stages, self.training = weights, stages, training

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x, "conv1"), "bn1").relu()
        left = [self.norm(self.conv(x, "conv2"), "bn2").relu()]
        x = self.norm(self.conv(left[0], "down.0", 2), "down.1").relu()
        for stage in range(1, self.stages + 1):
            separate = f"ds{stage - 1}.0.weight" in self.weights
            if separate:
                x = self.norm(self.conv(x, f"ds{stage - 1}.0", 2), f"ds{stage - 1}.1").relu()
            x = self.blocks(x, f"layer{stage}", stride=2 if stage > 1 and not separate else 1)
            left.append(x)
        left.pop()
        for step in range(1, self.stages + 1):
            x = self.norm(self.up(x, f"up{step}.up.0"), f"up{step}.up.1").relu()
            x = self.blocks(torch.cat([x, left.pop()], dim=1), f"up{step}.blocks", stride=1)
        head = self.weights["fc.weight"]
        return dense.conv3d(x, head[:, :, None, None, None], self.weights["fc.bias"])

    def filters(self, name: str) -> torch.Tensor:
        """(Cout, Cin, k, k, k)."""
        weight = self.weights[f"{name}.weight"]
        side = {1: 1, 8: 2, 27: 3}[len(weight)]
        return weight.unflatten(0, (side, side, side)).permute(4, 3, 0, 1, 2)

    def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        filters = self.filters(name)
        before, behind = {1: (0, 0), 2: (0, 1), 3: (1, 1)}[filters.shape[-1]]
        return dense.conv3d(dense.pad(x, (before, behind) * 3), filters, stride=stride)

    def up(self, x: torch.Tensor, name: str) -> torch.Tensor:
        filters = self.filters(name).transpose(0, 1)
        odd = filters.shape[-1] % 2
        return dense.conv_transpose3d(x, filters, stride=2, padding=odd, output_padding=odd)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return dense.batch_norm(x, mean.clone(), var.clone(), weight, bias, self.training)

    def blocks(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        number = 0
        while f"{name}.{number}.conv1.weight" in self.weights:
            x = self.block(x, f"{name}.{number}", stride if number == 0 else 1)
            number += 1
        return x

    def block(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        depth = 3 if f"{name}.conv3.weight" in self.weights else 2
        branch = x
        for i in range(1, depth + 1):
            strided = i == depth - 1 if depth == 3 else i == 1
            branch = self.norm(self.conv(branch, f"{name}.conv{i}", stride if strided else 1), f"{name}.bn{i}")
            branch = branch.relu() if i < depth else branch
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        elif x.shape != branch.shape:
            x = dense.avg_pool3d(x, stride)
            before = (branch.shape[1] - x.shape[1]) // 2
            x = dense.pad(x, (0, 0) * 3 + (before, branch.shape[1] - x.shape[1] - before))
        return (x + branch).relu()


def unet(shape: str, decoder: Decoder, *, tied: str = "", **options: bool) -> UNet3d:
    """A net whose norms have statistics and affines of their own."""
    torch.manual_seed(0)
    net = UNet3d(SHAPES[shape], 2, 3, decoder=decoder, tied=tied, **options)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d):
            for tensor, low, high in (
                (norm.running_mean, -0.3, 0.3),
                (norm.running_var, 0.5, 2),
                (norm.weight, 0.5, 2),
                (norm.bias, -1, 1),
            ):
                nn.init.uniform_(tensor, low, high)
    return net


def scattered(channels: int = 2, share: float = 0.15, dtype: torch.dtype = torch.float32, engine: str = "reference") -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, 18, 18, 18, generator=generator) < share).nonzero().int() - torch.tensor([0, 9, 4, 7], dtype=torch.int32)
    return sparse_tensor(coords, torch.randn(len(coords), channels, generator=generator, dtype=dtype), 2, ENGINES[engine])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_on_full_grids_it_is_the_dense_net(shape: str, decoder: Decoder, training: bool) -> None:
    """Two clouds with every cell occupied, down to a single cell a cloud: scores and the gradients of all parameters."""
    net = unet(shape, decoder).double().train(training)
    side = 2 ** len(SHAPES[shape].depths)
    grid = torch.cartesian_prod(torch.arange(2), *[torch.arange(side)] * 3).int()
    volume = torch.randn(2, 2, side, side, side, dtype=torch.float64)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    leaves = {name: weights[name].requires_grad_() for name, _ in net.named_parameters()}
    expected = DenseUNet(weights, len(SHAPES[shape].depths), training)(volume)
    found = net(sparse_tensor(grid, volume.permute(0, 2, 3, 4, 1).reshape(-1, 2)))
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 4, 1).reshape(-1, 3), atol=1e-9, rtol=1e-9)
    outer = torch.randn_like(found)
    gradients = [torch.autograd.grad(found, list(net.parameters()), outer)]
    gradients.append(torch.autograd.grad(expected, list(leaves.values()), outer.reshape(2, side, side, side, 3).permute(0, 4, 1, 2, 3)))
    for name, ours, theirs in zip(leaves, *gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7, msg=name)


@pytest.mark.parametrize("tied", ["", "y"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("engine", USABLE)
def test_folded_it_answers_as_plain(engine: str, shape: str, decoder: Decoder, tied: str) -> None:
    """Every convolution and its norm as one, the transposed ones too."""
    net, x = unet(shape, decoder, tied=tied).eval(), scattered(engine=engine)
    ready = copy.deepcopy(net).requires_grad_(False)
    prepare_inference(ready)
    with torch.no_grad():
        expected, found = net(x), ready(x)
    assert all(conv._folded is not None for conv in ready.modules() if isinstance(conv, Convolution))
    assert sum(isinstance(module, SparseConvTranspose3d) for module in ready.modules()) == len(SHAPES[shape].depths)
    assert not any(conv._folded is not None for conv in net.modules() if isinstance(conv, Convolution))
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_a_small_net(shape: str) -> None:
    """By finite differences, through norms by the batch: features, and the first and the coarsest filters of the way up."""
    net = unet(shape, "reference", blur=shape == "basic").double().train()
    net.blur.eval()  # no dropout
    x = scattered(dtype=torch.float64, share=0.01)
    names = ["conv1.weight", "down.0.weight", "up1.up.0.weight", f"up{len(SHAPES[shape].depths)}.blocks.0.conv1.weight"]
    feats, filters = x.feats.clone().requires_grad_(), [net.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def run(feats: torch.Tensor, *filters: torch.Tensor) -> torch.Tensor:
        replaced = dict(zip(names, filters, strict=True))
        out: torch.Tensor = torch.func.functional_call(net, replaced, (x.with_feats(feats),))
        return out

    assert torch.autograd.gradcheck(run, (feats, *filters), fast_mode=True, atol=1e-6, eps=1e-7)


@pytest.mark.parametrize("tied", [None, "y"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_native_and_reference_engine_agree_on_resnet18(decoder: Decoder, tied: str | None) -> None:
    """At full width in float32: scores, then scores and all gradients, within 1e-4 of their norm."""
    if ENGINES["native"].unavailable() is not None:
        pytest.skip(f"native engine: {ENGINES['native'].unavailable()}")
    torch.manual_seed(0)
    net = build(NetworkSpec(name="resnet18", in_channels=2, num_classes=5, decoder=decoder, tied=tied))
    assert bool(ties_of(net)) == bool(tied)
    names = ["scores", "feats", *(name for name, _ in net.named_parameters())]
    calibrate(net)
    assert_near(names[:1], *(scores_and_gradients(net, engine) for engine in ("reference", "native")))
    keep_away_from_zero(net)
    calibrate(net)
    assert_near(names, *(scores_and_gradients(net, engine) for engine in ("reference", "native")))


def scores_and_gradients(net: nn.Module, engine: str) -> list[torch.Tensor]:
    x = scattered(engine=engine, share=0.05)
    feats = x.feats.clone().requires_grad_()
    scores = net(x.with_feats(feats))
    outer = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    return [scores.detach(), *torch.autograd.grad(scores, [feats, *net.parameters()], outer)]


def assert_near(names: list[str], expected: list[torch.Tensor], found: list[torch.Tensor]) -> None:
    for name, one, other in zip(names, expected, found, strict=False):
        assert float(one.norm()) > 0, name
        assert float((other - one).norm()) <= 1e-4 * float(one.norm()), name


def calibrate(net: nn.Module) -> None:
    """Statistics of this batch in every norm, so that features keep their size; then evaluation mode."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.momentum = 1.0
    with torch.no_grad():
        net.train()(scattered(share=0.05))
    net.eval()


def keep_away_from_zero(net: nn.Module) -> None:
    """Far enough that rounding decides no ReLU: one that lets a feature through here and stops it there moves gradients by 0.3 %.

    Features before a ReLU are near 1 or, in half of the channels, near -1; where a shortcut is added they are all near 1 or above.
    """
    for name, norm in net.named_modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.constant_(norm.weight, 0.1)
            nn.init.constant_(norm.bias, 1)
            if not name.endswith(("bn2", "downsample.1")) or name == "bn2":
                norm.bias.data[::2] = -1
