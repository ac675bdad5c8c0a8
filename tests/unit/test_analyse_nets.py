"""What is taken out of nets: 2D nets against torch written out, values of hooks against the nets' own, clouds evenly drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from models.errors import BadDataset, BadWeights, WrongTask
from models.manifest import NetworkSpec, VoteSpec
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.resnet3d import SHAPES, ResNet3d
from models.zoo import build
from tests.untrained_segmenter import save_segmenter
from training.analyse.dissect import random_basis
from training.analyse.features import catching, last_stage, main_path, maxima, pooled, strongest, watching
from training.analyse.image_net import ImageResNet, image_net
from training.analyse.images import CIFAR, IMAGENET, MEAN, STD, find_photographs, read_image
from training.analyse.subject import Subject, balanced
from training.datasets import LabelledClouds
from training.image_weights import ImageWeights, load_image_weights

State = dict[str, torch.Tensor]


def conv(x: torch.Tensor, state: State, name: str, norm: str, stride: int = 1) -> torch.Tensor:
    """A convolution and its norm in evaluation, written out."""
    weight = state[f"{name}.weight"]
    out = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    mean, var, scale, shift = (state[f"{norm}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias"))
    return (out - mean) / (var + 1e-5).sqrt() * scale + shift


def imagenet_logits(x: torch.Tensor, state: State, depths: tuple[int, ...], bottleneck: bool) -> torch.Tensor:
    """torchvision's ResNet."""
    x = F.max_pool2d(conv(x, state, "conv1", "bn1", 2).relu(), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for b in range(depth):
            at, stride = f"layer{stage}.{b}", 2 if stage > 1 and b == 0 else 1
            if bottleneck:
                out = conv(x, state, f"{at}.conv1", f"{at}.bn1").relu()
                out = conv(out, state, f"{at}.conv2", f"{at}.bn2", stride).relu()
                out = conv(out, state, f"{at}.conv3", f"{at}.bn3")
            else:
                out = conv(conv(x, state, f"{at}.conv1", f"{at}.bn1", stride).relu(), state, f"{at}.conv2", f"{at}.bn2")
            strided = f"{at}.downsample.0.weight" in state
            x = (out + (conv(x, state, f"{at}.downsample.0", f"{at}.downsample.1", stride) if strided else x)).relu()
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def cifar_logits(x: torch.Tensor, state: State, blocks: int) -> torch.Tensor:
    """akamaster's ResNet, shortcut A."""
    x = conv(x, state, "conv1", "bn1").relu()
    for stage, width in enumerate((16, 32, 64), 1):
        for b in range(blocks):
            at, stride = f"layer{stage}.{b}", 2 if stage > 1 and b == 0 else 1
            out = conv(conv(x, state, f"{at}.conv1", f"{at}.bn1", stride).relu(), state, f"{at}.conv2", f"{at}.bn2")
            if stride == 2:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, width // 4, width // 4))
            x = (out + x).relu()
    return F.avg_pool2d(x, x.shape[3]).flatten(1) @ state["linear.weight"].T + state["linear.bias"]


def random_weights(network: str, head: str = "fc") -> ImageWeights:
    """A 2D state dict of a net, with norms that do something."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in ImageResNet(SHAPES[network], 10).state_dict().items():
        if tensor.dim():
            values = torch.randn(tensor.shape, generator=generator)
            small = values * 0.05 if tensor.dim() == 4 else values.abs() + 0.5 if "var" in name else values * 0.3
            state[name.replace("fc.", f"{head}.")] = small
    return ImageWeights(state, "random", "0" * 64)


@pytest.mark.parametrize(("network", "depths"), [("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3))])
def test_imagenet_nets_give_the_logits_of_torch_written_out(network: str, depths: tuple[int, ...]) -> None:
    image = random_weights(network)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = imagenet_logits(x, dict(image.tensors), depths, network == "resnet50")
    torch.testing.assert_close(image_net(network, image)(x), expected, atol=1e-4, rtol=1e-4)


def test_cifar_nets_give_the_logits_of_torch_written_out() -> None:
    image = random_weights("cifar_resnet32", "linear")
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(image_net("cifar_resnet32", image)(x), cifar_logits(x, dict(image.tensors), 5), atol=1e-4, rtol=1e-4)


def test_weights_of_another_net_are_refused() -> None:
    with pytest.raises(BadWeights, match="tensors missing"):
        image_net("cifar_resnet32", random_weights("cifar_resnet20"))
    with pytest.raises(BadWeights, match="not expected"):
        image_net("cifar_resnet20", random_weights("cifar_resnet32"))
    with pytest.raises(BadWeights, match="no 2D net is known"):
        image_net("res16unet34c", random_weights("cifar_resnet20"))


@pytest.mark.data
def test_the_dog_is_a_samoyed_and_a_dog(data_dir: Path) -> None:
    names = (data_dir / "images" / "imagenet_classes.txt").read_text().splitlines()
    large = image_net("resnet18", load_image_weights(str(data_dir / "weights" / "imagenet1k_resnet18_pq_small.npz")))
    small = image_net("cifar_resnet20", load_image_weights(str(data_dir / "weights" / "cifar10_resnet20.safetensors")))
    dog = data_dir / "images" / "dog.jpg"
    assert names[int(large(read_image(dog, IMAGENET)[None]).argmax())] == "Samoyed"
    assert int(small(read_image(dog, CIFAR)[None]).argmax()) == 5  # CIFAR-10's dog


def test_photographs_are_found_scaled_and_cropped(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 32:64] = (255, 128, 0)  # the middle third
    Image.fromarray(picture).save(tmp_path / "below" / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "depth.png")
    (tmp_path / "notes.txt").write_text("not an image")
    found = find_photographs([tmp_path])
    assert [path.name for path in found.paths] == ["a.png"]
    assert found.left_out == 1
    image = read_image(found.paths[0], CIFAR)  # 48 × 32, of which the middle 32 × 32
    assert image.shape == (3, 32, 32)
    pixels = image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    torch.testing.assert_close(pixels[:, 16, 16], torch.tensor([1.0, 128 / 255, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels[:, 16, 2], torch.zeros(3), atol=1e-5, rtol=0)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(BadDataset, match="cannot be read"):
        find_photographs([tmp_path])
    with pytest.raises(BadDataset, match="no photographs"):
        find_photographs([tmp_path / "nowhere"])


@pytest.fixture(scope="module")
def subject(tiny_registry: Path) -> Subject:
    found = Subject.open("tiny", str(tiny_registry))
    generator = torch.Generator().manual_seed(0)
    for name, values in found.net.named_buffers():  # norms that do something
        if values.dim():
            values.copy_(torch.rand(values.shape, generator=generator) + (0.5 if "var" in name else 0.0))
    return found


@pytest.fixture(scope="module")
def clouds() -> LabelledClouds:
    rng = np.random.default_rng(0)
    return LabelledClouds(rng.normal(size=(21, 200, 3)).astype("f4"), np.repeat([0, 1, 2], (4, 7, 10)), ("chair", "stool", "table"))


def test_clouds_are_drawn_evenly_over_classes(clouds: LabelledClouds) -> None:
    for limit, counts in ((9, [3, 3, 3]), (12, [4, 4, 4]), (18, [4, 7, 7]), (21, [4, 7, 10])):
        assert np.bincount(balanced(clouds, limit, 0).targets).tolist() == counts
    assert sorted(np.bincount(balanced(clouds, 8, 0).targets).tolist()) == [2, 3, 3]
    assert balanced(clouds, 9, 0).digest == balanced(clouds, 9, 0).digest != balanced(clouds, 9, 1).digest
    assert balanced(clouds, None, 0) is clouds


def test_features_under_the_head_are_the_logits_of_the_predictor(subject: Subject, clouds: LabelledClouds) -> None:
    found = pooled(subject.net, subject, clouds)
    net = build(subject.manifest.network)
    net.load_state_dict(subject.net.state_dict())
    predictor = Predictor(net, subject.manifest)
    logits = predictor.forward([predictor.voxelize(clouds.cloud(row)) for row in range(len(clouds))])
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-4)
    assert found.features.shape == (21, 64)
    assert found.accuracy == pytest.approx(float((logits.numpy().argmax(1) == clouds.targets).mean()))


def test_a_model_whose_variants_vote_is_looked_at_without_them(subject: Subject, clouds: LabelledClouds) -> None:
    voted = subject.manifest.model_copy(update={"input": subject.manifest.input.model_copy(update={"votes": VoteSpec(count=3)})})
    found, alone = pooled(subject.net, replace(subject, manifest=voted), clouds), pooled(subject.net, subject, clouds)
    np.testing.assert_array_equal(found.features, alone.features)


def test_a_head_that_keeps_the_layout_is_looked_at_below_it(subject: Subject, clouds: LabelledClouds) -> None:
    network = subject.manifest.network.model_copy(update={"layout": 3})
    net = build(network).eval()
    assert isinstance(net, ResNet3d)
    laid = replace(subject, net=net, manifest=subject.manifest.model_copy(update={"network": network}))
    assert pooled(net, laid, clouds).features.shape == (21, 27 * 64)
    bases = np.stack([random_basis(net.channels, seed) for seed in range(2)])
    assert strongest(net, laid, clouds, bases).shape == (3, 21, 64)


def test_hooks_see_what_convolutions_and_norms_make(subject: Subject, clouds: LabelledClouds) -> None:
    """The net is untouched: blocks added up from what was kept give the features it has without anyone watching."""
    batch = subject.collate([subject.voxels(clouds, row) for row in range(3)])
    kept: State = {}
    with torch.inference_mode(), watching(subject.net, lambda name, hook, values: kept.update({f"{name}.{hook}": values.clone()})):
        block = subject.net.get_submodule("layer1.0")
        with catching(block) as caught, catching(subject.net.get_submodule("bn1")) as stem:
            subject.net.features(batch)
    torch.testing.assert_close(caught[0].feats, (kept["layer1.0.conv2.norm"] + stem[0].feats).relu(), atol=1e-5, rtol=1e-5)
    assert list(main_path(subject.net)) == [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(3) for c in (1, 2)]
    norm = subject.net.get_submodule("layer2.1.bn1")
    assert isinstance(norm, torch.nn.BatchNorm1d)
    raw = kept["layer2.1.conv1.convolution"]
    torch.testing.assert_close(kept["layer2.1.conv1.norm"], torch.nn.BatchNorm1d.forward(norm, raw), atol=1e-5, rtol=1e-5)
    kept.clear()
    subject.net.features(batch)
    assert not kept


def test_resnet18_has_the_sixteen_convolutions_of_the_paper_in_2d_and_3d() -> None:
    flat = main_path(ImageResNet(SHAPES["resnet18"], 10))
    deep = main_path(build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4)))
    assert list(flat) == list(deep)
    assert len(flat) == 16
    assert len(main_path(ImageResNet(SHAPES["resnet50"], 10))) == 16  # one 3×3 in each block


def test_the_strongest_answers_are_those_of_each_cloud_alone(subject: Subject, clouds: LabelledClouds) -> None:
    found = strongest(subject.net, subject, clouds)
    with catching(last_stage(subject.net)) as caught:
        subject.net.features(subject.collate([subject.voxels(clouds, 5)]))
    np.testing.assert_allclose(found[5], caught[0].feats.amax(0).detach().numpy(), atol=1e-5)
    torch.testing.assert_close(maxima(caught[0])[0], caught[0].feats.amax(0))
    both = strongest(subject.net, subject, clouds, -np.eye(64, dtype="f4")[None])
    np.testing.assert_array_equal(both[0], found)
    np.testing.assert_allclose(both[1, 5], -caught[0].feats.amin(0).detach().numpy(), atol=1e-5)


def test_an_inflated_net_has_the_filters_of_the_image_net(subject: Subject) -> None:
    image = random_weights("cifar_resnet20", "linear")
    net = subject.inflated(image, 0)
    weight = net.state_dict()["layer2.1.conv1.weight"].reshape(3, 3, 3, 32, 32)
    assert torch.equal(weight[:, 0], weight[:, 2])  # repeated along y
    assert torch.equal(weight[1, 1, 2], image.tensors["layer2.1.conv1.weight"][:, :, 2, 1].T)  # height is z, width x
    assert not torch.equal(subject.untrained(0).state_dict()["layer2.1.conv1.weight"], net.state_dict()["layer2.1.conv1.weight"])


def test_up_is_said_of_the_files(subject: Subject, clouds: LabelledClouds) -> None:
    lying = replace(clouds, xyz=np.ascontiguousarray(clouds.xyz[:, :, [0, 2, 1]] * np.array([1, 1, -1], "f4")))  # y up
    standing = pooled(subject.net, subject, clouds).features
    np.testing.assert_allclose(pooled(subject.net, replace(subject, up="y"), lying).features, standing, atol=1e-3)
    assert isinstance(lying.cloud(0), PointCloud)


def test_a_model_that_labels_points_is_refused(tmp_path: Path) -> None:
    save_segmenter(tmp_path / "streets" / "1", "streets")
    with pytest.raises(WrongTask):
        Subject.open("streets", str(tmp_path))
