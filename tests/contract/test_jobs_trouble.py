"""Jobs while a disk or a registry is in trouble: they are put off and others go, and what passes fails none of them."""

import gc
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.durable import is_held
from service.app import LOADS
from service.context import MOST_LOADING
from tests.contract.conftest import Changed, Serve
from tests.contract.job_calls import NAME, TILES, ended, running, show, submitted
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


def test_a_content_type_is_kept_as_long_as_a_name_may_be(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    with serve(app_of_jobs()) as client:
        kind = "application/octet-stream; x=" + "y" * 4000
        answers = [client.post("/v1/jobs", content=scan, headers=NAME | {"Content-Type": kind, "Idempotency-Key": "k"}) for _ in range(2)]
        assert [each.status_code for each in answers] == [202, 200]
        ended(client, answers[0].json())
    with closing(sqlite3.connect(jobs_folder / "jobs.sqlite3")) as db:
        [(asked,)] = db.execute("SELECT asked FROM jobs").fetchall()
    assert json.loads(asked)["content_type"] == kind[:255]


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
