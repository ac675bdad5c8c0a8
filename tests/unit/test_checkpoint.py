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
