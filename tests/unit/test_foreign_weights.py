"""Weights as ImageNet-21K, FractalDB, Stylized-ImageNet and PointContrast were published: read, and found where they belong."""

import argparse
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from models.cli import run
from models.errors import BadWeights, InflationError
from models.manifest import NetworkSpec
from models.sparse.nn import SparseConv3d
from models.sparse.tensor import sparse_tensor
from models.zoo import build
from tests.foreign_weights import State, image_state, pointcontrast_state, sgd_state, wrapped
from training.image_weights import load_image_weights
from training.inflate import InflateSpec, InflationReport, inflate_state_dict
from training.minkowski import from_minkowski, heaviest_at_centre
from training.recipe import load_recipe
from training.run import start

SAVED_WITH_OLD_TORCH = {"_use_new_zipfile_serialization": False}
# where the taps of a HYBRID kernel of MinkowskiEngine 0.4.3 lie, as its function `convert_region_type` returns them
# fmt: off
HYBRID = [
    "+0+0+0", "-1+0+0", "+1+0+0", "+0-1+0", "+0+1+0", "-1-1+0", "-1+1+0", "+1-1+0", "+1+1+0",
    "+0+0-1", "+0+0+1", "-1+0-1", "-1+0+1", "+1+0-1", "+1+0+1", "+0-1-1", "+0-1+1", "+0+1-1",
    "+0+1+1", "-1-1-1", "-1-1+1", "-1+1-1", "-1+1+1", "+1-1-1", "+1-1+1", "+1+1-1", "+1+1+1",
]
# fmt: on
# and those of a HYPERCUBE: the first axis runs fastest, kernels of even size reach forward only
CUBE = [f"{x:+d}{y:+d}{z:+d}" for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]
FORWARD = ["+0+0+0", "+1+0+0", "+0+1+0", "+1+1+0", "+0+0+1", "+1+0+1", "+0+1+1", "+1+1+1"]


def inflated(path: Path, network: str, spec: InflateSpec | None = None) -> tuple[State, InflationReport, torch.nn.Module]:
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=4))
    spec = spec or InflateSpec()
    state, report = inflate_state_dict(load_image_weights(str(path), taps=spec.taps).tensors, net.state_dict(), spec)
    net.load_state_dict(state)
    assert all(name.startswith(("conv1.", "bn1.", "fc.", "fc_bn.")) for name in report.fresh if "num_batches" not in name)
    return state, report, net


def saved(path: Path, content: object, **how: bool) -> Path:
    torch.save(content, path, **how)
    return path


def assert_from_2d(state: State, source: State) -> None:
    """Along y every tap of the 3×3 repeats, its height lies along z and its width along x; a 1×1 is in all taps."""
    for name, tensor in source.items():
        if not name.startswith("layer"):
            continue
        if tensor.dim() != 4:
            assert torch.equal(state[name], tensor), name
        elif tensor.shape[-1] == 1:
            assert all(torch.equal(tap, tensor[:, :, 0, 0].t()) for tap in state[name]), name
        else:
            kernel = state[name].reshape(3, 3, 3, *state[name].shape[1:])
            for x, y, z in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist():
                assert torch.equal(kernel[x, y, z], tensor[:, :, z, x].t()), name
    assert {name for name in state if name.startswith("layer") and "num_batches" not in name} <= source.keys()


def test_imagenet_21k(tmp_path: Path) -> None:
    source = image_state("resnet50", 11221)
    state, report, _ = inflated(saved(tmp_path / "resnet50_miil_21k.pth", wrapped(source)), "resnet50")
    assert_from_2d(state, source)
    assert set(report.unused) == {"conv1.weight", "fc.weight", "fc.bias"}


@pytest.mark.parametrize("classes", [1000, 10000])
def test_fractaldb(tmp_path: Path, classes: int) -> None:
    source = image_state("cifar_resnet20", classes)
    path = saved(tmp_path / f"FractalDB-{classes}_resnet50_epoch90.pth", OrderedDict(source), **SAVED_WITH_OLD_TORCH)
    assert_from_2d(inflated(path, "cifar_resnet20")[0], source)
    beside = {"epoch": 91, "optimizer": sgd_state(source), "scheduler": {"milestones": Counter([30, 60]), "last_epoch": 90}}
    path = saved(tmp_path / f"FractalDB-{classes}_resnet50_epoch90.pth.tar", wrapped(source, **beside), **SAVED_WITH_OLD_TORCH)
    assert_from_2d(inflated(path, "cifar_resnet20")[0], source)


def test_stylized_imagenet(tmp_path: Path) -> None:
    source = image_state("cifar_resnet20", 1000, counted=False)
    beside = {"epoch": 60, "arch": "resnet50", "best_prec1": np.float64(60.2), "optimizer": sgd_state(source)}
    path = tmp_path / "resnet50_train_60_epochs-c8e5653e.pth.tar"
    saved(path, wrapped(source, "module.", **beside), **SAVED_WITH_OLD_TORCH)
    state, report, net = inflated(path, "cifar_resnet20")
    assert_from_2d(state, source)
    assert all(name.endswith("num_batches_tracked") or not name.startswith("layer") for name in report.fresh)
    assert net.state_dict()["layer1.0.bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize("lost", ["layer3.2.conv2.weight", "layer2.0.bn1.running_var"])
def test_a_missing_tensor_is_named(tmp_path: Path, lost: str) -> None:
    source = image_state("cifar_resnet20", 1000, counted=False)
    path = saved(tmp_path / "w.pth.tar", wrapped({name: tensor for name, tensor in source.items() if name != lost}, "module."))
    with pytest.raises(InflationError, match=f"1 tensors of the chosen parts are not in the weights: {lost}"):
        inflated(path, "cifar_resnet20")


class OldTensor:
    """A tensor as torch 0.3 wrote it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        storage = self.tensor._typed_storage()  # type: ignore[no-untyped-call]
        return torch._utils._rebuild_tensor, (storage, self.tensor.storage_offset(), self.tensor.size(), self.tensor.stride())


def test_tensors_as_torch_03_wrote_them_on_a_gpu(tmp_path: Path) -> None:
    tensor = torch.rand(4, 4, 3, 3)
    path = saved(tmp_path / "old.pth.tar", wrapped({"module.layer1.0.conv1.weight": OldTensor(tensor)}), **SAVED_WITH_OLD_TORCH)  # type: ignore[dict-item]
    here, there = b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n"
    content = path.read_bytes()
    assert here in content
    assert b"X\x03\x00\x00\x00cpu" in content
    path.write_bytes(content.replace(here, there).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert torch.equal(load_image_weights(str(path)).tensors["layer1.0.conv1.weight"], tensor)


def test_settings_and_scores_beside_the_weights_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class DictConfig:
        """A class of another package that must not be built."""

        def __setstate__(self, state: object) -> None:
            raise AssertionError("foreign code ran")

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = DictConfig  # type: ignore[attr-defined]
    settings = DictConfig()
    settings.__dict__.update(content={"lr": 0.1, "net": defaultdict(dict, a=1)}, type=dict)
    beside = {"config": settings, "args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float32(3), "rng": np.arange(3)}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, "omegaconf.dictconfig", module)
        for i, how in enumerate(({}, SAVED_WITH_OLD_TORCH)):
            saved(tmp_path / f"w{i}.pth", wrapped({"layer1.0.bn1.weight": torch.ones(4)}, **beside), **how)
    allowed = torch.serialization.get_safe_globals()
    for i in range(2):
        assert load_image_weights(str(tmp_path / f"w{i}.pth")).tensors.keys() == {"layer1.0.bn1.weight"}
    assert "omegaconf" not in sys.modules
    assert torch.serialization.get_safe_globals() == allowed


class Setting:
    pass


class Other:
    pass


@pytest.mark.parametrize("how", [{}, SAVED_WITH_OLD_TORCH])
def test_what_is_not_opened_is_named_with_a_way_round_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]) -> None:
    state = {"layer1.0.bn1.weight": torch.ones(4)}
    path = saved(tmp_path / "w.pth", wrapped(state, config=Setting(), other=Other()), **how)
    with pytest.raises(BadWeights, match=r"not a plain state dict: holds .*\.Setting.*which is more than tensors") as refused:
        load_image_weights(str(path))
    if not how:
        assert f"{__name__}.Other" in str(refused.value)
    line = str(refused.value).split('python -c "')[1].split('"')[0]
    assert "from PACKAGE import CLASS; " in line
    saved(path, wrapped(state, config=Setting()), **how)
    monkeypatch.chdir(tmp_path)
    with torch.serialization.safe_globals([Setting]):  # which takes back, at its end, what the line allows
        exec(line.replace("from PACKAGE import CLASS;", "").replace("FILE", path.name), {"CLASS": Setting})  # noqa: S102
    assert load_image_weights(str(tmp_path / "weights.pth")).tensors.keys() == state.keys()


class Evaluating:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


@pytest.mark.parametrize("how", [{}, SAVED_WITH_OLD_TORCH])
def test_nobody_is_told_how_to_let_python_itself_be_called(tmp_path: Path, how: dict[str, bool]) -> None:
    path = saved(tmp_path / "w.pth", wrapped({"w": torch.ones(1)}, config=Evaluating()), **how)
    with pytest.raises(BadWeights, match=r"holds builtins\.eval, of Python itself") as refused:
        load_image_weights(str(path))
    assert "python -c" not in str(refused.value)


def test_the_name_of_a_thing_never_becomes_part_of_a_command(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", wrapped({"w": torch.ones(1)}, config=Setting()), **SAVED_WITH_OLD_TORCH)
    named = f"c{__name__}\nSetting\n".encode()
    content = path.read_bytes()
    assert named in content
    for name in (b"ca;rm\nx\n", b"ca\x1b[31m\nx\n", b'ca"\n$(x)\n'):
        path.write_bytes(content.replace(named, name))
        with pytest.raises(BadWeights) as refused:
            load_image_weights(str(path))
        message = str(refused.value)
        assert "python -c" not in message
        assert "weights_only" not in message
        assert message.isprintable()


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="holds a thing of another package, not a state dict"):
        load_image_weights(str(saved(tmp_path / "w.pth", argparse.Namespace(lr=0.1))))
    with pytest.raises(BadWeights, match="holds no tensors"):
        load_image_weights(str(saved(tmp_path / "w.pth", wrapped({}, best=np.float64(3)))))


@pytest.fixture(scope="module")
def pointcontrast(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    source = pointcontrast_state()
    beside = {"curr_iter": 60_000, "optimizer": sgd_state(source), "scheduler": {"gamma": 0.99, "_last_lr": [0.1]}}
    return saved(tmp_path_factory.mktemp("weights") / "nce.pth", wrapped(source, **beside), **SAVED_WITH_OLD_TORCH), source


def test_every_stage_of_pointcontrast_is_copied(pointcontrast: tuple[Path, State]) -> None:
    path, source = pointcontrast
    state, report, _ = inflated(path, "res16unet34c")
    encoder = [name for name in source if name[:6] in {f"block{i}" for i in range(1, 5)} or name[:4] in {"bn2.", "bn3.", "bn4."}]
    encoder += ["conv2p2s2.kernel", "conv3p4s2.kernel", "conv4p8s2.kernel"]
    assert len(report.loaded) == len(encoder)
    assert set(report.unused) == source.keys() - set(encoder)
    assert len(report.copied) == 30 + 3 + 3
    assert torch.equal(state["layer3.0.downsample.0.weight"][0], source["block3.0.downsample.0.kernel"])
    assert torch.equal(state["layer4.5.bn2.running_var"], source["block4.5.norm2.bn.running_var"])
    assert torch.equal(state["ds3.1.bias"], source["bn4.bn.bias"])


def naive(
    coords: torch.Tensor, feats: torch.Tensor, kernel: torch.Tensor, taps: list[str], stride: int = 1
) -> dict[tuple[int, ...], torch.Tensor]:
    """out[c] = sum over taps of feats[stride * c + offset] @ kernel[tap], on cells that hold a voxel."""
    rows = {tuple(site): feats[row] for row, site in enumerate(coords[:, 1:].tolist())}
    found = {}
    for cell in {tuple(c // stride for c in site) for site in rows}:
        out = torch.zeros(kernel.shape[2])
        for matrix, tap in zip(kernel, taps, strict=True):
            offset = (int(tap[0:2]), int(tap[2:4]), int(tap[4:6]))
            site = tuple(stride * c + o for c, o in zip(cell, offset, strict=True))
            out += rows[site] @ matrix if site in rows else 0
        found[cell] = out
    return found


@pytest.mark.parametrize(
    ("name", "theirs", "taps", "stride"),
    [
        ("layer2.0.conv1.weight", "block2.0.conv1.kernel", HYBRID, 1),
        ("layer2.2.conv2.weight", "block2.2.conv2.kernel", HYBRID, 1),
        ("ds1.0.weight", "conv2p2s2.kernel", FORWARD, 2),
    ],
)
def test_copied_kernels_compute_what_minkowski_engine_does(
    pointcontrast: tuple[Path, State], name: str, theirs: str, taps: list[str], stride: int
) -> None:
    path, source = pointcontrast
    assert_same_convolution(load_image_weights(str(path)).tensors[name], source[theirs], taps, stride)


def test_files_of_minkowski_engine_05_have_cubes_only(pointcontrast: tuple[Path, State]) -> None:
    path, source = pointcontrast
    tensors = load_image_weights(str(path), taps="cube").tensors
    assert_same_convolution(tensors["layer1.1.conv2.weight"], source["block1.1.conv2.kernel"], CUBE, 1)
    assert_same_convolution(tensors["ds2.0.weight"], source["conv3p4s2.kernel"], FORWARD, 2)


def test_the_public_code_of_image2point_takes_taps_for_those_of_torchsparse(pointcontrast: tuple[Path, State]) -> None:
    path, source = pointcontrast
    tensors = load_image_weights(str(path), taps="reference").tensors
    assert_same_convolution(tensors["layer1.1.conv2.weight"], source["block1.1.conv2.kernel"], CUBE, 1)
    assert_same_convolution(tensors["ds2.0.weight"], source["conv3p4s2.kernel"], sorted(FORWARD), 2)


def assert_same_convolution(weight: torch.Tensor, kernel: torch.Tensor, taps: list[str], stride: int) -> None:
    """Our convolution with the weight on some voxels against the naive one with the kernel."""
    generator = torch.Generator().manual_seed(0)
    coords = torch.cartesian_prod(torch.zeros(1, dtype=torch.int32), *[torch.arange(-2, 3, dtype=torch.int32)] * 3)
    coords = coords[torch.rand(len(coords), generator=generator) < 0.4]
    feats = torch.randn(len(coords), kernel.shape[1], generator=generator)
    conv = SparseConv3d(kernel.shape[1], kernel.shape[2], 2 if stride == 2 else 3, stride)
    conv.load_state_dict({"weight": weight})
    with torch.no_grad():
        out = conv(sparse_tensor(coords, feats))
    expected = naive(coords, feats, kernel, taps, stride)
    cells = [tuple(cell) for cell in out.coords[:, 1:].tolist()]
    assert len(cells) == len(expected)
    for cell, found in zip(cells, out.feats, strict=True):
        torch.testing.assert_close(found, expected[cell], atol=1e-5, rtol=1e-5)


def test_the_heaviest_tap_tells_which_order_a_trained_file_is_in(pointcontrast: tuple[Path, State]) -> None:
    blocks = [
        name for name in pointcontrast[1] if name.startswith(("block1", "block2")) and name.endswith(("conv1.kernel", "conv2.kernel"))
    ]
    trained = {name: torch.cat([3 * pointcontrast[1][name][:1], pointcontrast[1][name][1:]]) for name in blocks}
    assert heaviest_at_centre(from_minkowski(trained, "hybrid").values()) == (10, 10)
    assert heaviest_at_centre(from_minkowski(trained, "cube").values()) == (0, 10)


def test_failures_of_3d_weights_are_loud(pointcontrast: tuple[Path, State]) -> None:
    _, source = pointcontrast
    target = build(NetworkSpec(name="res16unet34c", in_channels=3, num_classes=4)).state_dict()

    def refused(changed: State) -> str:
        with pytest.raises(InflationError) as error:
            inflate_state_dict(from_minkowski(changed, "hybrid"), target, InflateSpec())
        return str(error.value)

    assert "1 tensors of the chosen parts are not in the weights: layer4.5.conv2.weight" in refused(
        {name: tensor for name, tensor in source.items() if name != "block4.5.conv2.kernel"}
    )
    assert "ds2.1.running_mean" in refused({name: tensor for name, tensor in source.items() if name != "bn3.bn.running_mean"})
    found = refused(source | {"block1.0.conv1.kernel": torch.rand(7, 32, 32)})
    assert "layer1.0.conv1.weight" in found
    assert "shape (7, 32, 32), the 3D net wants (27, 32, 32)" in found
    assert "shape (27, 16, 32)" in refused(source | {"block1.0.conv1.kernel": torch.rand(27, 16, 32)})
    assert "shape (8, 32, 32)" in refused(source | {"block1.0.conv1.kernel": torch.rand(8, 32, 32)})
    with pytest.raises(InflationError, match=r"layer1\.0\.conv1\.weight.*wants \(27, 64, 64\)"):
        inflated(pointcontrast[0], "resnet18")


def test_a_recipe_starts_from_pointcontrast(pointcontrast: tuple[Path, State]) -> None:
    path, source = pointcontrast
    said = {"network": "res16unet34c", "weights": str(path)}
    begun = start(load_recipe("bundled-modelnet40", said), 3, None)
    assert begun.report is not None
    assert begun.report.copied
    weight = begun.net.state_dict()["layer1.0.conv1.weight"]  # (27, Cin, Cout), the centre in the middle
    assert torch.equal(weight[13], source["block1.0.conv1.kernel"][0])
    cube = start(load_recipe("bundled-modelnet40", {**said, "inflate.taps": "cube"}), 3, None)
    assert torch.equal(cube.net.state_dict()["layer1.0.conv1.weight"][13], source["block1.0.conv1.kernel"][13])
    with pytest.raises(InflationError, match="cannot be tied"):
        start(load_recipe("bundled-modelnet40", {**said, "inflate.tied": True}), 3, None)


def test_the_order_of_taps_leaves_recipes_without_it_as_they_were() -> None:
    assert "taps" not in InflateSpec().model_dump()
    assert InflateSpec(taps="cube").model_dump()["taps"] == "cube"


def test_show_says_what_fits(pointcontrast: tuple[Path, State], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "show", str(pointcontrast[0]), "--network", "res16unet34c"]) == 0
    out = capsys.readouterr().out
    assert "copied " in out
    assert "13 start fresh" in out
    assert "3D tensors unused: conv0p1s1.kernel" in out
    assert "heaviest at their centre" in out
    path = saved(tmp_path / "w.pth.tar", wrapped(image_state("resnet18", 1000, counted=False), "module."))
    assert run(["weights", "show", str(path), "--network", "resnet18"]) == 0
    assert "3 2D tensors unused" in capsys.readouterr().out
    assert run(["weights", "show", str(path), "--network", "res16unet34c"]) != 0
    assert "layer1.0.conv1.weight" in capsys.readouterr().err
