"""`fip reproduce` in small: real trainings of an inflated ResNet20 in processes, their records, pages of them, and trials again."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from models.cli import run as fip
from models.errors import BadOption
from tests.fire import until
from training.reproduce import train
from training.reproduce.arms import ARMS as ARMS_OF_TRIALS
from training.reproduce.pages import write_pages
from training.reproduce.records import Records
from training.reproduce.runner import Places, run
from training.reproduce.search import FIRST, Group, missing_of
from training.reproduce.train import train_trial
from training.reproduce.trial import Trial
from training.runlog import read_scalars
from training.runstate import held

ARMS = ("scratch", "fip-iobn", "fip-io-recalibrated")
GROUP = Group("cifar_resnet20", 4, 2, ARMS, seeds=2, curve=True)

LONG = Group("cifar_resnet20", 4, 4000, ("scratch",), seeds=1)


@pytest.fixture(scope="module")
def places(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    folder = tmp_path_factory.mktemp("reproduced")
    (folder / "weights").mkdir()
    shutil.copy(image_file, folder / "weights" / "cifar10_resnet20.safetensors")
    found = Places(data, folder / "weights", folder / "trials", folder / "runs")
    assert run(lambda known: missing_of(GROUP, known), found, jobs=2).whole
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
    assert not [path for path in places.runs.rglob("*") if path.is_file() and path.parent.name != "cache"]


def test_nothing_is_computed_twice(places: Places) -> None:
    before = {path: path.stat().st_mtime_ns for path in places.records.rglob("*.json")}
    assert run(lambda known: missing_of(GROUP, known), places, jobs=1).whole
    assert before == {path: path.stat().st_mtime_ns for path in places.records.rglob("*.json")}


def test_what_is_of_another_recipe_is_trained_again(places: Places, tmp_path: Path) -> None:
    """Where the same trial was trained before, too."""
    copy = replace(places, records=tmp_path / "trials")
    shutil.copytree(places.records, copy.records)
    path = next(copy.records.rglob("scratch*seed0.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"inputs": record["inputs"] | {"recipe": "0" * 64}}))
    assert run(lambda known: missing_of(GROUP, known), copy, jobs=1).whole
    again = json.loads(path.read_text())
    assert [again[key] for key in ("inputs", "test", "held_out")] == [record[key] for key in ("inputs", "test", "held_out")]


def test_records_of_other_data_are_not_mixed_with_ours(places: Places, tmp_path: Path) -> None:
    copy = replace(places, records=tmp_path / "trials")
    shutil.copytree(places.records, copy.records)
    for path in copy.records.rglob("*.json"):
        path.write_text(path.read_text().replace(json.loads(path.read_text())["inputs"]["train"], "0" * 64))
    with pytest.raises(BadOption, match=r"another train .* than yours; choose another --out"):
        run(lambda known: missing_of(GROUP, known), copy, jobs=1)
    missing_of(GROUP, Records(copy.records).known)  # pages are made of them all the same
    one = next(copy.records.rglob("*.json"))
    one.write_text(one.read_text().replace("0" * 64, "1" * 64))
    with pytest.raises(BadOption, match="the record is of another train of modelnet40 than"):
        missing_of(GROUP, Records(copy.records).known)


def test_records_of_the_other_up_axis_are_not_overwritten(places: Places, tmp_path: Path) -> None:
    copy = replace(places, records=tmp_path / "trials", up="y")
    shutil.copytree(places.records, copy.records)
    with pytest.raises(BadOption, match="of files whose z is up; choose another --out"):
        run(lambda known: missing_of(GROUP, known), copy, jobs=1)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"inputs": {}}'])
def test_what_is_no_record_is_trained_again(places: Places, tmp_path: Path, text: str) -> None:
    shutil.copytree(places.records, tmp_path / "trials")
    path = next((tmp_path / "trials").rglob("scratch*seed0.json"))
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | json.loads(text)) if text.startswith('{"') else text)
    assert [trial.name for trial in missing_of(GROUP, Records(tmp_path / "trials").known)] == [known["trial"]]


def test_what_another_command_trains_is_left_to_it(places: Places, tmp_path: Path) -> None:
    """And done by us where that one leaves nothing behind."""
    trials = [Trial("cifar_resnet20", 4, 1, "scratch", 0.1, seed) for seed in (7, 8)]
    elsewhere = replace(places, records=tmp_path / "trials", runs=tmp_path / "runs")
    theirs = ExitStack()
    theirs.enter_context(held(elsewhere.run_dir(trials[0], elsewhere.inputs())))
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(leave, theirs, elsewhere.records / f"{trials[1].name}.json")
        assert run(lambda known: [trial for trial in trials if known(trial) is None], elsewhere, jobs=1).whole
    assert left.result()
    assert all(Records(elsewhere.records).known(trial) for trial in trials)


def leave(theirs: ExitStack, other: Path) -> bool:
    until(other.exists, "the other trial is done", give_up_s=90)
    theirs.close()
    return True


def test_a_student_learns_what_its_teacher_says(places: Places, tmp_path: Path) -> None:
    """Of the clouds that few shots leave; and votes are scored with and without."""
    trial = Trial("cifar_resnet20", 2, 1, "shaped-distilled+votes", 0.1, 0)
    elsewhere = replace(places, records=tmp_path / "trials", runs=tmp_path / "runs")
    assert run(lambda known: [] if known(trial) else [trial], elsewhere, jobs=1).whole
    found = Records(elsewhere.records).known(trial)
    assert found is not None
    assert found.unvoted is not None
    assert found.teacher is not None
    alone = replace(trial, arm="fip-all", seed=1)
    assert run(lambda known: [] if known(alone) else [alone], elsewhere, jobs=1).whole
    other = Records(elsewhere.records).known(alone)
    assert other is not None
    assert other.unvoted is other.teacher is None
    assert found.cpu_seconds > other.cpu_seconds  # an epoch of all clouds, not of two a class


@pytest.mark.parametrize("moment", ["taught", "_scored"])
def test_a_stop_between_teacher_and_student_changes_nothing(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before the teacher speaks, or when it is to be scored: it is not trained again, and the student learns the same."""
    trial, inputs = Trial("cifar_resnet20", 2, 1, "shaped-distilled", 0.1, 0), places.inputs()
    whole = train_trial(trial, inputs, tmp_path / "whole")

    def stop(*args: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            train_trial(trial, inputs, tmp_path / "stopped")
    epochs = read_scalars(tmp_path / "stopped" / "teacher")
    found = train_trial(trial, inputs, tmp_path / "stopped")
    assert read_scalars(tmp_path / "stopped" / "teacher") == epochs  # with the seconds that each took
    same = ("test", "held_out", "teacher", "trained", "inputs")
    assert [getattr(found, each) for each in same] == [getattr(whole, each) for each in same]


def test_a_trial_that_leaves_no_record_is_told_and_not_begun_again(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the sources changed meanwhile: its process trains another recipe by that name."""
    monkeypatch.setitem(ARMS_OF_TRIALS, "scratch", ARMS_OF_TRIALS["scratch"] | {"label_smoothing": 0.5})
    trial = Trial("cifar_resnet20", 4, 1, "scratch", 0.1, 99)
    outcome = run(lambda known: [trial], replace(places, records=tmp_path / "trials", runs=tmp_path / "runs"), jobs=1)
    assert outcome.failed == {trial.name: "no record was written"}
    assert f"{trial.name}: no record was written" in capsys.readouterr().out


def test_a_page_says_what_the_records_say(places: Places, tmp_path: Path) -> None:
    """With neither data nor weights at hand."""
    known = Records(places.records).known
    (path,) = write_pages(["modes"], known, tmp_path, {"modes": (GROUP,)})
    page = path.read_text()
    tests = [100 * json.loads(each.read_text())["test"] for each in places.records.rglob("scratch*seed[0-9].json")]
    assert f"{sum(tests) / 2:.2f} ± " in page
    assert "2 of 2" in page
    assert "`cifar10_resnet20.safetensors` (sha256 " in page
    assert all(f"](modes/{picture.name})" in page for picture in (tmp_path / "modes").iterdir())
    assert write_pages(["modes"], known, tmp_path, {"modes": (GROUP,)})[0].read_text() == page


def test_when_the_time_is_over_what_runs_is_saved(places: Places, tmp_path: Path) -> None:
    """And the same command goes on from there."""
    elsewhere = replace(places, records=tmp_path / "trials", runs=tmp_path / "runs")
    assert not run(lambda known: missing_of(LONG, known), elsewhere, jobs=1, until=time.monotonic() + 15).whole
    (state,) = (tmp_path / "runs").rglob("state.pt")
    before = state.stat().st_mtime_ns
    assert not run(lambda known: missing_of(LONG, known), elsewhere, jobs=1, until=time.monotonic() + 15).whole
    assert state.stat().st_mtime_ns > before
    assert "going on after epoch" in next((tmp_path / "runs").rglob("log.txt")).read_text()


def test_one_trial_again_is_compared_with_its_record(places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def again(seed: int) -> tuple[int, str]:
        name = f"cifar_resnet20-1shot/scratch-100e-lr0.1-seed{seed}"
        folders = ["--data", places.data, "--weights", places.weights, "--out", tmp_path / "results", "--run-dir", tmp_path / "runs"]
        return fip(["reproduce", "--trial", name, *map(str, folders)]), capsys.readouterr().out

    records = tmp_path / "results" / "trials"
    for seed in (1, 0):
        assert "there is no record of it" in again(seed)[1]
        name = f"cifar_resnet20-1shot-scratch-100e-lr0.1-seed{seed}"
        shutil.copytree(tmp_path / "runs" / "again" / name / "trials", records, dirs_exist_ok=True)
    code, said = again(0)  # in the same folder, and yet anew
    assert code == 0
    assert "recorded: held-out" in said
    assert "+0.00 of the standard deviation over the 2 seeds on record" in said
    for seed, path in enumerate(sorted(records.rglob("*.json"))):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"test": 2 + 0.01 * seed}))
    assert again(0)[0] != 0  # far off
    path = next(records.rglob("*seed0.json"))
    path.write_text(path.read_text().replace(json.loads(path.read_text())["inputs"]["test"], "0" * 64))
    assert "the record is of another test: they are not compared" in again(0)[1]


def test_a_reported_trial_that_diverges_counts_as_a_guess(places: Places, tmp_path: Path) -> None:
    wild = Trial("cifar_resnet20", 4, 3, "scratch", 1e38, 0)
    elsewhere = replace(places, records=tmp_path / "trials", runs=tmp_path / "runs")
    assert run(lambda known: [] if known(wild) else [wild], elsewhere, jobs=1).whole
    found = Records(elsewhere.records).known(wild)
    assert found is not None
    assert found.diverged
    assert found.test == pytest.approx(1 / 3)


def test_what_fails_is_told_and_does_not_end_the_others(places: Places, tmp_path: Path) -> None:
    """A trial of more shots than there are clouds, one whose weights are not here, and a process that dies."""
    several = [Trial("cifar_resnet20", 4000, 1, "scratch", 0.1, 0), Trial("resnet18", 4, 1, "scratch", 0.1, 0)]
    several += [Trial("cifar_resnet20", 4, 2000, "scratch", 0.1, 0), Trial("cifar_resnet20", 4, 1, "scratch", 0.1, 0)]
    elsewhere = replace(places, records=tmp_path / "trials", runs=tmp_path / "runs")
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_who_trains, tmp_path / "runs")
        outcome = run(lambda known: [trial for trial in several if known(trial) is None], elsewhere, jobs=1)
    assert killed.result()
    assert not outcome.whole
    assert outcome.untrained == 1
    assert "4000 shots asked for" in outcome.failed[several[0].name]
    assert "its process died, exit code -9" in outcome.failed[several[2].name]
    assert len(outcome.failed) == 2
    assert Records(elsewhere.records).known(several[3])


def kill_who_trains(runs: Path) -> bool:
    until(lambda: any("epoch 2:" in log.read_text() for log in runs.rglob("log.txt")), "it trains", give_up_s=90)
    for child in multiprocessing.active_children():
        child.kill()
    return True


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
