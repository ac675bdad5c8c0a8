"""Jobs while a disk, a registry or an allowance is in trouble: they are put off and others go, and what passes fails none of them."""

import gc
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.durable import is_held
from service.app import LOADS
from service.auth.keys import Key, add_key, new_key, remove_key
from service.context import MOST_LOADING
from tests.contract.conftest import Changed, Serve
from tests.contract.job_calls import NAME, TILES, ended, post, problem, running, show, submitted
from tests.fire import metric, paused, until
from tests.sweep import sweep
from tests.untrained_segmenter import save_segmenter


@contextmanager
def unreadable(jobs_folder: Path, job: dict) -> Iterator[None]:
    """What a job was sent with cannot be opened for a while."""
    there, aside = jobs_folder / job["id"] / "input", jobs_folder / "aside"
    there.rename(aside)
    there.symlink_to(there)
    try:
        yield
    finally:
        there.unlink(missing_ok=True)
        if there.parent.exists():
            aside.rename(there)


@contextmanager
def unwritable(jobs_folder: Path, job: dict) -> Iterator[None]:
    """The result of a job cannot be written for a while."""
    part = jobs_folder / job["id"] / ".result.part"
    part.mkdir()
    yield
    part.rmdir()


@pytest.mark.parametrize("trouble", [unreadable, unwritable])
def test_a_disk_that_fails_for_a_while_fails_no_job_and_keeps_no_other_waiting(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes, trouble: Callable[..., AbstractContextManager[None]]
) -> None:
    app = app_of_jobs()
    with serve(app) as client:
        with paused(app):
            first, stuck, other = (submitted(client, scan) for _ in range(3))
            running(client, first)
            in_trouble = trouble(jobs_folder, stuck)
            in_trouble.__enter__()
        assert ended(client, other)["state"] == "done"
        waits = show(client, stuck)
        assert (waits["state"], waits["error"]) in (("queued", None), ("running", None))
        in_trouble.__exit__(None, None, None)
        assert ended(client, stuck)["state"] == "done"


def test_a_job_that_is_put_off_is_cancelled_at_once_or_goes_on_in_the_next_service(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    app = app_of_jobs()
    with serve(app) as client:
        with paused(app):
            first, stays, goes = (submitted(client, scan) for _ in range(3))
            running(client, first)
            (jobs_folder / goes["id"] / "input").unlink()
            (jobs_folder / goes["id"] / "input").symlink_to(jobs_folder / goes["id"] / "input")
            in_trouble = unreadable(jobs_folder, stays)
            in_trouble.__enter__()
        assert ended(client, submitted(client, scan))["state"] == "done"
        assert client.delete(goes["links"]["job"]).json()["state"] == "cancelled"
        assert not (jobs_folder / goes["id"]).exists()
    in_trouble.__exit__(None, None, None)
    with serve(app_of_jobs()) as client:
        assert ended(client, stays)["state"] == "done"
        assert show(client, goes)["state"] == "cancelled"


def test_a_job_waits_for_room_for_its_result_and_is_not_computed_meanwhile(
    serve: Serve, app_of_jobs: Changed, segment_client: httpx.Client, scan: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(segment_client.post("/v1/segment?format=csv", content=scan, headers=NAME).content)
    with serve(app_of_jobs(max_jobs_bytes=size * 3 // 2)) as client:
        done = ended(client, submitted(client, scan, format="csv"))
        waits, other = submitted(client, scan, format="csv"), submitted(client, scan[:1600], format="label")
        assert ended(client, other)["state"] == "done"
        until(lambda: caplog.text.count("job put off") > 2, "it has had three turns")
        assert show(client, waits)["error"] is None
        assert metric(client, "fip_batch_requests_count") == 3  # each of the jobs once
        client.delete(done["links"]["job"])
        assert ended(client, waits)["result"]["bytes"] == size
        assert metric(client, "fip_batch_requests_count") == 4


def test_a_disk_that_fails_for_longer_than_results_are_kept_fails_the_job(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    app = app_of_jobs(job_seconds=3)
    with serve(app) as client:
        with paused(app):
            job = submitted(client, scan)
            running(client, job)
            (jobs_folder / job["id"] / ".result.part").mkdir()
        assert ended(client, job)["error"]["code"] == "internal_error"


def test_a_registry_that_is_away_fails_no_job_and_keeps_no_other_waiting(
    serve: Serve, app_of_jobs: Changed, scan: bytes, tmp_path: Path
) -> None:
    registry, aside = tmp_path / "registry", tmp_path / "aside"
    for name in ("streets", "fields"):
        save_segmenter(registry / name / "1", name)
    app = app_of_jobs(registry=str(registry))
    with ExitStack() as stuck, serve(app) as client:
        ended(client, submitted(client, scan, model="fields"))  # it is loaded
        stuck.enter_context(paused(app))
        long = submitted(client, (sweep(4, 60_000) * np.array([8, 8, 8, 1], "<f4")).tobytes(), format="label")
        running(client, long)
        waits = submitted(client, scan, model="fields")
    with serve(app_of_jobs(registry=str(registry), **TILES)) as client:
        registry.rename(aside)
        assert show(client, waits)["position"] == 1  # it is not loaded here, nor asked for yet
        client.delete(long["links"]["job"])
        assert ended(client, submitted(client, scan))["state"] == "done"
        found = show(client, waits)
        assert (found["state"] in ("queued", "running"), found["error"]) == (True, None)
        aside.rename(registry)
        assert ended(client, waits)["state"] == "done"


@pytest.mark.parametrize(("back", "ends"), [(True, "done"), (False, "failed")])
def test_a_worker_that_dies_while_the_registry_is_away_fails_no_job(
    serve: Serve, app_of_jobs: Changed, scan: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, back: bool, ends: str
) -> None:
    """Unless the model is gone when the registry is back."""
    registry, aside = tmp_path / "registry", tmp_path / "aside"
    save_segmenter(registry / "fields" / "1", "fields")
    app = app_of_jobs(registry=str(registry), model="fields")
    with serve(app) as client:
        with paused(app) as pid:
            job = submitted(client, scan)
            running(client, job)
            registry.rename(aside)
            os.kill(pid, signal.SIGKILL)
        until(lambda: caplog.text.count("job put off") > 1, "it has been tried again")
        assert show(client, job)["error"] is None
        if not back:
            shutil.rmtree(aside / "fields")
        aside.rename(registry)
        assert (ended(client, job)["error"] or {}).get("code") == (None if back else "unknown_model")
        assert show(client, job)["state"] == ends


def test_a_job_waits_while_many_wait_for_models(
    serve: Serve, app_of_jobs: Changed, scan: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = tmp_path / "registry"
    for name in ("streets", "fields"):
        save_segmenter(registry / name / "1", name)
    app = app_of_jobs(registry=str(registry))
    with ExitStack() as stuck, serve(app) as client:
        ended(client, submitted(client, scan, model="fields"))  # it is loaded
        stuck.enter_context(paused(app))
        long = submitted(client, (sweep(4, 60_000) * np.array([8, 8, 8, 1], "<f4")).tobytes(), format="label")
        running(client, long)
        waits = submitted(client, scan, model="fields")
    app = app_of_jobs(registry=str(registry), **TILES)
    loads = app.state.context.loads
    with serve(app) as client, ThreadPoolExecutor(MOST_LOADING + LOADS) as threads:
        with paused(app):  # nothing is loaded
            for _ in range(MOST_LOADING + LOADS):
                threads.submit(client.post, "/v1/segment?model=fields", content=scan, headers=NAME)
            until(lambda: loads.statistics().tasks_waiting >= MOST_LOADING, "many wait for it")
            client.delete(long["links"]["job"])
            until(lambda: "job put off" in caplog.text or show(client, waits)["error"] is not None, "the job had its turn")
        assert ended(client, waits)["state"] == "done"


def test_an_input_that_cannot_be_removed_ends_nothing(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    app = app_of_jobs()
    with serve(app) as client:
        with paused(app):
            first, second = submitted(client, scan), submitted(client, scan)
            running(client, first)
            there = jobs_folder / first["id"] / "input"
            there.unlink()  # it is open
            there.mkdir()
        assert [ended(client, each)["state"] for each in (first, second)] == ["done", "done"]
        client.delete(first["links"]["job"])
        assert not there.parent.exists()


def test_jobs_go_on_after_rows_could_not_be_read(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(app_of_jobs()) as client, closing(sqlite3.connect(jobs_folder / "jobs.sqlite3", timeout=30)) as db:
        db.execute("ALTER TABLE jobs RENAME TO elsewhere")
        until(lambda: "jobs are held up" in caplog.text, "nothing can be read")
        db.execute("ALTER TABLE elsewhere RENAME TO jobs")
        assert ended(client, submitted(client, scan))["state"] == "done"


class Holder:
    """Of a key, whose jobs are asked for with it."""

    def __init__(self, path: Path, name: str, points_per_second: float | None = None) -> None:
        self.key, self.kept = new_key(name, ["infer"], points_per_second, None)
        add_key(path, self.kept)

    def asks(self, client: httpx.Client) -> httpx.Client:
        client.headers["X-API-Key"] = self.key
        return client


def test_who_is_in_debt_waits_and_nobody_else(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = tmp_path / "keys.json"
    anna, ben = Holder(keys, "anna", 50.0), Holder(keys, "ben")  # a scan of 3000 points leaves a debt of 50 s
    app = app_of_jobs(keys=keys)
    with serve(app) as client:
        with paused(app):
            running(client, submitted(ben.asks(client), scan))
            paid, waits = (submitted(anna.asks(client), scan) for _ in range(2))
        assert ended(client, paid)["state"] == "done"
        for _ in range(2):
            assert ended(ben.asks(client), submitted(client, scan))["state"] == "done"
        assert show(anna.asks(client), waits)["state"] == "queued"
        remove_key(keys, anna.kept.id)
        add_key(keys, Key.model_validate({**anna.kept.model_dump(), "points_per_second": 1e9}))
        until(lambda: client.get(waits["links"]["job"]).status_code == 200, "the key is back")
        assert ended(client, waits)["state"] == "done"


def test_nobody_s_backlog_keeps_another_waiting(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = tmp_path / "keys.json"
    anna, ben = Holder(keys, "anna"), Holder(keys, "ben")
    app = app_of_jobs(keys=keys)
    with serve(app) as client:
        with paused(app):
            backlog = [submitted(anna.asks(client), scan) for _ in range(4)]
            running(client, backlog[0])
            other = submitted(ben.asks(client), scan)
        after = ended(client, other)["started"]
        begun = [ended(anna.asks(client), job)["started"] for job in backlog]
        assert begun[0] < after < begun[1] < begun[2] < begun[3]


def test_one_key_may_have_half_of_all_jobs(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = tmp_path / "keys.json"
    anna, ben = Holder(keys, "anna"), Holder(keys, "ben")
    app = app_of_jobs(keys=keys, max_jobs=4)
    with serve(app) as client, paused(app), ThreadPoolExecutor(4) as threads:
        anna.asks(client)
        sent = list(threads.map(lambda _: post(client, scan).status_code, range(4)))
        assert sorted(sent) == [202, 202, 429, 429]
        refused = post(client, scan)
        assert problem(refused) == (429, "too_many_jobs")
        assert "key" in refused.json()["detail"]
        assert [post(ben.asks(client), scan).status_code for _ in range(3)] == [202, 202, 429]


def test_one_key_may_have_half_of_all_bytes(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = tmp_path / "keys.json"
    anna, ben = Holder(keys, "anna"), Holder(keys, "ben")
    app = app_of_jobs(keys=keys, max_jobs_bytes=4 * len(scan))
    with serve(app) as client, paused(app):
        assert [post(anna.asks(client), scan).status_code for _ in range(3)] == [202, 202, 429]
        assert problem(post(client, scan * 3)) == (413, "body_too_large")
        assert [post(ben.asks(client), scan).status_code for _ in range(2)] == [202, 202]


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


def test_a_content_type_is_kept_as_long_as_a_name_may_be(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    with serve(app_of_jobs()) as client:
        kind = "application/octet-stream; x=" + "y" * 4000
        answers = [client.post("/v1/jobs", content=scan, headers=NAME | {"Content-Type": kind, "Idempotency-Key": "k"}) for _ in range(2)]
        assert [each.status_code for each in answers] == [202, 200]
        ended(client, answers[0].json())
    with closing(sqlite3.connect(jobs_folder / "jobs.sqlite3")) as db:
        [(asked,)] = db.execute("SELECT asked FROM jobs").fetchall()
    assert json.loads(asked)["content_type"] == kind[:255]


def test_so_many_may_listen_and_of_one_key_half(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = tmp_path / "keys.json"
    anna, ben, clara = (Holder(keys, name) for name in ("anna", "ben", "clara"))
    app = app_of_jobs(keys=keys, max_listeners=4)
    with serve(app) as client, paused(app):
        jobs = {holder: submitted(holder.asks(client), scan) for holder in (anna, ben, clara)}

        def listens(holder: Holder, stack: ExitStack) -> httpx.Response:
            return stack.enter_context(holder.asks(client).stream("GET", jobs[holder]["links"]["events"]))

        with ExitStack() as stack:
            assert [listens(anna, stack).status_code for _ in range(3)] == [200, 200, 429]
            assert [listens(ben, stack).status_code for _ in range(2)] == [200, 200]
            refused = listens(clara, stack)
            refused.read()
            assert problem(refused) == (429, "too_many_listeners")
            assert int(refused.headers["Retry-After"]) >= 1

        def has_a_place() -> bool:
            with ExitStack() as stack:
                return listens(clara, stack).status_code == 200

        until(has_a_place, "who has left is not counted any more")


def test_a_stream_ends_with_its_key(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = tmp_path / "keys.json"
    anna, _ = Holder(keys, "anna"), Holder(keys, "ben")
    app = app_of_jobs(keys=keys, event_seconds=0.1)
    with serve(app) as client, paused(app):
        job = submitted(anna.asks(client), scan)
        with client.stream("GET", job["links"]["events"]) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: progress"
            remove_key(keys, anna.kept.id)
            assert len(list(islice(lines, 600))) < 600  # it ends, although the job does not
        assert client.get(job["links"]["job"]).status_code == 401


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what the thread opens when all is over, nobody closes
def test_a_folder_in_which_a_thread_is_still_at_work_is_not_let_go(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    app = app_of_jobs()
    with ThreadPoolExecutor(1) as threads, ExitStack() as service:
        client = service.enter_context(serve(app))
        with paused(app):
            first, stuck = submitted(client, scan), submitted(client, scan)
            running(client, first)
            pipe = jobs_folder / stuck["id"] / "input"
            pipe.unlink()
            os.mkfifo(pipe)  # who opens it waits
        until(lambda: show(client, stuck)["state"] == "running", "a thread waits")
        ended(client, first)
        ends = threads.submit(service.close)
        try:
            until(
                lambda: not app.state.context.jobs.rows.is_open and not app.state.context.device.up, "jobs are closed, and what comes after"
            )
            assert is_held(jobs_folder / "lock")
        finally:
            os.close(os.open(pipe, os.O_WRONLY))
        ends.result()
        assert is_held(jobs_folder / "lock")  # until the process ends
    gc.collect()
