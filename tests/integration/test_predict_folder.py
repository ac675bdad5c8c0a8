"""`fip predict IN_DIR OUT_DIR`: every cloud of a folder once, whatever stops it or stands in its way."""

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import laspy  # type: ignore[import-untyped]
import numpy as np
import pytest

from models.cli import run
from models.durable import locked
from models.io import read_cloud
from models.labels import load_label_map
from models.predictor import Predictor
from models.registry.catalogue import BUNDLED
from tests.untrained_segmenter import save_segmenter

STREETS = load_label_map("semantickitti19")
JOURNAL = ".fip-predict.jsonl"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def registry(tiny_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier `tiny` and two untrained segmenters, `streets` and `roads`."""
    registry = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_registry / "tiny", registry / "tiny")
    save_segmenter(registry / "streets" / "1", "streets")
    save_segmenter(registry / "roads" / "1", "roads", seed=1)
    return registry


@pytest.fixture
def use(registry: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name in ("FIP_MODEL", "FIP_TILE_VOXELS", "FIP_TILE_HALO"):
        monkeypatch.delenv(name, raising=False)
    return ["predict", "--registry", str(registry), "--model", "streets"]


def save_cloud(path: Path, points: int, seed: int = 0) -> None:
    """A made-up street in the format of the ending."""
    rng = np.random.default_rng(seed)
    table = np.column_stack([rng.uniform(-8, 8, (points, 3)), rng.random(points)]).astype("<f4")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".bin":
        path.write_bytes(table.tobytes())
    elif path.suffix == ".npy":
        np.save(path, table[:, :3])
    elif path.suffix == ".xyz":
        np.savetxt(path, table[:, :3], fmt="%.3f")
    elif path.suffix == ".ply":
        names = "".join(f"property float {name}\n" for name in ("x", "y", "z", "intensity"))
        path.write_bytes(f"ply\nformat binary_little_endian 1.0\nelement vertex {points}\n{names}end_header\n".encode() + table.tobytes())
    elif path.suffix == ".las":
        las = laspy.create(point_format=3, file_version="1.2")
        las.x, las.y, las.z = table[:, :3].T
        las.write(path)
    else:
        raise AssertionError(path)


CLOUDS = {"a.bin": 700, "b.npy": 500, "deep/er/c.ply": 600, "deep/d.xyz": 400, "e.las": 300}
ANSWERS = {"a.label", "b.labelled.npy", "deep/er/c.labelled.ply", "deep/d.labelled.xyz", "e.labelled.las"}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Clouds of five formats in three folders."""
    for seed, (name, points) in enumerate(CLOUDS.items()):
        save_cloud(tmp_path / "scans" / name, points, seed)
    return tmp_path / "scans"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def files_of(folder: Path) -> set[str]:
    """Of all files, hidden ones but the journal too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {JOURNAL}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def summary(text: str) -> dict:
    return json.loads(text.splitlines()[-1])["summary"]


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def refused(arguments: list[str], capsys: Capture) -> str:
    """What wrong usage says; nothing is computed."""
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def done_lines(out: Path) -> Counter[str]:
    """How often each file was finished, as the journal has it."""
    lines = [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]
    return Counter(line["file"] for line in lines if line.get("state") == "done")


def test_a_folder_of_the_same_shape(use: list[str], registry: Path, scans: Path, out: Path, capsys: Capture) -> None:
    before = contents(scans)
    assert run([*use, str(scans), str(out), "--format", "same"]) == 0
    said = capsys.readouterr().out
    assert files_of(out) == ANSWERS
    predictor = Predictor.load(registry / "streets" / "1")
    counts: Counter[str] = Counter()
    for name, answer in zip(sorted(CLOUDS), sorted(ANSWERS), strict=True):
        (found,) = predictor.segment([predictor.voxelize(read_cloud(scans / name))])
        counts.update(STREETS.names[label] for label in found.labels)
        if answer.endswith(".label"):
            assert np.fromfile(out / answer, "<u4").tolist() == STREETS.ids_of(found.labels).tolist()
        elif answer.endswith((".xyz", ".npy")):  # columns without names
            table = np.load(out / answer) if answer.endswith(".npy") else np.loadtxt(out / answer)
            assert table[:, 3].tolist() == found.labels.tolist()
        else:
            assert read_cloud(out / answer).extra["label"].tolist() == found.labels.tolist(), answer
    facts = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in said.partition("\n\n")[0].splitlines()}
    assert {name: facts[name] for name in ("files labelled", "already there", "failed", "passed over", "points")} == {
        "files labelled": "5",
        "already there": "0",
        "failed": "0",
        "passed over": "0",
        "points": "2,500",
    }
    best, count = counts.most_common(1)[0]
    assert said.partition("\n\n")[2].splitlines()[1].split() == [*best.split(), f"{count:,}", f"{100 * count / 2500:.1f}", "%"]
    assert len(said.partition("\n\n")[2].splitlines()) == 1 + min(len(counts), 10) + (len(counts) > 10)
    assert contents(scans) == before


def test_json_has_a_line_a_file_and_the_summary_at_the_end(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    (scans / "notes.md").write_text("x")
    (scans / ".hidden.bin").write_text("x")
    (scans / "broken.ply").write_text("ply\n")
    assert run([*use, "--json", str(scans), "-o", str(out), "--format", "label"]) == 3
    said = capsys.readouterr()
    *files, last = rows(said.out)
    assert [Path(row["file"]).relative_to(scans).as_posix() for row in files] == [
        "a.bin",
        "b.npy",
        "broken.ply",
        *sorted(CLOUDS)[4:],
        *sorted(CLOUDS)[2:4],
    ]
    assert {row["file"]: row["out"] for row in files if "out" in row}[str(scans / "deep/d.xyz")] == str(out / "deep/d.label")
    [bad] = [row for row in files if "code" in row]
    assert said.err.startswith(f"error [{bad['code']}]: {scans / 'broken.ply'}: ")
    found = last["summary"]
    assert (found["labelled"], found["skipped"], found["failed"], found["passed_over"], found["points"]) == (5, 0, 1, 2, 2500)
    assert sum(each["points"] for each in found["classes"]) == 2500
    assert sum(each["share"] for each in found["classes"]) == pytest.approx(1)
    assert found["failures"] == [bad]
    assert found["points_per_second"] == pytest.approx(2500 / found["seconds"], rel=0.05)


def test_many_bad_files_are_told_briefly(use: list[str], tmp_path: Path, out: Path, capsys: Capture) -> None:
    save_cloud(tmp_path / "in" / "good.bin", 100)
    for number in range(23):
        (tmp_path / "in" / f"{number:02}.ply").touch()
    assert run([*use, str(tmp_path / "in"), str(out)]) == 3
    said = capsys.readouterr()
    told = said.out.partition("failed:\n")[2].splitlines()
    assert told[0] == f"{tmp_path / 'in' / '00.ply'}: [empty_file] the file is empty"
    assert (len(told), told[-1]) == (21, "and 3 more files")
    assert len(said.err.splitlines()) == 23
    assert files_of(out) == {"good.ply"}


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


PROGRAM = "import sys; from models.cli import main; main()"


def command(use: list[str], *arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *use, *arguments]


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


def test_out_inside_of_in_is_never_read(use: list[str], scans: Path, capsys: Capture) -> None:
    before = contents(scans)
    (scans / "back").symlink_to(scans / "deep" / "out", target_is_directory=True)
    asked = [*use, str(scans), str(scans / "deep" / "out"), "--format", "same", "--json"]
    for labelled in (5, 0):
        assert run([*asked, "--resume"]) == 0
        assert summary(capsys.readouterr().out)["labelled"] == labelled
    (scans / "z.npy").symlink_to(scans / "deep" / "out" / "b.labelled.npy")
    assert run([*asked, "--resume"]) == 0
    assert summary(capsys.readouterr().out)["labelled"] == 0
    assert files_of(scans / "deep" / "out") == ANSWERS
    assert {name: content for name, content in contents(scans).items() if name in before} == before


def test_answers_never_lie_among_what_is_read(use: list[str], scans: Path, out: Path, tmp_path: Path, capsys: Capture) -> None:
    save_cloud(scans / "deep" / "e.bin", 50)
    before = contents(scans)
    for same in (scans, scans / "deep" / ".."):
        assert "it is the folder that is read" in refused([*use, "--force", str(scans), str(same)], capsys)
    out.mkdir()
    (out / "deep").symlink_to(scans)
    assert "is one of the folders that are read" in refused([*use, "--force", str(scans), str(out)], capsys)
    inner = tmp_path / "scans" / "scans"
    save_cloud(inner / "scans" / "x.bin", 50)  # read as scans/x.bin, whose answer would go to the folder that is read
    assert "is one of the folders that are read" in refused([*use, "--force", str(inner), str(scans)], capsys)
    shutil.rmtree(inner)
    assert contents(scans) == before


def test_two_files_with_one_answer_are_refused(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    save_cloud(scans / "deep" / "d.bin", 50)
    said = refused([*use, str(scans), str(out), "--format", "npz"], capsys)
    assert "the answers for deep/d.bin and deep/d.xyz would both be called d.npz; with --format same" in said
    assert not out.exists()
    assert run([*use, str(scans), str(out), "--format", "same"]) == 0


def test_links_are_followed_once_and_loops_end(use: list[str], scans: Path, out: Path, tmp_path: Path, capsys: Capture) -> None:
    save_cloud(tmp_path / "elsewhere" / "f.bin", 60)
    (tmp_path / "elsewhere" / "up").symlink_to(scans)
    (scans / "0 elsewhere").symlink_to(tmp_path / "elsewhere")
    (scans / "deep" / "loop").symlink_to(scans)
    (scans / "0 deep").symlink_to(scans / "deep")
    (scans / "self.ply").symlink_to("self.ply")
    (scans / ".git").mkdir()
    save_cloud(scans / ".git" / "g.bin", 60)
    os.mkfifo(scans / "pipe.ply")
    os.mkfifo(scans / "pipe.csv")  # of which one would have to look at what is in it
    (scans / "notes.txt").write_text("not a cloud\n" * 9)
    assert run([*use, str(scans), str(out), "--format", "same", "--json"]) == 3
    found = summary(capsys.readouterr().out)
    assert (found["labelled"], found["passed_over"]) == (6, 1)
    assert files_of(out) == ANSWERS | {"0 elsewhere/f.label"}
    assert {Path(each["file"]).name: each["detail"] for each in found["failures"]} == {
        "pipe.csv": "not a regular file",
        "pipe.ply": "not a regular file",
        "self.ply": "cannot be opened: Too many levels of symbolic links",
    }


def test_odd_names(use: list[str], tmp_path: Path, out: Path, capsys: Capture) -> None:
    names = [b"caf\xe9.bin", "día 1.bin".encode(), b"new\nline.bin", b"x" * 250 + b".bin", b".bin", b"UPPER.BIN"]
    (tmp_path / "in").mkdir()
    save_cloud(tmp_path / "cloud.bin", 60)
    for name in names:
        shutil.copy(tmp_path / "cloud.bin", os.fsencode(tmp_path / "in") + b"/" + name)
    assert run([*use, str(tmp_path / "in"), str(out)]) == 3  # 250 letters, .ply, and .part behind them
    said = capsys.readouterr()
    assert "[bad_option] the name of the answer is too long" in said.out
    assert {os.fsencode(path.name) for path in out.iterdir()} - {JOURNAL.encode()} == {
        b"caf\xe9.ply",
        "día 1.ply".encode(),
        b"new\nline.ply",
        b"UPPER.ply",
    }
    assert run([*use, str(tmp_path / "in"), str(out), "--resume", "--json"]) == 3
    assert summary(capsys.readouterr().out)["skipped"] == 4


def test_nothing_to_read(use: list[str], tmp_path: Path, out: Path, capsys: Capture) -> None:
    assert run([*use, str(tmp_path / "nowhere"), str(out)]) == 3
    assert capsys.readouterr().err == f"error [bad_file]: {tmp_path / 'nowhere'}: there is no such file or folder\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.md").touch()
    for arguments in ([str(tmp_path / "in")], [str(tmp_path / "in"), str(out)]):
        assert run([*use, *arguments]) == 3
        said = capsys.readouterr().err
        assert f"{tmp_path / 'in'}: there is no file in it that can be read; known endings: " in said
        assert ".bin" in said
        assert ".ply" in said
    assert not out.exists()


def test_wrong_usage(use: list[str], scans: Path, out: Path, capsys: Capture) -> None:
    assert "did you mean 'label'?" in refused([*use, str(scans), str(out), "--format", "lable"], capsys)
    assert "after a folder comes the one that its answers go to" in refused([*use, str(scans), str(out), "x"], capsys)
    assert "after a folder comes the one that its answers go to" in refused([*use, str(scans), str(out), "-o", str(out)], capsys)
    assert "--resume is about a folder" in refused([*use, str(scans / "a.bin"), "--resume"], capsys)
    assert "--resume is about what is written to OUT_DIR" in refused([*use, str(scans), "--resume"], capsys)
    assert "there is no --out" in refused([*use, str(scans), "--force"], capsys)
    tiny = [*use[:3], "--model", "tiny", str(scans), str(out)]
    assert "OUT_DIR: tiny gives no point a class" in refused(tiny, capsys)
    assert not out.exists()


def test_a_folder_is_classified(use: list[str], scans: Path, capsys: Capture) -> None:
    (scans / "bad.ply").touch()
    asked = [*use[:3], "--model", "tiny", str(scans)]
    assert run(asked) == 3
    text, _, table = capsys.readouterr().out.partition("\n\n")
    assert [line.partition(": ")[0] for line in text.splitlines()] == [
        str(scans / name) for name in ("a.bin", "b.npy", "e.las", "deep/d.xyz", "deep/er/c.ply")
    ]
    classes = Counter(line.rpartition(": ")[2].split()[0] for line in text.splitlines())
    assert [line.split()[:2] for line in table.split("\n\n")[1].splitlines()] == [
        ["class", "files"],
        *([name, str(count)] for name, count in classes.most_common()),
    ]
    assert run([*asked, "--json"]) == 3
    *files, last = rows(capsys.readouterr().out)
    assert Counter(row["predictions"][0]["label"] for row in files if "predictions" in row) == classes
    assert last["summary"]["classes"][0]["files"] == classes.most_common(1)[0][1]


def test_shares_of_a_folder_without_an_answer(use: list[str], scans: Path, capsys: Capture) -> None:
    before = files_of(scans)
    assert run([*use, str(scans)]) == 0
    text, _, table = capsys.readouterr().out.partition("\n\n")
    assert text.splitlines()[0].startswith(f"{scans / 'a.bin'}: 700 points: ")
    assert table.splitlines()[0].split() == ["files", "labelled", "5"]
    assert files_of(scans) == before


def test_progress_on_a_terminal(use: list[str], scans: Path, out: Path) -> None:
    """Files and tiles on one line of the terminal, which is gone at the end; without a terminal nothing of so short a run."""
    save_cloud(scans / "a.bin", 20_000)
    asked = command(use, str(scans), str(out), "--format", "same", "--tile-voxels", "9000", "--tile-halo", "2")
    ours, theirs = pty.openpty()
    done = subprocess.run(asked, stderr=theirs, stdout=subprocess.PIPE, text=True, check=True)
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 65536):
            said += block
    except OSError:  # how the end of a terminal is told on Linux
        pass
    os.close(ours)
    assert b"file 1 of 5" in said
    assert b", tile " in said
    assert b"\n" not in said
    assert said.endswith(b"\r\x1b[K")
    assert done.stdout.splitlines()[0].split() == ["files", "labelled", "5"]
    quiet = subprocess.run([*asked, "--force"], capture_output=True, text=True, check=True)
    assert quiet.stderr == ""


@pytest.mark.data
def test_the_zoo(data_dir: Path, out: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model that is bundled: what is no cloud fails, and says why."""
    monkeypatch.delenv("FIP_MODEL", raising=False)
    if not (BUNDLED / "lidar19").is_dir():
        pytest.skip("lidar19 is not bundled here")
    asked = ["predict", "--json", str(data_dir / "ply-zoo"), str(out), "--format", "same"]
    assert run(asked) == 3
    found = summary(capsys.readouterr().out)
    assert {Path(each["file"]).name: each["code"] for each in found["failures"]} == {
        "PDAL__sized_dims.ply": "missing_coordinates",
        "assimp__empty.ply": "empty_file",
        "playcanvas__guitar.compressed.ply": "missing_coordinates",
        "trimesh__empty.ply": "no_points",
        "trimesh__ply_empty_header.ply": "missing_coordinates",
    }
    assert (found["labelled"], found["passed_over"]) == (40, 2)  # a readme, and a table that has no coordinates


@pytest.mark.data
def test_scans_of_kitti(data_dir: Path, out: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIP_MODEL", raising=False)
    if not (BUNDLED / "lidar19").is_dir():
        pytest.skip("lidar19 is not bundled here")
    sequences = data_dir / "semantickitti" / "sequences"
    assert run(["predict", "--json", str(sequences), str(out), "--format", "same"]) == 0
    found = summary(capsys.readouterr().out)
    scans = {path.relative_to(sequences): path for path in sequences.rglob("*.bin")}
    assert files_of(out) == {name.with_suffix(".label").as_posix() for name in scans}
    assert (found["labelled"], found["passed_over"]) == (len(scans), len(list(sequences.rglob("*.label"))))
    for name, path in scans.items():
        assert (out / name).with_suffix(".label").stat().st_size == path.stat().st_size // 4
    right = total = 0
    for name in scans:
        label = (sequences / name.parent.parent / "labels" / name.name).with_suffix(".label")
        truth = STREETS.classes_of(np.fromfile(label, "<u4") & 0xFFFF)  # (N,)
        answer = STREETS.classes_of(np.fromfile((out / name).with_suffix(".label"), "<u4"))
        right, total = right + int((truth == answer)[truth >= 0].sum()), total + int((truth >= 0).sum())
    assert right / total > 0.8
