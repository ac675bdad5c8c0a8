"""The rows and files of jobs on a real disk: what changes, what may not, and what a process that died leaves."""

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from models.errors import BadOption
from service.errors import AnswerTooLarge, SpoolFull
from service.jobs.files import Files, read_through
from service.jobs.records import Asked, Job, Result, is_id, new_id
from service.jobs.store import SCHEMA, VERSION, Store
from service.schemas import JobError, ModelRef, SegmentOptions

MODEL = ModelRef(name="streets", version="1", digest="d" * 64, alias=None)
ASKED = Asked(model=MODEL, options=SegmentOptions(up="y"), format="label", name="a.bin", content_type="", bytes=10, sha256="s" * 64)
RESULT = Result(bytes=4, media_type="x/y", name="a.label", sha256="r" * 64, headers={"X-Model": "streets:1"})
ERROR = JobError(code="non_finite", detail="a NaN", where="body")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "jobs.sqlite3")


def insert(store: Store, owner: str = "", key: str | None = None, at_s: float = 0.0) -> Job:
    return store.insert(new_id(), owner, key, ASKED, at_s)


def claim(store: Store, at_s: float) -> Job | None:
    """The oldest begins to run."""
    waiting = store.waiting()
    return store.claim(waiting[0][0], at_s) if waiting else None


def states(store: Store) -> dict[str, int]:
    return {state: count for state, count in store.totals().states.items() if count}


def test_a_row_comes_back_as_it_went_in(store: Store, tmp_path: Path) -> None:
    job = insert(store, "anna", "k", 5.0)
    assert (job.owner, job.key, job.state, job.created_s, job.runs, job.bytes, job.asked) == ("anna", "k", "queued", 5.0, 0, 10, ASKED)
    claim(store, 6.0)
    done = store.done(job.id, RESULT, 7.0)
    assert done is not None
    assert (done.state, done.started_s, done.finished_s, done.runs, done.bytes, done.result) == ("done", 6.0, 7.0, 1, 4, RESULT)
    store.close()
    assert Store(tmp_path / "jobs.sqlite3").get(job.id) == done


def test_what_is_told_is_on_the_disk(store: Store) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_the_oldest_runs_first(store: Store) -> None:
    jobs = [insert(store) for _ in range(3)]
    assert [store.before(job) for job in jobs] == [0, 1, 2]
    for job in jobs:
        claimed = claim(store, 1.0)
        assert claimed is not None
        assert (claimed.id, claimed.state) == (job.id, "running")
        store.failed(job.id, ERROR, 2.0)
    assert claim(store, 3.0) is None


def test_a_state_changes_once(store: Store) -> None:
    job = insert(store)
    assert store.done(job.id, RESULT, 1.0) is None  # it does not run
    assert store.expired(job.id) is None
    claim(store, 1.0)
    assert store.cancelled(job.id, 2.0) is not None
    assert store.cancelled(job.id, 3.0) is None
    assert store.done(job.id, RESULT, 3.0) is None
    assert store.failed(job.id, ERROR, 3.0) is None
    assert store.put_off(job.id) is None
    found = store.get(job.id)
    assert found is not None
    assert (found.state, found.finished_s, found.bytes, found.result, found.error) == ("cancelled", 2.0, 0, None, None)


def test_what_ran_when_the_process_died_runs_again_but_not_for_ever(store: Store) -> None:
    job, other = insert(store), insert(store)
    for _ in range(2):
        claim(store, 1.0)
        assert store.recover(3, ERROR, 2.0) == []
        assert states(store) == {"queued": 2}
    claim(store, 1.0)
    assert store.recover(3, ERROR, 2.0) == [job.id]
    found, left = store.get(job.id), claim(store, 3.0)
    assert found is not None
    assert left is not None
    assert (found.state, found.runs, found.error, left.id) == ("failed", 3, ERROR, other.id)


def test_what_the_service_puts_off_is_no_death(store: Store) -> None:
    job = insert(store)
    for _ in range(20):
        claim(store, 1.0)
        assert store.put_off(job.id) is not None
    claim(store, 1.0)
    assert store.recover(2, ERROR, 2.0) == []


def test_a_key_stands_for_one_job_of_its_owner(store: Store) -> None:
    first = insert(store, "anna", "k")
    with pytest.raises(sqlite3.IntegrityError):
        insert(store, "anna", "k")
    other = insert(store, "ben", "k")
    assert [job and job.id for job in (store.by_key("anna", "k"), store.by_key("ben", "k"), store.by_key("", "k"))] == [
        first.id,
        other.id,
        None,
    ]
    assert [insert(store).key for _ in range(2)] == [None, None]


def test_newest_first_and_only_the_owner_s(store: Store) -> None:
    jobs = [insert(store, owner) for owner in ("anna", "ben", "anna")]
    assert [(job.id, before) for job, before in store.newest("anna", 10)] == [(jobs[2].id, 2), (jobs[0].id, 0)]
    assert [job.id for job, _ in store.newest("anna", 1)] == [jobs[2].id]
    assert store.newest("", 10) == []


def test_bytes_are_those_on_the_disk(store: Store) -> None:
    first, second = insert(store), insert(store)
    assert (store.totals().bytes, store.totals().active) == (20, 2)
    claim(store, 1.0)
    store.done(first.id, RESULT, 2.0)
    assert (store.totals().bytes, store.totals().active) == (14, 1)
    store.cancelled(second.id, 2.0)
    assert (store.totals().bytes, store.files()) == (4, {first.id: "result"})
    store.expired(first.id)
    assert (store.totals().bytes, store.files()) == (0, {})


def test_results_go_after_their_time_and_rows_after_as_long_again(store: Store) -> None:
    done, failed, waits = insert(store), insert(store), insert(store)
    claim(store, 0.0)
    store.done(done.id, RESULT, 10.0)
    claim(store, 0.0)
    store.failed(failed.id, ERROR, 10.0)
    assert store.due(9.0, 100) == []
    assert store.due(10.0, 100) == [done.id]
    assert store.forget(9.0, 100) == 0
    assert store.forget(10.0, 100) == 1  # a job that is done has to expire first
    store.expired(done.id)
    assert store.forget(10.0, 100) == 1
    assert states(store) == {"queued": 1}
    assert store.get(waits.id) is not None


def test_the_oldest_of_an_owner_who_has_too_many_go(store: Store) -> None:
    def ends(owner: str, *, well: bool) -> str:
        job = insert(store, owner)
        claim(store, 1.0)
        ended = store.done(job.id, RESULT, 2.0) if well else store.failed(job.id, ERROR, 2.0)
        assert ended is not None
        return job.id

    anna = [ends("anna", well=well) for well in (True, False, True, False)]
    ben = ends("ben", well=False)
    waits = insert(store, "anna")
    assert store.due(0.0, 2) == [anna[0]]
    store.expired(anna[0])
    assert store.forget(0.0, 2) == 2
    assert [job for job in (*anna, ben, waits.id) if store.get(job) is None] == anna[:2]


def test_the_file_shrinks_with_what_is_forgotten(store: Store) -> None:
    def pages() -> int:
        [count] = store._db.execute("PRAGMA page_count").fetchone()
        return int(count)

    empty = pages()
    for _ in range(200):
        store.cancelled(insert(store).id, 1.0)
    assert pages() > 2 * empty
    assert store.forget(2.0, 1000) == 200
    assert pages() <= empty + 1


def test_a_file_of_an_earlier_version_shrinks_too(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as db:
        db.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA} PRAGMA user_version = {VERSION};")
    store = Store(tmp_path / "jobs.sqlite3")
    assert store._db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_no_store_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(BadOption, match="cannot be used"):
        Store(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "later")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BadOption, match="another version"):
        Store(tmp_path / "later")


def test_ids() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_id(each) for each in ids)
    assert not any(
        is_id(each) for each in ("", "..", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0" * 32 + "\n", "\N{ARABIC-INDIC DIGIT ONE}" * 32)
    )


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    files, job = Files(tmp_path), new_id()
    assert files.keep_input(job, io.BytesIO(b"0123456789")) == read_through(io.BytesIO(b"0123456789"))

    def fails(out: BinaryIO) -> None:
        out.write(b"half")
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        files.keep_result(job, fails, 100, 100)
    with pytest.raises(SpoolFull) as caught:
        files.keep_result(job, lambda out: out.write(b"too much") and None, 7, 100)
    assert caught.value.needs == 8
    files.check_room(8, 8)
    for needs, most in ((8, 7), (1 << 60, 1 << 61)):
        with pytest.raises(SpoolFull):
            files.check_room(needs, most)
    with pytest.raises(AnswerTooLarge):
        files.keep_result(job, lambda out: out.write(b"too much") and None, 7, 7)
    assert [each.name for each in (tmp_path / job).iterdir()] == ["input"]
    kept = files.keep_result(job, lambda out: out.write(b"result") and None, 100, 100)
    assert kept.bytes == 6
    files.drop_input(job)
    with files.open(job, "result") as file:
        assert read_through(file) == kept
    with pytest.raises(FileNotFoundError):
        files.open(job, "input")
    files.drop(job)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_leaves_is_swept(tmp_path: Path) -> None:
    files = Files(tmp_path)
    waits, done, unknown, empty = (new_id() for _ in range(4))
    for job in (waits, done, unknown):
        files.keep_input(job, io.BytesIO(b"x"))
    files.keep_result(done, lambda out: out.write(b"y") and None, 100, 100)  # killed before its input went
    (tmp_path / waits / ".result.part").write_bytes(b"half")
    (tmp_path / empty).mkdir()  # killed before its input came
    (tmp_path / "lock").touch()
    (tmp_path / "mine").mkdir()
    assert files.sweep({waits: "input", done: "result"}) == 4
    left = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")}
    assert left == {waits, f"{waits}/input", done, f"{done}/result", "lock", "mine"}
    assert files.sweep({waits: "input", done: "result"}) == 0
