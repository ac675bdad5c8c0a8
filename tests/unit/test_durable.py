"""Files that are there whole or not at all, and locks that are not waited for."""

from pathlib import Path

import pytest

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


def test_a_lock_that_another_has_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, wait=False):
        assert is_held(path)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    assert not is_held(path)
