"""A checkpoint comes back as it was saved, or is refused by name."""

import json
from pathlib import Path

import pytest
import torch

from models.checkpoint import load_checkpoint, save_checkpoint
from models.errors import BadCheckpoint
from models.manifest import Manifest
from models.predictor import Predictor
from models.zoo import build


@pytest.fixture
def saved(tmp_path: Path, tiny_registry: Path) -> tuple[Path, torch.nn.Module, Manifest]:
    manifest = load_checkpoint(tiny_registry / "tiny" / "1").manifest
    torch.manual_seed(3)
    net = build(manifest.network)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "metrics.json").write_text("{}")
    return tmp_path / "net", net, save_checkpoint(tmp_path / "net", net, manifest, "# card\n")


def test_round_trip(saved: tuple[Path, torch.nn.Module, Manifest]) -> None:
    folder, net, manifest = saved
    checkpoint = load_checkpoint(folder)
    assert checkpoint.manifest == manifest
    assert manifest.tied_filters == {}  # looked at, and random weights have none
    assert manifest.files.keys() == {"model.safetensors", "README.md", "metrics.json"}
    again = build(manifest.network)
    checkpoint.load_into(again)
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(again.state_dict()[name], tensor)


def test_half_rounds_kernels_and_keeps_norms(saved: tuple[Path, torch.nn.Module, Manifest], tmp_path: Path) -> None:
    _, net, manifest = saved
    save_checkpoint(tmp_path / "half", net, manifest, "# card\n", half=True)
    tensors = load_checkpoint(tmp_path / "half").tensors
    assert tensors["layer1.0.conv1.weight"].dtype == torch.float16
    assert tensors["layer1.0.bn1.running_var"].dtype == torch.float32
    loaded = Predictor.load(tmp_path / "half")._net
    assert torch.equal(loaded.get_parameter("fc.weight"), net.get_parameter("fc.weight").half().float())


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "metrics.json"])
def test_one_changed_bit_is_noticed(saved: tuple[Path, torch.nn.Module, Manifest], name: str) -> None:
    folder, _, _ = saved
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BadCheckpoint, match="differs from the digest") as caught:
        load_checkpoint(folder)
    assert name in str(caught.value)


def test_missing_and_surplus_files(saved: tuple[Path, torch.nn.Module, Manifest]) -> None:
    folder, _, _ = saved
    (folder / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BadCheckpoint, match=r"extra\.pkl"):
        load_checkpoint(folder)
    (folder / "extra.pkl").unlink()
    (folder / "metrics.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"metrics\.json"):
        load_checkpoint(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(BadCheckpoint, match="cannot read the manifest"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"labels": ["chair"]}, "1 labels for 3 classes"),
        ({"name": "../../etc"}, "name"),
    ],
)
def test_manifest_is_strict(saved: tuple[Path, torch.nn.Module, Manifest], change: dict[str, object], message: str) -> None:
    folder, _, _ = saved
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BadCheckpoint, match=message):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_are_not_saved(saved: tuple[Path, torch.nn.Module, Manifest], tmp_path: Path) -> None:
    _, net, manifest = saved
    with torch.no_grad():
        net.get_parameter("fc.weight")[0, 0] = torch.nan
    with pytest.raises(BadCheckpoint, match=r"fc\.weight; nothing is saved"):
        save_checkpoint(tmp_path / "nan", net, manifest, "# card\n")


def test_weights_must_fit_the_network(saved: tuple[Path, torch.nn.Module, Manifest]) -> None:
    folder, _, manifest = saved
    checkpoint = load_checkpoint(folder)
    with pytest.raises(BadCheckpoint, match="tensors missing"):
        checkpoint.load_into(build(manifest.network.model_copy(update={"name": "cifar_resnet32"})))
    with pytest.raises(BadCheckpoint, match=r"fc\.weight has shape \(3, 64\), the network wants \(9, 64\)"):
        checkpoint.load_into(build(manifest.network.model_copy(update={"num_classes": 9})))


def repeated(net: torch.nn.Module, weight: str, dim: int) -> None:
    """Make a 3×3×3 filter repeat itself along a dimension of space."""
    with torch.no_grad():
        cube = net.get_parameter(weight).unflatten(0, (3, 3, 3))
        cube.copy_(cube.narrow(dim, 1, 1).expand_as(cube).clone())


@pytest.mark.parametrize("half", [False, True])
def test_ties_are_recorded_as_stored_and_checked_when_loaded(
    saved: tuple[Path, torch.nn.Module, Manifest], tmp_path: Path, half: bool
) -> None:
    _, net, manifest = saved
    repeated(net, "layer1.0.conv1.weight", 1)
    repeated(net, "layer2.0.conv1.weight", 0)
    with torch.no_grad():  # tied once it is rounded to float16, which is what counts
        repeated(net, "layer3.0.conv2.weight", 2)
        rounded = net.get_parameter("layer3.0.conv2.weight")
        rounded.copy_(rounded.half())
        rounded[0] *= 1 + 1e-6
        net.get_parameter("fc.weight")[:] = 1  # not a convolution
    expected = {"layer1.0.conv1.weight": "y", "layer2.0.conv1.weight": "x"} | ({"layer3.0.conv2.weight": "z"} if half else {})
    written = save_checkpoint(tmp_path / "tied", net, manifest, "# card\n", half=half)
    assert written.tied_filters == expected
    checkpoint = load_checkpoint(tmp_path / "tied")
    assert checkpoint.manifest.tied_filters == expected
    checkpoint.load_into(build(manifest.network))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"layer1.0.conv1.weight": "x"}, r"layer1\.0\.conv1\.weight is recorded as tied along x, its filters repeat along y"),
        ({"layer1.0.conv1.weight": "xy"}, r"layer1\.0\.conv1\.weight is recorded as tied along xy"),
        ({"layer1.0.conv2.weight": "y"}, r"layer1\.0\.conv2\.weight is recorded as tied along y, its filters repeat along no axis"),
        ({"layer9.weight": "y"}, r"layer9\.weight is recorded as tied"),
        ({"fc.weight": "y"}, r"fc\.weight is recorded as tied"),
        ({"layer1.0.conv1.weight": "yx"}, r"tied_filters\.layer1\.0\.conv1\.weight"),
        ({}, None),  # promises nothing
        (None, None),  # from before there was a record
    ],
)
def test_a_tie_that_the_weights_do_not_have_is_refused(
    saved: tuple[Path, torch.nn.Module, Manifest], tmp_path: Path, claim: dict[str, str] | None, message: str | None
) -> None:
    _, net, manifest = saved
    repeated(net, "layer1.0.conv1.weight", 1)
    folder = tmp_path / "tied"
    save_checkpoint(folder, net, manifest, "# card\n")
    content = json.loads((folder / "manifest.json").read_text())
    assert content.pop("tied_filters") == {"layer1.0.conv1.weight": "y"}
    if claim is not None:
        content["tied_filters"] = claim
    (folder / "manifest.json").write_text(json.dumps(content))
    if message is None:
        Predictor.load(folder)
        assert ("tied_filters" in load_checkpoint(folder).manifest.model_dump(mode="json")) == (claim is not None)
        return
    with pytest.raises(BadCheckpoint, match=message):
        Predictor.load(folder)


def test_a_net_with_tied_filters_comes_back(saved: tuple[Path, torch.nn.Module, Manifest], tmp_path: Path) -> None:
    _, _, manifest = saved
    network = manifest.network.model_copy(update={"tied": "z"})
    torch.manual_seed(4)
    net = build(network)
    written = save_checkpoint(tmp_path / "net", net, manifest.model_copy(update={"network": network}), "# card\n")
    assert written.tied_filters is not None
    assert set(written.tied_filters.values()) == {"z"}
    assert len(written.tied_filters) == 18
    predictor = Predictor.load(tmp_path / "net")
    assert predictor.manifest.network.tied == "z"
    assert torch.equal(predictor._net.get_parameter("layer1.0.conv1.weight"), net.get_parameter("layer1.0.conv1.weight"))
    with pytest.raises(BadCheckpoint, match=r"has shape \(9, 16, 16\), the network wants \(27, 16, 16\)"):
        load_checkpoint(tmp_path / "net").load_into(build(manifest.network))
