"""U-Nets from the table: exact parameter counts, names, levels, whose kernel maps the decoder goes by, what is loaded and frozen."""

from dataclasses import replace

import pytest
import torch

from models.manifest import Decoder, NetworkSpec
from models.resnet3d import SHAPES, ResNet3d, ResNetShape
from models.sparse.backends.protocol import SiteIndexLike
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.kernel_map import KernelMap
from models.sparse.nn import ties_of
from models.sparse.tensor import SparseTensor, sparse_tensor
from models.unet3d import FeatsDropout, UNet3d, decoder_levels
from models.zoo import build
from tests.unit.test_tied import image_state
from training.finetune import Mode, freeze_policy
from training.inflate import InflateSpec, inflate_state_dict

DECODERS: tuple[Decoder, ...] = ("listing", "reference")
STEPS_OF_RESNET18 = {"reference": (42_080_256, 12_291_072, 6_035_712, 5_003_520), "listing": (12_914_176, 3_229_440, 807_808, 594_688)}
NARROW = ResNetShape("basic", (1, 1, 1, 1), (4, 6, 8, 10), (4, 6, 8, 10), stem=4)


def unet(name: str, decoder: Decoder = "listing", *, in_channels: int = 3, num_classes: int = 5, tied: str = "") -> UNet3d:
    net = build(NetworkSpec(name=name, in_channels=in_channels, num_classes=num_classes, decoder=decoder, tied=tied or None))
    assert isinstance(net, UNet3d)
    return net


def thin(name: str) -> ResNetShape:
    """All depths and blocks of a backbone, at a sixteenth of its widths."""
    full = SHAPES[name]
    mid, out = (tuple(width // 16 for width in widths) for widths in (full.mid, full.out))
    return replace(full, mid=mid, out=out, stem=full.stem // 16)


def scattered(size: int = 20, share: float = 0.1, channels: int = 3, engine: ReferenceEngine | None = None) -> SparseTensor:
    """Two clouds, some of them in negative cells, rows in no order."""
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, size, size, size, generator=generator) < share).nonzero() - torch.tensor([0, 9, 4, 7])
    coords = coords[torch.randperm(len(coords), generator=generator)]
    return sparse_tensor(coords.int(), torch.randn(len(coords), channels, generator=generator), 2, engine)


def count(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_resnet18_has_the_counts_of_the_reference() -> None:
    with torch.device("meta"):
        s3dis = unet("resnet18", "reference", in_channels=6, num_classes=14)
        kitti = unet("resnet18", "reference", in_channels=4, num_classes=19)
    assert (count(s3dis), count(kitti)) == (99_909_518, 99_907_027)
    stages = sum(count(s3dis.get_submodule(f"layer{stage}")) for stage in range(1, 5))
    assert stages == 34_332_672 + 9_472  # filters and norms, as in the classifier


@pytest.mark.parametrize("decoder", DECODERS)
def test_steps_of_resnet18(decoder: Decoder) -> None:
    with torch.device("meta"):
        net = unet("resnet18", decoder)
    assert tuple(count(net.get_submodule(f"up{step}")) for step in range(1, 5)) == STEPS_OF_RESNET18[decoder]


def counted(shape: ResNetShape, decoder: Decoder, in_channels: int, num_classes: int) -> int:
    """Parameters of a U-Net, added up from the table of its backbone."""

    def layer(taps: int, cin: int, cout: int) -> int:
        return taps * cin * cout + 2 * cout  # a filter and its norm

    stem = shape.stem
    total = layer(27, in_channels, stem) + layer(27, stem, stem) + layer(8, stem, stem)
    width, separate = stem, shape.separate_downsampling
    for stage, (depth, mid, out) in enumerate(zip(shape.depths, shape.mid, shape.out, strict=True)):
        total += layer(8, width, width) if separate and stage else 0
        strided = stage > 0 and not separate
        if (width != out or strided) and shape.shortcut != "mean_pad":
            total += layer(8 if shape.shortcut == "conv2" else 1, width, out)
        for _ in range(depth):
            if shape.block == "basic":
                total += layer(27, width, mid) + layer(27, mid, out)
            else:
                total += layer(1, width, mid) + layer(27, mid, mid) + layer(1, mid, out)
            width = out
    stages = len(shape.depths)
    for step in range(stages):  # the coarsest first
        last, mid = step == stages - 1, shape.mid[-1 - step]
        if decoder == "listing":
            up, out, taps, shortcut = mid, stem if last else shape.mid[-2 - step], 8, 1
        else:
            up = out = mid if step < stages - 2 else 3 * stem
            taps, shortcut = 8 if last or separate else 27, 8
        joined = up + (stem if last else shape.out[-2 - step])
        total += layer(taps, width, up) + layer(27, joined, out) + 3 * layer(27, out, out)
        total += layer(shortcut, joined, out) if joined != out else 0
        width = out
    return total + width * num_classes + num_classes


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_backbone_has_the_count_of_its_table(name: str, decoder: Decoder) -> None:
    with torch.device("meta"):
        net = unet(name, decoder, in_channels=6, num_classes=14)
    assert count(net) == counted(SHAPES[name], decoder, 6, 14)


def test_widths_of_the_steps_are_those_of_paper_and_code() -> None:
    listing, reference = (decoder_levels(SHAPES["resnet50"], decoder) for decoder in DECODERS)
    assert listing == ((2, 512, 256), (2, 256, 128), (2, 128, 64), (2, 64, 64))
    assert reference == ((3, 512, 512), (3, 256, 256), (3, 192, 192), (2, 192, 192))
    assert [level.kernel_size for level in decoder_levels(SHAPES["res16unet34c"], "reference")] == [2, 2, 2, 2]
    assert decoder_levels(SHAPES["cifar_resnet20"], "reference") == ((3, 64, 64), (3, 48, 48), (2, 48, 48))


@pytest.mark.parametrize("name", SHAPES)
def test_stages_are_called_as_in_the_classifier(name: str) -> None:
    with torch.device("meta"):
        nets = unet(name), ResNet3d(SHAPES[name], 3, 5)
    stages = [{key: tensor.shape for key, tensor in net.state_dict().items() if key.startswith(("layer", "ds"))} for net in nets]
    assert stages[0] == stages[1]
    others = {key.split(".")[0] for key in nets[0].state_dict()} - {key.split(".")[0] for key in stages[0]}
    ups = {f"up{step}" for step in range(1, len(SHAPES[name].depths) + 1)}
    assert others == {"conv1", "bn1", "conv2", "bn2", "down", "fc"} | ups


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_backbone_runs(name: str, decoder: Decoder) -> None:
    """A row for each voxel, a gradient for every parameter, and a level more than the backbone has stages."""
    torch.manual_seed(0)
    net, x = UNet3d(thin(name), 3, 5, decoder=decoder), scattered(16, 0.03)
    logits = net(x)
    assert logits.shape == (len(x.coords), 5)
    logits[:, 3].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    deepest = 2 ** len(SHAPES[name].depths)
    assert x.sites.coords(deepest)[:, 1:].unique().tolist() == ([-2, -1, 0, 1] if deepest == 8 else [-1, 0])


def test_one_cloud_does_not_see_another() -> None:
    torch.manual_seed(0)
    net, both = unet("cifar_resnet20").eval(), scattered()
    one = both.coords[:, 0] == 1
    alone = sparse_tensor(both.coords[one] - torch.tensor([1, 0, 0, 0], dtype=torch.int32), both.feats[one])
    torch.testing.assert_close(net(both)[one], net(alone), atol=1e-5, rtol=1e-5)


def test_the_order_of_voxels_does_not_matter() -> None:
    torch.manual_seed(0)
    net, x = unet("cifar_resnet20", "reference").eval(), scattered()
    order = torch.randperm(len(x.coords))
    again = sparse_tensor(x.coords[order], x.feats[order], 2)
    torch.testing.assert_close(net(again), net(x)[order], atol=1e-5, rtol=1e-5)


class RecordingEngine(ReferenceEngine):
    """Notes what it builds: (sites, kernel size, stride) of maps and (sites, stride) of coarser sites."""

    def __init__(self) -> None:
        self.maps: list[tuple[int, int, int]] = []
        self.downsampled: list[tuple[int, int]] = []

    def downsample(self, coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.downsampled.append((len(coords), stride))
        return super().downsample(coords, stride)

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        self.maps.append((len(index.coords), kernel_size, stride))
        return super().kernel_map(index, out_coords, kernel_size, stride)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "res16unet34c", "cifar_resnet20"])
def test_the_decoder_goes_by_the_encoders_maps(name: str, decoder: Decoder) -> None:
    """No map is built twice, and on the way up none at all, but where the encoder has no convolution of that size and stride."""
    torch.manual_seed(0)
    engine = RecordingEngine()
    net, x = UNet3d(thin(name), 3, 5, decoder=decoder), scattered(engine=engine)
    on_the_way_down: list[int] = []
    net.get_submodule("up1").register_forward_pre_hook(lambda *_: on_the_way_down.append(len(engine.maps)))
    net(x).sum().backward()
    levels = [2**step for step in range(len(SHAPES[name].depths) + 1)]
    sites = [len(x.sites.coords(level)) for level in levels]
    assert len(set(sites)) == len(sites)  # so their numbers name the levels
    assert len(set(engine.maps)) == len(engine.maps)
    assert engine.downsampled == [(number, 2) for number in sites[:-1]]
    of_its_own = [(number, 2, 2) for number in reversed(sites[1:-1])] if (name, decoder) == ("cifar_resnet20", "listing") else []
    assert engine.maps[on_the_way_down[0] :] == of_its_own


@pytest.mark.parametrize("tied", ["", "y"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "res16unet34c", "cifar_resnet20"])
def test_inflation_loads_every_stage(name: str, tied: str) -> None:
    net = unet(name, tied=tied)
    source = image_state(ResNet3d(SHAPES[name], 3, 5))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    state, report = inflate_state_dict(source, before, InflateSpec(), ties_of(net))
    net.load_state_dict(state)
    stages = {key for key in before if key.startswith(("layer", "ds"))}
    assert set(report.loaded) == stages
    assert set(report.fresh) == before.keys() - stages
    assert set(report.tied) == ties_of(net).keys()
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in report.fresh)
    filters = {key for key in stages if source[key].dim() == 4}
    for key in filters:
        expected = source[key].sum(dim=(2, 3)).t() * (1 if tied or source[key].shape[-1] == 1 else source[key].shape[-1])
        copies = 1 if source[key].shape[-1] > 1 else len(state[key])
        torch.testing.assert_close(state[key].sum(0), expected * copies, atol=1e-4, rtol=1e-4, msg=key)
    assert all(torch.equal(state[key], source[key]) for key in stages - filters)
    if tied:
        assert report.tied
        assert not any(key.startswith(("conv", "down", "up")) for key in report.tied)


MODES: tuple[Mode, ...] = ("io", "ioms", "iobn", "all")


@pytest.mark.parametrize("mode", MODES)
def test_what_a_step_moves(mode: Mode) -> None:
    """io: everything but the stages, the decoder included; their running statistics stay. iobn: their norms move as well."""
    torch.manual_seed(0)
    net, x = UNet3d(NARROW, 3, 5, decoder="reference"), scattered()
    policy = freeze_policy(net, mode)
    policy.apply(net)
    policy.set_train(net)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    optimiser = torch.optim.SGD(policy.parameters(net), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x), torch.arange(len(x.coords)) % 5).backward()
        optimiser.step()
    moved = {key for key, tensor in net.state_dict().items() if not torch.equal(before[key], tensor)}
    stages = {key for key in before if key.startswith("layer")}
    norms = {key for key in stages if ".bn" in key or ".downsample.1." in key}
    affine = {key for key in norms if key.endswith(("weight", "bias"))}
    expected = {"io": set(), "ioms": norms - affine, "iobn": norms, "all": stages}[mode]
    assert moved & stages == expected
    assert moved - stages == before.keys() - stages
    assert any(key.startswith("up4.blocks.1") for key in moved)


def test_the_detour_of_the_reference_comes_with_a_dropout() -> None:
    """Features at the coarsest level only; nothing of it in evaluation is random, and it has no parameters."""
    torch.manual_seed(0)
    plain, blurred = UNet3d(NARROW, 3, 5, decoder="reference"), UNet3d(NARROW, 3, 5, decoder="reference", blur=True)
    blurred.load_state_dict(plain.state_dict())
    x = scattered()
    levels: list[int] = []
    dropout = next(module for module in blurred.modules() if isinstance(module, FeatsDropout))
    dropout.register_forward_hook(lambda _module, _inputs, out: levels.append(out.level))
    assert dropout.p == 0.3
    assert not torch.equal(blurred(x), blurred(x))
    plain.eval()
    blurred.eval()
    with torch.no_grad():
        answer = blurred(x)
        assert torch.equal(answer, blurred(x))
        assert not torch.allclose(answer, plain(x))
    assert levels == [16] * 4
