"""`fip predict` and `fip doctor` on a real, untrained checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.cli import run
from models.io import read_cloud
from models.predictor import Predictor


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


def test_doctor_says_which_engine_and_finds_a_damaged_model(
    tiny_registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--json", "--registry", str(tiny_registry)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [engine["name"] for engine in report["engines"] if engine["chosen"]] == ["torch"]
    assert all(engine["reason"] for engine in report["engines"])
    assert {"name": "tiny", "ok": True}.items() <= next(model for model in report["models"] if model["name"] == "tiny").items()

    damaged = tmp_path / "registry"
    shutil.copytree(tiny_registry, damaged)
    with (damaged / "tiny/1/model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert run(["doctor", "--registry", str(damaged)]) == 4
    assert "ok=False" in capsys.readouterr().out
