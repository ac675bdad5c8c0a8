"""Tied inflation: the parameter stays the 2D filter, and computes what its repetition would."""

from pathlib import Path

import pytest
import torch

from models.errors import InflationError
from models.manifest import NetworkSpec
from models.resnet3d import SHAPES, ResNet3d
from models.sparse.backends import ENGINES
from models.sparse.nn import SparseConv3d, ties_of
from models.sparse.tensor import SparseTensor, sparse_tensor
from models.sparse.tying import kernel_side, repeat_filter
from models.zoo import build
from training.finetune import freeze_policy
from training.inflate import LEGACY_AXES, InflateSpec, inflate_state_dict
from training.recipe import load_recipe

NETS = ["resnet18", "resnet50", "res16unet34c", "cifar_resnet20"]
SPECS = [
    *(InflateSpec(axes=name) for name in LEGACY_AXES),
    InflateSpec(),
    InflateSpec(repeat="x", height="z", width="y", scale="mean"),
    InflateSpec(repeat="z", height="y", width="x", shortcut="mean"),
]


def image_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random 2D weights for the stages of an untied net."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        if tensor.dim() == 3:
            side = 2 if name.startswith("ds") else 3 if shape[0] == 27 else 1
            shape = (shape[2], shape[1], side, side)
        drawn = torch.randn(shape, generator=generator)
        if tensor.dim() == 3:
            state[name] = drawn * (2 / drawn[0].numel()) ** 0.5  # as large as a trained net's, so that features stay near 1
        else:
            state[name] = drawn.abs() * 0.1 + 0.9 if tensor.dim() else tensor
    return state


def both(name: str, spec: InflateSpec) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same 2D weights inflated whole and tied, with the same stem and head."""
    torch.manual_seed(0)
    whole, tied = (build(NetworkSpec(name=name, in_channels=3, num_classes=4, tied=axis)) for axis in (None, spec.directions[0]))
    source = image_state(whole)
    whole.load_state_dict(inflate_state_dict(source, whole.state_dict(), spec)[0])
    outside = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(("layer", "ds"))}
    tied.load_state_dict(inflate_state_dict(source, {**tied.state_dict(), **outside}, spec, ties_of(tied))[0])
    return whole, tied


def clouds() -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, 9, 9, 9, generator=generator) < 0.3).nonzero().int() - torch.tensor([0, 4, 4, 4], dtype=torch.int32)
    return sparse_tensor(coords, torch.randn(len(coords), 3, generator=generator))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.axes or spec.repeat}-{spec.scale}-{spec.shortcut}")
@pytest.mark.parametrize("name", NETS)
def test_repeating_the_tied_filters_gives_the_whole_ones(name: str, spec: InflateSpec) -> None:
    whole, tied = both(name, spec)
    ties = ties_of(tied)
    convs = {f"{path}.weight": conv for path, conv in tied.named_modules() if isinstance(conv, SparseConv3d)}
    assert not ties_of(whole)
    assert {weight for weight, conv in convs.items() if conv.kernel_size > 1} == ties.keys() | {"conv1.weight"}
    for weight, tensor in whole.state_dict().items():
        found = tied.state_dict()[weight]
        if weight in ties:
            found = repeat_filter(found, convs[weight].kernel_size, ties[weight].axes)
        assert torch.equal(found, tensor), weight


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_are_those_of_the_whole_filters(name: str) -> None:
    whole, tied = (net.double() for net in both(name, InflateSpec()))
    x = clouds()
    x = x.with_feats(x.feats.double())
    outer = torch.randn(2, 4, dtype=torch.float64)
    logits = []
    for net in (whole, tied):
        net.train()
        logits.append(net(x))
        logits[-1].backward(outer)
    torch.testing.assert_close(logits[1], logits[0], atol=1e-8, rtol=0)
    gradients = dict(whole.named_parameters())
    for weight, parameter in tied.named_parameters():
        expected = gradients[weight].grad
        assert expected is not None
        if weight in ties_of(tied):
            tie = ties_of(tied)[weight]
            side = kernel_side(tie.taps)
            cube = expected.unflatten(0, (side, side, side))
            expected = cube.sum(["xyz".index(axis) for axis in tie.axes], keepdim=True).flatten(0, 2)
        torch.testing.assert_close(parameter.grad, expected, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("engine", [name for name, engine in ENGINES.items() if engine.runs(torch.device("cpu"), torch.float32)])
@pytest.mark.parametrize("name", NETS)
def test_outputs_agree_in_float32(engine: str, name: str) -> None:
    """As they are served. By the batch the norms at the deepest level, of a few sites, would magnify rounding."""
    whole, tied = both(name, InflateSpec())
    x = clouds()
    found = []
    for net in (whole, tied):
        net.eval()
        found.append(net(sparse_tensor(x.coords, x.feats, 2, ENGINES[engine])))
    scale = found[0].abs().max()
    assert (found[0] - found[1]).abs().max() <= 1e-5 * scale


def stage_counts(name: str, tied: str) -> tuple[int, int]:
    """Values of the stages' filters of more than one tap, and of everything else in them."""
    with torch.device("meta"):
        net = ResNet3d(SHAPES[name], 3, 40, tied=tied)
    stages = {path: p.numel() for path, p in net.named_parameters() if path.startswith(("layer", "ds"))}
    wide = {f"{path}.weight" for path, conv in net.named_modules() if isinstance(conv, SparseConv3d) and conv.kernel_size > 1}
    filters = sum(count for path, count in stages.items() if path in wide)
    return filters, sum(stages.values()) - filters


def test_a_third_of_the_parameters() -> None:
    """ResNet18: 3×3×3 filters hold a third, the three 2×2×2 shortcuts an eighth of what they did; batch norms stay."""
    three = 27 * (4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 3 * 512**2)
    two = 8 * (64 * 128 + 128 * 256 + 256 * 512)
    norms = 9_472
    assert stage_counts("resnet18", "") == (three + two, norms)
    assert stage_counts("resnet18", "y") == (three // 3 + two // 8, norms)
    assert (three // 3 + two // 8, three + two) == (11_157_504, 34_332_672)
    filters, rest = stage_counts("cifar_resnet20", "")
    assert stage_counts("cifar_resnet20", "x") == (filters // 3, rest)


@pytest.mark.parametrize("mode", ["io", "ioms", "iobn", "all"])
def test_every_mode_trains_what_it_trains_untied(mode: str) -> None:
    nets = [build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4, tied=tied)) for tied in (None, "y")]
    assert freeze_policy(nets[0], mode).trained == freeze_policy(nets[1], mode).trained


def test_a_step_on_tied_filters_lowers_the_loss() -> None:
    _, net = both("cifar_resnet20", InflateSpec())
    policy, x, targets = freeze_policy(net, "all"), clouds(), torch.tensor([1, 3])
    policy.apply(net)
    optimiser = torch.optim.SGD(policy.parameters(net), lr=0.01, momentum=0.9)
    losses = []
    before = net.get_parameter("layer1.0.conv1.weight").clone()
    for _ in range(20):
        policy.set_train(net)
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), targets)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert not torch.equal(net.get_parameter("layer1.0.conv1.weight"), before)
    assert before.shape == (9, 16, 16)


def test_an_axis_that_inflation_does_not_repeat_is_refused() -> None:
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=4, tied="x"))
    source = image_state(build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=4)))
    source = {name: torch.randn(tensor.shape) if tensor.dim() == 4 else tensor for name, tensor in source.items()}
    with pytest.raises(InflationError, match=r"layer1\.0\.conv1\.weight: the net repeats this filter along x, inflation along y"):
        inflate_state_dict(source, net.state_dict(), InflateSpec(), ties_of(net))


def test_the_report_counts_what_tying_saves() -> None:
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4, tied="y"))
    source = image_state(build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4)))
    report = inflate_state_dict(source, net.state_dict(), InflateSpec(), ties_of(net))[1]
    assert "19 filters stay tied, 11,157,504 values for 34,332,672" in str(report)


def test_old_recipes_and_networks_keep_their_text(tmp_path: Path) -> None:
    """What is not tied does not say so, in files whose digests were taken before there was the choice."""
    said: dict[str, object] = {"input.voxel_size": 0.1, "input.normalise": "none", "input.point_budget": None}
    plain, tied = load_recipe("finetune-resnet18", said), load_recipe("finetune-resnet18", {**said, "inflate.tied": True})
    assert "tied" not in plain.to_yaml()
    assert "tied" not in plain.network_spec(4).model_dump_json()
    assert plain.digest != tied.digest
    (tmp_path / "recipe.yaml").write_text(tied.to_yaml())
    again = load_recipe(str(tmp_path / "recipe.yaml"))
    assert again == tied
    assert again.network_spec(4).tied == "y"
    assert NetworkSpec.model_validate_json(again.network_spec(4).model_dump_json()).tied == "y"
