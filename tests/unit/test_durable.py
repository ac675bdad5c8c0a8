"""Files that are there whole or not at all, and locks that are not waited for."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.commands.predict_out import CannotWrite, Target
from models.durable import is_held, locked, whole_file


def test_a_file_written_in_pieces_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    path.write_text("old")
    with whole_file(path) as out:
        out.write(b"new, and long")
        out.seek(0)
        assert out.read(3) == b"new"
        out.truncate(3)
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["answer"]


def test_of_a_file_that_failed_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as out:
        out.write(bytes([1 // 0]))
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["answer"]


def test_what_lies_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / ".answer.part").symlink_to(tmp_path / "other")
    with whole_file(tmp_path / "answer") as out:
        out.write(b"new")
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "answer").read_text() == "new"
    assert not (tmp_path / "answer").is_symlink()


WRITER = """
import sys
from pathlib import Path
from models.durable import whole_file
with whole_file(Path(sys.argv[1])) as out:
    out.write(b"theirs" * 10)
    out.flush()
    print("begun", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another_writer(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has begun to write a file, and goes on when it is told to."""
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process


def test_two_processes_do_not_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    with another_writer(path) as process:
        with pytest.raises(BlockingIOError, match="being written by another process"), whole_file(path):
            pass
        with pytest.raises(CannotWrite, match="is being written by another process"), Target(path, "ply").opened():
            pass
        assert [each.name for each in tmp_path.iterdir()] == [".answer.part"]  # which is theirs
        process.communicate("go on\n")
    assert process.returncode == 0
    assert path.read_bytes() == b"theirs" * 10
    with whole_file(path) as out:
        out.write(b"ours")
    assert path.read_bytes() == b"ours"
    assert [each.name for each in tmp_path.iterdir()] == ["answer"]


def test_what_a_killed_process_left_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    with another_writer(path) as process:
        process.kill()
    assert [each.name for each in tmp_path.iterdir()] == [".answer.part"]
    with whole_file(path) as out:
        out.write(b"ours")
    assert path.read_bytes() == b"ours"
    assert [each.name for each in tmp_path.iterdir()] == ["answer"]


RACER = """
import sys, time
from pathlib import Path
from models.durable import whole_file
path, letter = Path(sys.argv[1]), sys.argv[2].encode()
written = refused = 0
until = time.monotonic() + 1
while time.monotonic() < until:
    try:
        with whole_file(path) as out:
            for _ in range(10):
                out.write(letter)
                out.flush()
        written += 1
    except BlockingIOError:
        refused += 1
    content = path.read_bytes() if path.exists() else letter * 10
    assert len(content) == 10 and len(set(content)) == 1, content
print(written, refused)
"""


def test_files_that_processes_race_for_are_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path / "answer")]
    racers = [subprocess.Popen([*command, letter], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for letter in "abc"]
    told = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], told
    assert sum(int(out.split()[0]) for out, _ in told) > 0
    assert [each.name for each in tmp_path.iterdir()] == ["answer"]


def test_a_lock_that_another_has_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, wait=False):
        assert is_held(path)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    assert not is_held(path)
