"""Jobs on a disk that is full, or whose rows cannot be written: no result outlives its time, none is computed twice, no file is left."""

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.contract.conftest import Changed, Serve
from tests.contract.job_calls import ended, post, problem, running, show, submitted
from tests.fire import metric, paused, until


def dirs(jobs_folder: Path) -> set[str]:
    return {each.name for each in jobs_folder.iterdir() if each.is_dir()}


def test_rows_that_another_program_locks_refuse_a_job_and_keep_no_reader_waiting(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    with serve(app_of_jobs()) as client, closing(sqlite3.connect(jobs_folder / "jobs.sqlite3", isolation_level=None)) as db:
        done = ended(client, submitted(client, scan))
        db.execute("BEGIN IMMEDIATE")
        refused = post(client, scan)
        assert problem(refused) == (429, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert dirs(jobs_folder) == {done["id"]}
        assert show(client, done) == done
        assert problem(client.delete(done["links"]["job"])) == (429, "overloaded")
        db.execute("ROLLBACK")
        assert ended(client, submitted(client, scan))["state"] == "done"


@contextmanager
def read_only_rows(path: Path) -> Iterator[None]:
    """The rows of jobs can be read and not written, as on a full disk."""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.execute("CREATE TRIGGER fails BEFORE UPDATE ON jobs BEGIN SELECT json('none'); END")
        yield
        db.execute("DROP TRIGGER fails")


def test_a_result_goes_although_its_row_cannot_be_written_which_follows(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    with serve(app_of_jobs(job_seconds=20)) as client:
        job = ended(client, submitted(client, scan))
        with read_only_rows(jobs_folder / "jobs.sqlite3"):
            assert problem(client.delete(job["links"]["job"])) == (507, "spool_full")
            assert dirs(jobs_folder) == set()
            assert problem(client.get(job["links"]["result"])) == (410, "expired")
        until(lambda: show(client, job)["state"] == "expired", "the row follows", 15)
        assert [each["state"] for each in client.get("/v1/jobs").json()["jobs"]] == ["expired"]


def test_results_go_when_their_time_is_over_although_no_row_can_be_written(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    with serve(app_of_jobs(job_seconds=3)) as client:
        for job in [submitted(client, scan) for _ in range(2)]:
            ended(client, job, "done")
        with read_only_rows(jobs_folder / "jobs.sqlite3"):
            until(lambda: dirs(jobs_folder) == set(), "both are gone")


def test_a_result_that_is_gone_has_expired_in_the_next_service(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    with serve(app_of_jobs()) as client:
        job = ended(client, submitted(client, scan))
    (jobs_folder / job["id"] / "result").unlink()
    with serve(app_of_jobs()) as client:
        assert show(client, job)["state"] == "expired"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk of three megabytes")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(folder: Path) -> None:
    with (folder / "other").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_emptied_through_the_service(serve: Serve, app_of_jobs: Changed, small_disk: Path, scan: bytes) -> None:
    """The disk has no room for one page of the rows; what goes has some ten pages."""
    app = app_of_jobs(jobs_dir=small_disk / "jobs")
    with serve(app) as client:
        done = ended(client, submitted(client, scan, format="csv"))
        with paused(app):
            runs, waits = (submitted(client, scan) for _ in range(2))
            running(client, runs)
            for job, state in ((done, "expired"), (waits, "cancelled")):
                fill(small_disk)
                gone = client.delete(job["links"]["job"])
                assert (gone.status_code, gone.json()["state"]) == (200, state)
        assert ended(client, runs)["state"] == "done"


def test_a_result_that_finds_the_disk_full_is_not_computed_again_before_there_is_room(
    serve: Serve, app_of_jobs: Changed, small_disk: Path, scan: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of_jobs(jobs_dir=small_disk / "jobs")
    with serve(app) as client:
        with paused(app):
            job = submitted(client, scan, format="csv")
            running(client, job)
            fill(small_disk)
            os.truncate(small_disk / "other", (small_disk / "other").stat().st_size - (64 << 10))  # for the rows
        until(lambda: caplog.text.count("job put off") > 2, "it has had three turns")
        assert metric(client, "fip_batch_requests_count") == 1
        (small_disk / "other").unlink()
        assert ended(client, job)["state"] == "done"
        assert metric(client, "fip_batch_requests_count") == 2


def dropped(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE jobs")


def damaged(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE other (a)")  # whoever has read the file before reads it again
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("trouble", [dropped, damaged])
def test_a_row_that_cannot_be_written_leaves_no_file(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes, trouble: Callable[[Path], None]
) -> None:
    with serve(app_of_jobs()) as client:
        trouble(jobs_folder / "jobs.sqlite3")
        assert problem(post(client, scan)) == (507, "spool_full")
        assert dirs(jobs_folder) == set()
