"""`fip reproduce` in small: real trainings of an inflated ResNet20 in processes, their records, pages of them, and trials again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.cli import run as fip
from tests.fire import until
from training.reproduce.pages import write_pages
from training.reproduce.runner import Places, Records, run
from training.reproduce.search import FIRST, Group, missing_of

ARMS = ("scratch", "fip-iobn", "fip-io-recalibrated")
GROUP = Group("cifar_resnet20", 4, 2, ARMS, seeds=2, curve=True)

LONG = Group("cifar_resnet20", 4, 4000, ("scratch",), seeds=1)


@pytest.fixture(scope="module")
def places(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("reproduced")
    (folder / "weights").mkdir()
    shutil.copy(image_file, folder / "weights" / "cifar10_resnet20.safetensors")
    found = Places(data, folder / "weights", folder / "trials", folder / "runs")
    assert run(lambda known: missing_of(GROUP, known), found, jobs=2)
    return found


def test_every_trial_leaves_one_record(places: Places) -> None:
    records = {path.stem: json.loads(path.read_text()) for path in places.records.rglob("*.json")}
    assert len(records) >= len(ARMS) * (len(FIRST) + GROUP.seeds)
    for name, record in records.items():
        assert (record["test"] is None) == ("search" in name)
        assert 0 <= record["held_out"] <= 1
        assert [row["epoch"] for row in record["curve"]] == [1, 2]
        assert all(("val_accuracy" in row) == ("search" not in name) for row in record["curve"])
        assert (record["inputs"]["weights"] is None) == ("scratch" in name)
        assert (record["trained"] == record["parameters"]) == ("scratch" in name)
    assert not list(places.runs.rglob("state.pt"))


def test_nothing_is_computed_twice(places: Places) -> None:
    before = {path: path.stat().st_mtime_ns for path in places.records.rglob("*.json")}
    assert run(lambda known: missing_of(GROUP, known), places, jobs=1)
    assert before == {path: path.stat().st_mtime_ns for path in places.records.rglob("*.json")}


def test_records_of_other_data_do_not_count(places: Places, tmp_path: Path) -> None:
    shutil.copytree(places.records, tmp_path / "trials")
    path = next((tmp_path / "trials").rglob("scratch*seed0.json"))
    path.write_text(path.read_text().replace(json.loads(path.read_text())["inputs"]["train"], "0" * 64))
    records = Records(tmp_path / "trials", places.inputs())
    assert [trial.name for trial in missing_of(GROUP, records.known)] == [f"{path.parent.name}/{path.stem}"]


def test_a_page_says_what_the_records_say(places: Places, tmp_path: Path) -> None:
    known = Records(places.records, places.inputs()).known
    (path,) = write_pages(["modes"], known, tmp_path, {"modes": (GROUP,)})
    page = path.read_text()
    tests = [100 * json.loads(each.read_text())["test"] for each in places.records.rglob("scratch*seed[0-9].json")]
    assert f"{sum(tests) / 2:.2f} ± " in page
    assert "2 of 2" in page
    assert all(f"](modes/{picture.name})" in page for picture in (tmp_path / "modes").iterdir())
    assert write_pages(["modes"], known, tmp_path, {"modes": (GROUP,)})[0].read_text() == page


def test_when_the_time_is_over_what_runs_is_saved(places: Places, tmp_path: Path) -> None:
    """And the same command goes on from there."""
    elsewhere = Places(places.data, places.weights, tmp_path / "trials", tmp_path / "runs")
    assert not run(lambda known: missing_of(LONG, known), elsewhere, jobs=1, until=time.monotonic() + 15)
    (state,) = (tmp_path / "runs").rglob("state.pt")
    before = state.stat().st_mtime_ns
    assert not run(lambda known: missing_of(LONG, known), elsewhere, jobs=1, until=time.monotonic() + 15)
    assert state.stat().st_mtime_ns > before
    assert "going on after epoch" in next((tmp_path / "runs").rglob("log.txt")).read_text()


def test_one_trial_again_is_compared_with_its_record(places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def again(seed: int, out: str, runs: str) -> str:
        name = f"cifar_resnet20-1shot/scratch-100e-lr0.1-seed{seed}"
        folders = ["--data", places.data, "--weights", places.weights, "--out", tmp_path / out, "--run-dir", tmp_path / runs]
        assert fip(["reproduce", "--trial", name, *map(str, folders)]) == 0
        return capsys.readouterr().out

    assert "recorded" not in again(0, "results", "first")
    again(1, "results", "first")
    shutil.copytree(tmp_path / "first" / "again", tmp_path / "results" / "trials")
    said = again(0, "results", "second")
    assert "recorded: held-out" in said
    assert "+0.00 of the standard deviation over the 2 seeds on record" in said


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_what_runs_is_saved_when_the_command_is_killed(places: Places, tmp_path: Path, kind: signal.Signals) -> None:
    code = f"""
from pathlib import Path
from tests.integration.test_reproduce import LONG, Places, missing_of, run
if __name__ == "__main__":
    places = Places(Path({str(places.data)!r}), Path({str(places.weights)!r}), Path("trials"), Path("runs"))
    run(lambda known: missing_of(LONG, known), places, jobs=1)
"""
    script = tmp_path / "go.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)})
    until(lambda: any("epoch 2:" in log.read_text() for log in tmp_path.rglob("log.txt")), "it trains", give_up_s=90)
    parent.send_signal(kind)
    parent.wait(60)
    until(lambda: any(tmp_path.rglob("state.pt")), "it is saved", give_up_s=60)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fewshots"], "did you mean 'fewshot'"),
        (["fewshot"], "--data and --weights are needed"),
        (["fewshot", "--budget", "2d"], "not a time such as 2h"),
        (["fewshot", "--data", ".", "--weights", "."], "bad_dataset"),
        (["--trial", "resnet18-10shot/nothing", "--data", ".", "--weights", "."], "no table has such a trial"),
    ],
)
def test_wrong_calls_say_why(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fip(["reproduce", *args])
    assert message in capsys.readouterr().err
