"""`fip models` on real registries: what each command does, prints and ends with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy

from models.cli import run
from models.registry import Catalogue, ModelVersion
from models.registry.local import LocalRegistry

BUNDLED = [str(entry) for name in Catalogue().names() for entry in Catalogue().versions(name)]


@pytest.fixture
def folder(tiny_registry: Path) -> Path:
    return tiny_registry / "tiny" / "1"


@pytest.fixture
def registry(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """parts 1 and 2; the champion is 2."""
    (tmp_path / "registry").mkdir()
    monkeypatch.setenv("FIP_REGISTRY", str(tmp_path / "registry"))
    for _ in range(2):
        assert run(["models", "publish", str(folder), "parts@champion"]) == 0
    return LocalRegistry(tmp_path / "registry")


def aliases(registry: LocalRegistry) -> dict[int, tuple[str, ...]]:
    return {model.version: model.aliases for model in registry.versions("parts")}


def spoil(registry: LocalRegistry, version: int) -> Path:
    path = registry.folder(ModelVersion("parts", version)) / "curve.png"
    path.write_bytes(path.read_bytes() + b"x")
    return path


def test_publish_and_list(registry: LocalRegistry, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "publish", str(folder), "more@candidate"]) == 0
    assert capsys.readouterr().out == "more:1 is more@candidate\n"
    assert run(["models", "list", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {*BUNDLED, "more:1", "parts:1", "parts:2"}
    assert rows["parts:2"]["aliases"] == ["champion"]
    assert rows["modelnet40:1"]["metrics"]["test_accuracy"] > 0.9
    assert run(["models", "list"]) == 0
    assert "modelnet40:1" in capsys.readouterr().out


def test_listing_needs_no_torch(registry: LocalRegistry) -> None:
    program = "import sys; from models.cli import run; assert run(['models', 'list']) == 0; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_damaged_version_is_listed_as_such(registry: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    (registry.root / "parts" / "1" / "manifest.json").write_text("{")
    (registry.root / "spoilt" / "1").mkdir(parents=True)
    (registry.root / "spoilt" / "aliases.json").write_text("[]")
    capsys.readouterr()
    assert run(["models", "list"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*BUNDLED, "parts:1", "parts:2", "spoilt"]
    assert ["BAD" in line for line in lines] == [*(False for _ in BUNDLED), True, False, True]


def test_show_prints_the_card(registry: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["models", "show", "models:/parts@champion"]) == 0
    shown = capsys.readouterr().out
    assert "parts:2" in shown
    assert "# tiny" in shown
    assert run(["models", "show", "modelnet40", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["manifest"]["provenance"]["weights_2d"] == "cifar10_resnet20.safetensors"
    assert facts["manifest"]["provenance"]["weights_2d_sha256"] in facts["card"]


def test_promote_compares_and_rollback_walks_back(registry: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "promote", "parts:1", "--expect", "1"]) == 4
    assert "alias_conflict" in capsys.readouterr().err
    assert aliases(registry) == {1: (), 2: ("champion",)}
    assert run(["models", "promote", "parts:1", "--expect", "2"]) == 0
    assert run(["models", "promote", "models:/parts/2", "--alias", "candidate", "--expect", "none"]) == 0
    assert aliases(registry) == {1: ("champion",), 2: ("candidate",)}
    assert run(["models", "promote", "parts:2"]) == 0
    assert run(["models", "rollback", "parts"]) == 0
    assert "parts@champion is parts:1, before it was version 2" in capsys.readouterr().out
    assert run(["models", "rollback", "parts"]) == 4


def test_what_is_damaged_is_not_promoted(registry: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    path = spoil(registry, 1)
    for command in (["promote", "parts:1"], ["rollback", "parts"]):
        assert run(["models", *command]) == 4
        assert str(path) in capsys.readouterr().err
    assert aliases(registry) == {1: (), 2: ("champion",)}


def test_verify_names_every_bad_one(registry: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "verify"]) == 0
    assert run(["models", "verify", "modelnet40"]) == 0
    spoil(registry, 1)
    (registry.root / "parts" / "2" / "README.md").unlink()
    capsys.readouterr()
    assert run(["models", "verify", "--json"]) == 4
    rows = {row["model"]: row["reason"] for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == {*BUNDLED, "parts:1", "parts:2"}
    assert rows["modelnet40:1"] is None
    assert "curve.png" in rows["parts:1"]
    assert "missing README.md" in rows["parts:2"]
    assert run(["models", "verify", "parts:9"]) == 4


def test_diff_finds_the_tensor(registry: LocalRegistry, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    tensors = safetensors.numpy.load_file(other / "model.safetensors")
    tensors["fc.bias"][1] += 0.5
    (other / "model.safetensors").write_bytes(safetensors.numpy.save(tensors))
    manifest = json.loads((other / "manifest.json").read_text())
    from models.artefact import sha256_of

    manifest["files"]["model.safetensors"] = sha256_of(other / "model.safetensors")
    manifest["input"]["voxel_size"] = 0.2
    manifest["metrics"] = {"note": 0.5}
    manifest["labels"] = ["chair", "table", "lamp"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert run(["models", "publish", str(other), "parts"]) == 0
    capsys.readouterr()
    assert run(["models", "diff", "parts:2", "parts:3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["weights"]["largest"] == {"fc.bias": pytest.approx(0.5)}
    assert (facts["weights"]["differ"], facts["weights"]["max_abs"]) == (1, pytest.approx(0.5))
    assert facts["input"] == {"voxel_size": [0.1, 0.2]}
    assert facts["labels"] == {"only_a": ["stool"], "only_b": ["lamp"], "order_differs": False}
    assert facts["metrics"] == {"note": [None, 0.5]}
    assert facts["network"] == facts["task"] == facts["provenance"] == {}
    assert run(["models", "diff", "parts:2", "modelnet40"]) == 0
    assert "num_classes: 3 | 40" in capsys.readouterr().out


def test_rm_spares_what_an_alias_points_at(registry: LocalRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "rm", "parts:2"]) == 4
    assert "champion" in capsys.readouterr().err
    assert run(["models", "rm", "parts:1"]) == 0
    assert aliases(registry) == {2: ("champion",)}
    assert run(["models", "rm", "parts:1"]) == 4


def test_wrong_usage(registry: LocalRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "promote", "parts"]) == 2
    assert run(["models", "promote", "parts:1", "--expect", "x"]) == 2
    assert run(["models", "list", "--registry", "/no/such/folder"]) == 2
    assert run(["models", "publish", str(folder), "parts:3"]) == 4
    assert run(["models", "rm", "Parts:3"]) == 4
    monkeypatch.delenv("FIP_REGISTRY")
    assert run(["models", "rm", "modelnet40:1"]) == 2
    assert "needs a registry" in capsys.readouterr().err
