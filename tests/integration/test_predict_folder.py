"""`fip predict IN_DIR OUT_DIR`: what it writes and what it tells."""

import os
import pty
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.cli import run
from models.io import FORMATS, Format, read_cloud
from models.labels import load_label_map
from models.predictor import Predictor
from models.registry.catalogue import BUNDLED
from tests.predicting import ANSWERS, CLOUDS, Capture, command, contents, files_of, refused, rows, save_cloud, summary

STREETS = load_label_map("semantickitti19")


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


def test_a_defect_of_ours_does_not_cost_the_other_files(
    use: list[str], scans: Path, out: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: object) -> object:
        return 1 // 0

    monkeypatch.setitem(FORMATS, "off", Format(broken, (".off",), ()))
    (scans / "aaa.off").write_text("OFF\n")
    assert run([*use, "--json", str(scans), str(out), "--format", "ply"]) == 3
    said = capsys.readouterr()
    last = summary(said.out)
    assert [(each["code"], Path(each["file"]).name) for each in last["failures"]] == [("unexpected", "aaa.off")]
    assert last["labelled"] == 5
    assert "ZeroDivisionError" in said.err
