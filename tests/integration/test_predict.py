"""`fip predict` and `fip doctor` on a real, untrained checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.cli import run
from models.io import read_cloud
from models.predictor import Predictor
from models.sparse.backends import engine_for


@pytest.fixture
def cloud_file(tmp_path: Path) -> Path:
    path = tmp_path / "cloud.npy"
    np.save(path, np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32))
    return path


@pytest.fixture
def use(tiny_registry: Path) -> list[str]:
    return ["predict", "--registry", str(tiny_registry), "--model", "tiny"]


def test_json_equals_the_predictor(use: list[str], cloud_file: Path, tiny_registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*use, "--json", "--top", "3", str(cloud_file)]) == 0
    row = json.loads(capsys.readouterr().out)
    predictor = Predictor.load(tiny_registry / "tiny" / "1")
    (answer,) = predictor.classify([predictor.voxelize(read_cloud(cloud_file))])
    assert [entry["index"] for entry in row["predictions"]] == answer.ranking.tolist()
    assert [entry["score"] for entry in row["predictions"]] == [float(answer.scores[i]) for i in answer.ranking]
    assert row["model"]["name"] == "tiny"
    assert row["model"]["version"] == "1"
    assert row["num_points"] == 2000
    assert row["num_voxels"] == answer.num_voxels


def test_a_folder_is_a_model_too(cloud_file: Path, tiny_registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--model", str(tiny_registry / "tiny" / "1"), str(cloud_file)]) == 0
    name, _, answer = capsys.readouterr().out.strip().rpartition(": ")
    assert name == str(cloud_file)
    assert answer.split()[0] in ("chair", "stool", "table")


def test_a_bad_file_does_not_stop_the_others(use: list[str], cloud_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, missing = tmp_path / "empty.ply", tmp_path / "missing.ply"
    empty.touch()
    assert run([*use, str(empty), str(missing), str(cloud_file)]) == 3
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == [str(cloud_file)]
    first, second = err.splitlines()
    assert first.startswith(f"error [empty_file]: {empty}: ")
    assert second.startswith(f"error [bad_file]: {missing}: cannot be opened: No such file")


def test_bad_files_have_a_line_of_json_too(use: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*use, "--json", str(tmp_path / "missing.ply")]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "bad_file"


@pytest.mark.parametrize("option", [["--unit", "mn"], ["--input-format", "plly"], ["--up", "w"], ["--top", "0"]])
def test_wrong_values_are_wrong_usage(use: list[str], cloud_file: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*use, *option, str(cloud_file)]) == 2
    assert option[0] in capsys.readouterr().err


def test_an_unknown_model_names_the_nearest(tiny_registry: Path, cloud_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--registry", str(tiny_registry), "--model", "tyny", str(cloud_file)]) == 4
    assert "error [unknown_model]: model: no model is called 'tyny'; did you mean 'tiny'?" in capsys.readouterr().err


def test_a_model_is_called_by_its_folder_in_a_registry(
    tiny_registry: Path, tmp_path: Path, cloud_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the service does; a folder given by its path has only the name in its manifest."""
    folder = tmp_path / "registry" / "renamed" / "3"
    shutil.copytree(tiny_registry / "tiny" / "1", folder)

    def ref(*use: str) -> tuple[str, str]:
        assert run(["predict", "--json", *use, str(cloud_file)]) == 0
        model = json.loads(capsys.readouterr().out)["model"]
        return model["name"], model["version"]

    assert ref("--registry", str(tmp_path / "registry"), "--model", "renamed") == ("renamed", "3")
    assert ref("--model", str(folder)) == ("tiny", "3")


def test_devices(use: list[str], cloud_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*use, "--device", "cpu", str(cloud_file)]) == 0
    capsys.readouterr()
    assert run([*use, "--device", "banana", str(cloud_file)]) == 2
    assert "no device 'banana' here (known: auto, cpu" in capsys.readouterr().err
    assert run(["doctor", "--json"]) in (0, 4)
    device = json.loads(capsys.readouterr().out)["device"]
    assert device["default"] == os.environ["FIP_DEVICE"]
    assert device["available"].split(", ")[0] == "cpu"


def test_doctor_reports_each_model_that_could_not_be_served(
    tiny_registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry"
    for name in ("aliases", "manifest", "network", "whole"):
        shutil.copytree(tiny_registry / "tiny", registry / name)
    (registry / "aliases" / "aliases.json").write_text("{")
    (registry / "manifest" / "1" / "manifest.json").write_text("{")
    manifest = registry / "network" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("cifar_resnet20", "cifar_resnet32"))  # digests hold, the weights do not fit
    assert run(["doctor", "--json", "--registry", str(registry)]) == 4
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert {name: models[name]["ok"] for name in ("aliases", "manifest", "network", "whole")} == {
        "aliases": False,
        "manifest": False,
        "network": False,
        "whole": True,
    }
    assert "aliases.json" in models["aliases"]["reason"]
    assert "tensors missing" in models["network"]["reason"]


def test_doctor_says_which_engine_and_finds_a_damaged_model(
    tiny_registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--json", "--registry", str(tiny_registry)]) == 0
    report = json.loads(capsys.readouterr().out)
    (chosen,) = [engine for engine in report["engines"] if engine["chosen"]]
    assert chosen["name"] == engine_for(os.environ["FIP_DEVICE"]).name
    assert all(engine["reason"] for engine in report["engines"])
    working = [engine for engine in report["engines"] if engine["works"]]
    assert {"torch", "reference"} <= {engine["name"] for engine in working}
    for engine in working:
        assert (engine["taps_right"], engine["max_rel_error"] < 1e-5, engine["forward_ms"] > 0) == (27, True, True)
    assert {"name": "tiny", "ok": True}.items() <= next(model for model in report["models"] if model["name"] == "tiny").items()

    damaged = tmp_path / "registry"
    shutil.copytree(tiny_registry, damaged)
    with (damaged / "tiny/1/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert run(["doctor", "--registry", str(damaged)]) == 4
    assert "ok=False" in capsys.readouterr().out


def test_doctor_reports_an_engine_that_there_is_not(
    tiny_registry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, name = ["doctor", "--registry", str(tiny_registry)], "touch"
    assert run([*command, "--json"]) == 0
    healthy = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("FIP_ENGINE", name)
    assert run([*command, "--json"]) == 4
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == healthy.keys()
    assert report["models"] == healthy["models"]
    assert not any(engine["chosen"] for engine in report["engines"])
    (entry,) = [engine for engine in report["engines"] if engine["name"] == name]
    reason = f"FIP_ENGINE asks for it: unknown engine '{name}'; did you mean 'torch'?"
    assert entry == {"name": name, "chosen": False, "works": False, "reason": reason}
    assert run(command) == 4
    assert f"  name={name}, chosen=False, works=False, reason=FIP_ENGINE asks for it: unknown" in capsys.readouterr().out


def test_doctor_reports_a_device_that_there_is_not(
    tiny_registry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still says everything else."""
    monkeypatch.setenv("FIP_DEVICE", "cuda:99")
    assert run(["doctor", "--registry", str(tiny_registry), "--json"]) == 4
    report = json.loads(capsys.readouterr().out)
    assert report["device"]["default"].startswith("FIP_DEVICE is refused: no device 'cuda:99' here")
    assert any(engine["chosen"] for engine in report["engines"])
    assert all(model["ok"] for model in report["models"])


def test_doctor_reports_an_engine_that_is_not_to_be_had(tiny_registry: Path, tmp_path: Path) -> None:
    """Native without a compiler and without what an earlier one left."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "FIP_NATIVE_LIBRARY")}
    fip = [sys.executable, str(Path(sys.executable).with_name("fip"))]
    done = subprocess.run(
        [*fip, "doctor", "--json", "--registry", str(tiny_registry)],
        env=kept | {"PATH": str(tmp_path), "FIP_CACHE": str(tmp_path / "cache"), "FIP_ENGINE": "native"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    report = json.loads(done.stdout)
    engines = {engine["name"]: engine for engine in report["engines"]}
    assert not any(engine["chosen"] for engine in engines.values())
    assert not engines["native"]["works"]
    assert engines["native"]["reason"].startswith("FIP_ENGINE asks for it: engine 'native' ")
    assert "no C compiler" in engines["native"]["reason"]
    assert engines["torch"]["works"]
    assert {"name": "tiny", "ok": True}.items() <= next(model for model in report["models"] if model["name"] == "tiny").items()
