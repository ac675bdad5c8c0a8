"""`fip predict IN_DIR OUT_DIR`: what is read of a folder with links, pipes and odd names, and that nothing in it is written over."""

import os
import shutil
from pathlib import Path

from models.cli import run
from models.io import is_cloud_file
from tests.predicting import ANSWERS, JOURNAL, Capture, contents, files_of, refused, save_cloud, summary


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


def test_what_is_passed_over_is_named(use: list[str], tmp_path: Path, out: Path, capsys: Capture) -> None:
    """Rows of numbers are tried whatever they are called; notes are not, and a data set has neither."""
    folder = tmp_path / "in"
    save_cloud(folder / "a.bin", 100)
    save_cloud(folder / "deep" / "b.bin", 100)
    table = folder / "deep" / "unnamed.csv"
    table.write_text("alpha,beta,gamma\n" + "1,2,3\n4,5,6\n" * 5)
    pairs = folder / "pairs.csv"
    pairs.write_text("step,loss\n" + "1,2\n4,5\n" * 5)
    for number in range(22):
        (folder / f"notes{number:02}.txt").write_text("what I saw\n" * 9)
    (folder / "readme.md").touch()
    (folder / ".hidden.txt").touch()
    assert is_cloud_file(table, any_names=True)
    assert not any([is_cloud_file(table), is_cloud_file(pairs), is_cloud_file(pairs, any_names=True)])
    assert run([*use, str(folder), str(out)]) == 3
    said = capsys.readouterr()
    assert said.err.startswith(f"error [missing_coordinates]: {table}: ")
    told = said.out.split("\n\n")[2].splitlines()
    assert told == [
        "passed over, because they are no rows of numbers:",
        *(str(folder / f"notes{number:02}.txt") for number in range(5)),
        "and 18 more files",
    ]
    assert run([*use, str(folder), str(out), "--json", "--resume"]) == 3
    found = summary(capsys.readouterr().out)
    assert (found["labelled"], found["skipped"], found["failed"], found["passed_over"]) == (0, 2, 1, 25)
    assert found["passed_over_texts"] == [str(folder / f"notes{number:02}.txt") for number in range(20)]
