"""`fip predict IN_DIR OUT_DIR --resume`: every cloud of a folder once, whatever stops it or was there before."""

import os
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from models.cli import run
from models.durable import locked
from models.io import read_cloud
from tests.predicting import ANSWERS, CLOUDS, JOURNAL, Capture, command, contents, done_lines, files_of, refused, rows, save_cloud, summary


def test_what_is_there_is_not_labelled_again(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    asked = [*use, str(scans), str(out), "--format", "same", "--json"]
    assert run([*asked, "--resume"]) == 0  # where nothing is yet
    first = summary(capsys.readouterr().out)
    before = {name: (out / name).stat().st_mtime_ns for name in ANSWERS}
    assert run([*asked, "--resume"]) == 0
    *files, last = rows(capsys.readouterr().out)
    assert all(row["skipped"] for row in files)
    assert {row["file"]: row["num_points"] for row in files} == {str(scans / name): points for name, points in CLOUDS.items()}
    assert (last["summary"]["labelled"], last["summary"]["skipped"], last["summary"]["points"]) == (0, 5, 0)
    assert last["summary"]["classes"] == first["classes"]  # of all files that have an answer
    assert {name: (out / name).stat().st_mtime_ns for name in ANSWERS} == before

    save_cloud(scans / "a.bin", 800, 9)  # another cloud
    os.utime(scans / "b.npy", ns=(1, 1))
    (out / "e.labelled.las").unlink()
    save_cloud(scans / "new.bin", 10)
    assert run([*asked, "--resume"]) == 0
    files = rows(capsys.readouterr().out)[:-1]
    assert {Path(row["file"]).name for row in files if "skipped" not in row} == {"a.bin", "b.npy", "e.las", "new.bin"}
    assert (out / "a.label").stat().st_size == 3200
    assert files_of(out) == ANSWERS | {"new.label"}

    save_cloud(scans / "last.bin", 20)
    assert run([*asked[:-1], "--resume"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in told if line.startswith("points labelled now ")] == ["20"]
    assert [line.split()[-2:] for line in told if line.startswith("class (all files) ")] == [["points", "share"]]


def test_without_resume_what_is_there_is_refused(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    asked = [*use, str(scans), str(out), "--format", "same"]
    save_cloud(out / "e.labelled.las", 7)
    assert "exists; --force replaces it, and --resume goes on" in refused(asked, capsys)
    assert "was not written by the run to resume; --force replaces it" in refused([*asked, "--resume"], capsys)
    assert files_of(out) == {"e.labelled.las"}
    assert not (out / JOURNAL).exists()
    assert run([*asked, "--force"]) == 0
    assert len(read_cloud(out / "e.labelled.las")) == 300
    capsys.readouterr()
    assert "which labelled 5 files; --resume goes on with it, --force starts over" in refused(asked, capsys)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--model", "roads"], "the model was streets:1 (sha256 "),
        (["--format", "npz"], "format was same, and is now npz"),
        (["--up", "y"], "up was not said, and is now y"),
        (["--tile-voxels", "5000"], "tile_voxels was 1000000, and is now 5000"),
        (["--tile-halo", "3"], "tile_halo was not said, and is now 3"),
        (["--precision", "bf16"], "precision was fp32, and is now bf16"),
    ],
)
def test_another_run_is_not_resumed(
    use: list[str], tmp_path: Path, out: Path, options: list[str], difference: str, capsys: Capture
) -> None:
    save_cloud(tmp_path / "in" / "a.bin", 50)
    asked = [*use, str(tmp_path / "in"), str(out), "--format", "same"]
    assert run(asked) == 0
    capsys.readouterr()
    said = refused([*asked, *options, "--resume"], capsys)
    assert difference in said
    assert "--force starts over" in said
    assert run([*asked, *options, "--resume", "--force", "--json"]) == 0
    assert summary(capsys.readouterr().out)["labelled"] == 1
    assert run([*asked, *options, "--resume", "--json"]) == 0
    assert summary(capsys.readouterr().out)["skipped"] == 1


def test_a_run_that_started_over_may_replace_when_it_is_resumed(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    asked = [*use, str(scans), str(out), "--format", "same"]
    assert run(asked) == 0
    assert run([*asked, "--model", "roads", "--force"]) == 0
    whole = contents(out)
    lines = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    assert run([*asked, "--force"]) == 0
    (out / JOURNAL).write_bytes(b"".join(lines[:3]))  # as if `roads` had been stopped after the first file
    assert run([*asked, "--model", "roads", "--resume"]) == 0
    assert contents(out).keys() == whole.keys()
    assert all(contents(out)[name] == whole[name] for name in whole if name != "a.label")


@pytest.mark.parametrize("state", ["torn", "answered", "part", "torn head", "empty"])
def test_every_state_that_a_crash_leaves(use: list[str], scans: Path, out: Path, state: str, capsys: Capture) -> None:
    asked = [*use, str(scans), str(out), "--format", "same", "--json"]
    assert run(asked) == 0
    whole, journal = contents(out), (out / JOURNAL).read_bytes()
    lines = journal.splitlines(keepends=True)
    assert len(lines) == 11
    left = 1
    if state == "torn":
        (out / JOURNAL).write_bytes(journal[:-9])
    elif state == "answered":
        (out / JOURNAL).write_bytes(b"".join(lines[:-1]))
    elif state == "part":
        (out / JOURNAL).write_bytes(b"".join(lines[:-1]))
        (out / "deep/er/c.labelled.ply").rename(out / "deep/er/.c.labelled.ply.part")
    else:
        left = 5
        (out / JOURNAL).write_bytes(lines[0][:20] if state == "torn head" else b"")
        for name in ANSWERS:
            (out / name).unlink()
    capsys.readouterr()
    assert run([*asked, "--resume"]) == 0
    found = summary(capsys.readouterr().out)
    assert (found["labelled"], found["skipped"]) == (left, 5 - left)
    assert contents(out) == whole
    assert set(done_lines(out).values()) == {1}
    assert run([*asked, "--resume"]) == 0
    assert summary(capsys.readouterr().out)["skipped"] == 5


def test_a_damaged_journal_is_told(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    asked = [*use, str(scans), str(out), "--format", "same"]
    assert run(asked) == 0
    lines = (out / JOURNAL).read_text().splitlines()
    (out / JOURNAL).write_text("\n".join([*lines[:2], "nonsense", *lines[3:], ""]))
    capsys.readouterr()
    assert run([*asked, "--resume"]) == 3
    assert f"{out / JOURNAL}:3: this line of the journal cannot be understood; --force starts over" in capsys.readouterr().err
    assert run([*asked, "--force"]) == 0


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(use: list[str], tmp_path: Path, out: Path) -> None:
    """A real process, killed as soon as a number of answers has its name, and with half-written ones in between."""
    names = {f"{number % 3}/{number:02}.bin" for number in range(30)}
    for number, name in enumerate(sorted(names)):
        save_cloud(tmp_path / "in" / name, 3000, number)
    asked = command(use, str(tmp_path / "in"), str(out), "--format", "ply", "--resume")
    for wanted in (1, 4, 9, 17):
        with subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline and len(list(out.rglob("[0-9]*.ply"))) < wanted:
                time.sleep(0.0005 * wanted)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert wanted <= len(list(out.rglob("[0-9]*.ply"))) < 30
    done = subprocess.run([*asked, "--json"], capture_output=True, text=True, check=True)
    assert summary(done.stdout)["labelled"] + summary(done.stdout)["skipped"] == 30
    assert files_of(out) == {name.replace(".bin", ".ply") for name in names}  # and no half-written one is left
    assert done_lines(out) == Counter(names)
    assert run([*use, str(tmp_path / "in"), str(tmp_path / "at once")]) == 0
    assert contents(out) == contents(tmp_path / "at once")


def test_a_disk_with_no_room_stops_it(use: list[str], scans: Path, out: Path) -> None:
    """As the system says it of a file that may not grow: a limit of the process stands for a small disk."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    asked = command(use, str(scans), str(out), "--format", "same")
    stopped = subprocess.run(asked, preexec_fn=small, capture_output=True, text=True, check=False)
    assert stopped.returncode == 2, stopped.stderr
    assert f"Error: {out / 'b.labelled.npy'}: cannot be written: " in stopped.stderr
    assert "with --resume the same command goes on from here" in stopped.stderr
    assert stopped.stdout.splitlines()[0].split() == ["files", "labelled", "1"]
    assert files_of(out) == {"a.label"}
    done = subprocess.run([*asked, "--resume", "--json"], capture_output=True, text=True, check=True)
    assert (summary(done.stdout)["labelled"], summary(done.stdout)["skipped"]) == (4, 1)
    assert files_of(out) == ANSWERS


def test_a_folder_where_nothing_can_be_written(use: list[str], scans: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    assert "is a file, and the answers for a folder need a folder" in refused([*use, str(scans), str(tmp_path / "file")], capsys)
    assert "cannot be written: Not a directory" in refused([*use, str(scans), str(tmp_path / "file" / "out")], capsys)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").touch()  # where a folder has to be
    assert run([*use, str(scans), str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'out' / 'deep' / 'd.ply'}: cannot be written: " in capsys.readouterr().err


def test_two_runs_at_once(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    out.mkdir()
    with locked(out / JOURNAL):
        for options in ([], ["--resume"], ["--force"]):
            assert f"another run is writing to {out} just now" in refused([*use, str(scans), str(out), *options], capsys)
    assert run([*use, str(scans), str(out)]) == 0
