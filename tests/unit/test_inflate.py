"""Inflation against 2D convolution, and its bookkeeping."""

import pytest
import torch
from torch.nn.functional import conv2d

from models.errors import InflationError
from models.manifest import NetworkSpec
from models.sparse.nn import SparseConv3d, ties_of
from models.sparse.tensor import sparse_tensor
from models.sparse.tying import tied_axes
from models.zoo import build
from training.inflate import LEGACY_AXES, InflateSpec, inflate_kernel, inflate_pointwise, inflate_state_dict, random_images

AXES = [("x", "y", "z"), ("x", "z", "y"), ("y", "x", "z"), ("y", "z", "x"), ("z", "x", "y"), ("z", "y", "x")]


def image_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random 2D weights with the names and shapes that the 3D net's stages come from."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        if tensor.dim() == 3:
            k = 1 if shape[0] in (1, 8) else 3
            shape = (shape[2], shape[1], k, k)
        state[name] = torch.randn(shape, generator=generator).abs() if tensor.dim() else tensor
    return state | {"fc.weight": torch.randn(1000, 512), "conv1.weight": torch.randn(64, 3, 7, 7)}


@pytest.mark.parametrize(("repeat", "height", "width"), AXES)
@pytest.mark.parametrize("scale", ["none", "mean"])
def test_inflated_block_is_axis_sum_then_2d_convolution(repeat: str, height: str, width: str, scale: str) -> None:
    spec = InflateSpec(repeat=repeat, height=height, width=width, scale=scale)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    block = torch.randn(3, 3, 3, 4, generator=generator)  # (x, y, z, C)
    coords = torch.cartesian_prod(torch.arange(1), *[torch.arange(3)] * 3).int()
    conv = SparseConv3d(4, 6, 3)
    with torch.no_grad():
        conv.weight.copy_(inflate_kernel(weight, spec))
        found = conv(sparse_tensor(coords, block.reshape(27, 4))).feats[13]  # the centre sees the whole block
    summed = block.sum("xyz".index(repeat))  # the two other axes, in xyz order
    image = summed if height < width else summed.transpose(0, 1)  # (h, w, C)
    expected = conv2d(image.permute(2, 0, 1)[None], weight)[0, :, 0, 0] / (3 if scale == "mean" else 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_legacy_names_do_what_the_reference_does() -> None:
    """W3[dx, dy, dz] = W2[kh, kw]: x-axis kh=dy kw=dz, y-axis kh=dy kw=dx, z-axis kh=dz kw=dx."""
    weight = torch.arange(9.0).reshape(1, 1, 3, 3)
    rules = {"x-axis": lambda x, y, z: (y, z), "y-axis": lambda x, y, z: (y, x), "z-axis": lambda x, y, z: (z, x)}
    assert rules.keys() == LEGACY_AXES.keys()
    for name, rule in rules.items():
        kernel = inflate_kernel(weight, InflateSpec(axes=name)).reshape(3, 3, 3)
        for x, y, z in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist():
            assert kernel[x, y, z] == weight[(0, 0, *rule(x, y, z))]


def test_pointwise_shortcuts() -> None:
    weight = torch.randn(5, 4, 1, 1)
    assert torch.equal(inflate_pointwise(weight, 1, InflateSpec())[0], weight[:, :, 0, 0].t())
    repeated = inflate_pointwise(weight, 8, InflateSpec())
    assert all(torch.equal(tap, weight[:, :, 0, 0].t()) for tap in repeated)
    torch.testing.assert_close(inflate_pointwise(weight, 8, InflateSpec(shortcut="mean")).sum(0), weight[:, :, 0, 0].t())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "res16unet34c", "cifar_resnet20"])
def test_all_stages_are_loaded_by_name(name: str) -> None:
    net = build(NetworkSpec(name=name, in_channels=3, num_classes=4))
    source = image_state(net)
    if name == "res16unet34c":
        source |= {f"ds{i}.0.weight": torch.randn(w, w, 2, 2) for i, w in ((1, 32), (2, 64), (3, 128))}
    state, report = inflate_state_dict(source, net.state_dict(), InflateSpec())
    net.load_state_dict(state)
    assert all(entry.startswith(("conv1.", "bn1.", "fc.", "fc_bn.")) for entry in report.fresh)
    assert {"conv1.weight", "fc.weight"} <= set(report.unused)
    assert torch.equal(state["conv1.weight"], net.state_dict()["conv1.weight"])
    assert torch.equal(state["layer2.0.bn1.running_var"], source["layer2.0.bn1.running_var"])


def test_stage_filter() -> None:
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4))
    state, report = inflate_state_dict(image_state(net), net.state_dict(), InflateSpec(stages=(3, 4)))
    assert {entry[:6] for entry in report.loaded} == {"layer3", "layer4"}
    assert torch.equal(state["layer1.0.conv1.weight"], net.state_dict()["layer1.0.conv1.weight"])


def test_num_batches_tracked_may_be_absent() -> None:
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=4))
    source = {name: tensor for name, tensor in image_state(net).items() if "num_batches" not in name}
    assert inflate_state_dict(source, net.state_dict(), InflateSpec())[1].loaded


def test_failures_are_loud() -> None:
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4))
    source, target = image_state(net), net.state_dict()
    with pytest.raises(InflationError, match=r"1 tensors of the chosen parts.*layer4\.1\.conv2"):
        inflate_state_dict({k: v for k, v in source.items() if k != "layer4.1.conv2.weight"}, target, InflateSpec())
    with pytest.raises(InflationError, match="nothing would be pretrained"):
        inflate_state_dict(source, target, InflateSpec(stages=()))
    with pytest.raises(InflationError, match=r"layer1\.0\.conv1\.weight.*wants \(27, 64, 64\)"):
        inflate_state_dict(source | {"layer1.0.conv1.weight": torch.randn(32, 64, 3, 3)}, target, InflateSpec())
    with pytest.raises(InflationError, match="only square kernels"):
        inflate_state_dict(source | {"layer1.0.conv1.weight": torch.randn(64, 64, 3, 1)}, target, InflateSpec())
    with pytest.raises(InflationError, match=r"layer1\.0\.bn1\.bias.*NaN"):
        inflate_state_dict(source | {"layer1.0.bn1.bias": torch.full((64,), torch.nan)}, target, InflateSpec())
    with pytest.raises(InflationError, match="not in the weights"):
        inflate_state_dict({"patch_embed.weight": torch.randn(2, 2)}, target, InflateSpec())


@pytest.mark.parametrize(("network", "tied"), [("resnet18", ""), ("resnet18", "y"), ("cifar_resnet20", "")])
def test_random_images_inflate_as_images_do(network: str, tied: str) -> None:
    """Every filter repeats itself along one axis, and the spread is that of a 2D convolution as torch begins it."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=4, tied=tied or None))
    ties = ties_of(net)
    source = random_images(net.state_dict(), ties)
    state, report = inflate_state_dict(source, net.state_dict(), InflateSpec(), ties)
    assert report.fresh
    assert all(not name.startswith("layer") for name in report.fresh if not name.endswith("num_batches_tracked"))
    for name, kernel in state.items():
        if name.startswith("layer") and kernel.dim() == 3 and len(kernel) == 27:
            assert "y" in tied_axes(kernel)
    weight = source["layer1.0.conv1.weight"]
    begun = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3).weight
    assert float(weight.std()) == pytest.approx(float(begun.detach().std()), rel=0.05)
