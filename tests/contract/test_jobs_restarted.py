"""Jobs go on in the next service, unless it is their fault that there is one, or their model is another now."""

from contextlib import ExitStack
from pathlib import Path

from service.jobs.rows import MOST_RUNS
from service.jobs.store import Store
from service.schemas import JobError
from tests.contract.conftest import Changed, Serve
from tests.contract.job_calls import NAME, TILES, ended, running, show, submitted
from tests.fire import paused


def test_a_job_goes_on_in_the_next_service(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    app = app_of_jobs(**TILES)
    with ExitStack() as stuck:
        with serve(app) as client:
            stuck.enter_context(paused(app))
            jobs = [submitted(client, scan, format="label") for _ in range(3)]
            running(client, jobs[0])
        (jobs_folder / ("f" * 32)).mkdir()
        (jobs_folder / jobs[1]["id"] / ".result.part").write_bytes(b"half")
    with serve(app_of_jobs()) as client:
        results = {client.get(ended(client, job)["links"]["result"]).content for job in jobs}
        assert results == {client.post("/v1/segment?format=label", content=scan, headers=NAME).content}
        assert sorted(each.name for each in jobs_folder.iterdir() if each.is_dir()) == sorted(job["id"] for job in jobs)


def test_a_job_over_which_the_service_died_too_often_is_given_up(
    serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes
) -> None:
    app = app_of_jobs()
    with ExitStack() as stuck, serve(app) as client:
        stuck.enter_context(paused(app))
        deadly, job = (submitted(client, scan) for _ in range(2))
        running(client, deadly)
    store = Store(jobs_folder / "jobs.sqlite3")
    for death in range(MOST_RUNS):
        claimed = store.claim(deadly["id"], float(death))
        assert claimed is not None
        assert claimed.id == deadly["id"]
        if death < MOST_RUNS - 1:
            assert store.recover(MOST_RUNS, JobError(code="x", detail="x", where=None), float(death)) == []
    store.close()
    with serve(app_of_jobs()) as client:
        failed = show(client, deadly)
        assert (failed["state"], failed["error"]["code"]) == ("failed", "gave_up")
        assert not (jobs_folder / deadly["id"]).exists()
        assert ended(client, job)["state"] == "done"


def test_a_version_that_changed_is_not_taken_for_the_one_of_then(serve: Serve, app_of_jobs: Changed, scan: bytes, tmp_path: Path) -> None:
    from tests.untrained_segmenter import save_segmenter

    registry = tmp_path / "registry"
    save_segmenter(registry / "streets" / "1", "streets")
    app = app_of_jobs(registry=str(registry))
    with ExitStack() as stuck, serve(app) as client:
        stuck.enter_context(paused(app))
        jobs = [submitted(client, scan, format="label") for _ in range(2)]
        running(client, jobs[0])
    (registry / "streets").rename(tmp_path / "streets")
    save_segmenter(registry / "streets" / "1", "streets", seed=1)
    with serve(app_of_jobs(registry=str(registry))) as client:
        assert {ended(client, job)["error"]["code"] for job in jobs} == {"model_changed"}
