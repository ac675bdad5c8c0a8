"""`fip reproduce robustness` in small: a page of every checkpoint that was judged, from its record."""

import json
from pathlib import Path

import pytest

from models.cli import run
from tests.integration.test_train import fip_train
from training.reproduce.robustness import DAMAGES


def test_robustness(data: Path, image_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fip_train(data, image_file, tmp_path / "run", "--set", "epochs=6") == 0
    asked = [
        "reproduce",
        "robustness",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--model",
        str(tmp_path / "run" / "checkpoint"),
    ]
    assert run(asked) == 0
    record = json.loads((tmp_path / "out" / "robustness" / "checkpoint.json").read_text())
    assert record["accuracy"].keys() == DAMAGES.keys()
    assert record["clouds"] == 15
    whole = [levels[0] for levels in record["accuracy"].values()]
    assert whole == [json.loads((tmp_path / "run" / "checkpoint" / "metrics.json").read_text())["test_accuracy"]] * len(whole)
    page = (tmp_path / "out" / "robustness.md").read_text()
    assert "- checkpoint learnt from objects leaning by up to 10°, 50% of the clouds turned about the up axis" in page
    for kind, damage in DAMAGES.items():
        assert damage.title in page
        assert " | ".join(f"{100 * share:.1f}" for share in record["accuracy"][kind]) in page
    assert "<svg" in (tmp_path / "out" / "robustness" / "curves.svg").read_text()
    (tmp_path / "out" / "robustness.md").unlink()
    capsys.readouterr()
    assert run(asked) == 0  # from the record
    assert "batches" not in capsys.readouterr().err
    assert (tmp_path / "out" / "robustness.md").read_text() == page
    assert run([*asked[:-1], "modelnet40"]) != 0
    assert "other classes" in capsys.readouterr().err
