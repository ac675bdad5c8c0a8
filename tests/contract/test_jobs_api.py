"""/v1/jobs: accepted, run, listened to, cancelled, expired; over a real socket, with a real store and real files."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.errors import BadOption
from service.auth.keys import add_key, new_key
from service.schemas import JOB_STATES
from tests.contract.conftest import Changed, Serve
from tests.contract.job_calls import NAME, TILES, ended, events, metric_free, post, problem, running, show, submitted
from tests.fire import metric, paused, until, waiting
from tests.sweep import sweep

UNKNOWN = ("0" * 32, "x", "../lock", "%2e%2e", "A" * 32, "0" * 33, "jobs.sqlite3", "0" * 31 + "%0a", "\N{ARABIC-INDIC DIGIT ONE}" * 32)


@pytest.fixture
def app(app_of_jobs: Changed) -> FastAPI:
    return app_of_jobs()


@pytest.fixture
def client(serve: Serve, app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as client:
        yield client


@pytest.mark.parametrize("fmt", ["ply", "label", "npz", "same"])
def test_the_result_is_what_segment_answers(client: httpx.Client, scan: bytes, fmt: str) -> None:
    done = ended(client, submitted(client, scan, format=fmt))
    assert (done["state"], done["error"], done["progress"], done["position"]) == ("done", None, None, None)
    result = client.get(done["links"]["result"])
    direct = client.post("/v1/segment", content=scan, params={"format": fmt}, headers=NAME)
    assert result.content == direct.content
    assert done["result"]["bytes"] == len(direct.content)
    assert set(result.headers) == set(direct.headers)
    for name in ("X-Model", "X-Num-Points", "Content-Disposition", "Content-Type", "Content-Length"):
        assert result.headers[name] == direct.headers[name], name
    assert f'"{done["result"]["name"]}"' in direct.headers["Content-Disposition"]


def test_json_and_what_the_headers_say_of_tiles(serve: Serve, app_of_jobs: Changed, scan: bytes) -> None:
    with serve(app_of_jobs(**TILES)) as client:
        result = client.get(ended(client, submitted(client, scan))["links"]["result"])
        direct = client.post("/v1/segment", content=scan, headers=NAME)
    assert {**result.json(), "timings_ms": None} == {**direct.json(), "timings_ms": None}
    assert set(result.json()["timings_ms"]) == set(direct.json()["timings_ms"])
    assert int(result.headers["X-Tiles"]) > 3
    assert result.headers["X-Halo"] == direct.headers["X-Halo"]


def test_a_form_and_accept_do_as_for_segment(client: httpx.Client, scan: bytes) -> None:
    form = client.post("/v1/jobs", files={"file": ("yard.bin", scan)}, headers={"Accept": "application/x-npz"})
    assert form.status_code == 202, form.text
    direct = client.post("/v1/segment", files={"file": ("yard.bin", scan)}, headers={"Accept": "application/x-npz"})
    result = client.get(ended(client, form.json())["links"]["result"])
    assert (form.json()["name"], result.headers["Content-Disposition"]) == ("yard.bin", direct.headers["Content-Disposition"])
    assert result.content == direct.content


def test_its_life_is_told_and_leaves_nothing_but_the_result(client: httpx.Client, app: FastAPI, jobs_folder: Path, scan: bytes) -> None:
    with paused(app):
        first, second = submitted(client, scan, format="label"), submitted(client, scan, format="label")
        running(client, first)
        shown, waits = show(client, first), show(client, second)
        assert (shown["state"], shown["position"], shown["finished"], shown["result"]) == ("running", None, None, None)
        assert (shown["progress"]["done"], shown["progress"]["parts"]) == (0, 1)
        assert (waits["state"], waits["position"], waits["started"], waits["progress"]) == ("queued", 1, None, None)
        assert (metric(client, "fip_jobs", state="running"), metric(client, "fip_jobs", state="queued")) == (1, 1)
        assert problem(client.get(first["links"]["result"])) == (409, "not_done")
        assert {each.name for each in (jobs_folder / first["id"]).iterdir()} == {"input"}
    done = ended(client, second)
    assert done["created"] <= done["started"] <= done["finished"] < done["expires"]
    listed = client.get("/v1/jobs").json()["jobs"]
    assert [each["id"] for each in listed] == [second["id"], first["id"]]
    assert [each["id"] for each in client.get("/v1/jobs?limit=1").json()["jobs"]] == [second["id"]]
    assert {each.name: [file.name for file in each.iterdir()] for each in jobs_folder.iterdir() if each.is_dir()} == {
        each["id"]: ["result"] for each in (first, second)
    }
    assert metric(client, "fip_jobs", state="done") == 2
    assert metric(client, "fip_job_duration_seconds_count", state="done") == 2


def test_every_listener_is_told_of_every_pass(serve: Serve, app_of_jobs: Changed, scan: bytes) -> None:
    app = app_of_jobs(**TILES)
    with serve(app) as client, ThreadPoolExecutor(8) as threads:
        with paused(app):
            job = submitted(client, scan, format="label")
            running(client, job)
            listeners = [threads.submit(events, client, job) for _ in range(8)]
            until(lambda: metric(client, "fip_requests_in_flight") >= 9, "they listen")
        for told in (each.result() for each in listeners):
            kinds = [kind for kind, _ in told]
            assert kinds == ["progress"] * (len(told) - 1) + ["done"]
            assert told[-1][1] == show(client, job)
            done = [info["progress"]["done"] for _, info in told[:-1]]
            assert done == sorted(done)
            assert len(set(done)) > 2
    assert metric_free(app)


def test_who_listens_hears_something_now_and_then_and_may_leave(serve: Serve, app_of_jobs: Changed, scan: bytes) -> None:
    app = app_of_jobs(event_seconds=0.05)
    with serve(app) as client:
        with paused(app):
            job = submitted(client, scan)
            running(client, job)
            with client.stream("GET", job["links"]["events"]) as response:
                lines = response.iter_lines()
                heard = [next(lines) for _ in range(8)]
            assert [line.partition(":")[0] for line in heard if line] == ["event", "id", "data", "", ""]
            until(lambda: metric(client, "fip_requests_in_flight") == 1, "the listener is gone")
        assert ended(client, job)["state"] == "done"


def test_an_ended_job_is_told_once(client: httpx.Client, scan: bytes) -> None:
    job = submitted(client, scan)
    done = ended(client, job)
    assert events(client, job) == [("done", done)]


def test_a_job_that_waits_is_cancelled_at_once(client: httpx.Client, app: FastAPI, jobs_folder: Path, scan: bytes) -> None:
    with paused(app):
        first, second, third = (submitted(client, scan) for _ in range(3))
        running(client, first)
        assert client.delete(second["links"]["job"]).json()["state"] == "cancelled"
        assert not (jobs_folder / second["id"]).exists()
        assert show(client, third)["position"] == 1
        assert problem(client.get(second["links"]["result"])) == (409, "not_done")
    assert [ended(client, each)["state"] for each in (first, second, third)] == ["done", "cancelled", "done"]
    assert client.delete(second["links"]["job"]).json()["state"] == "cancelled"
    assert events(client, second) == [("cancelled", show(client, second))]


def test_a_job_that_runs_is_cancelled_and_the_next_one_runs(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    app = app_of_jobs(**TILES)
    with serve(app) as client, ThreadPoolExecutor(1) as threads:
        with paused(app):
            job, after = submitted(client, scan), submitted(client, scan)
            running(client, job)
            listener = threads.submit(events, client, job)
            until(lambda: metric(client, "fip_requests_in_flight") == 2, "somebody listens")
            passes = metric(client, "fip_batch_requests_count")
            assert client.delete(job["links"]["job"]).json()["state"] == "cancelled"
            until(lambda: not (jobs_folder / job["id"]).exists(), "its files are gone")  # while its pass is still stuck in the device
            until(lambda: show(client, after)["state"] == "running", "the next one runs")
            assert listener.result()[-1] == ("cancelled", show(client, job))
        done = ended(client, after)
        tiles = int(client.get(done["links"]["result"]).headers["X-Tiles"])
        assert metric(client, "fip_batch_requests_count") == passes + tiles
        assert show(client, job)["state"] == "cancelled"
        assert metric(client, "fip_jobs", state="cancelled") == 1
        assert metric_free(app)


def test_removing_a_result(client: httpx.Client, jobs_folder: Path, scan: bytes) -> None:
    job = ended(client, submitted(client, scan))
    gone = client.delete(job["links"]["job"]).json()
    assert (gone["state"], gone["finished"]) == ("expired", job["finished"])
    assert not (jobs_folder / job["id"]).exists()
    assert problem(client.get(job["links"]["result"])) == (410, "expired")


def test_results_expire_and_are_forgotten(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    with serve(app_of_jobs(job_seconds=3)) as client:
        job = submitted(client, scan)
        assert ended(client, job, "expired")["expires"] is not None
        gone = problem(client.get(job["links"]["result"]))
        assert gone in ((410, "expired"), (404, "unknown_job"))  # the latter on a very slow machine
        until(lambda: not (jobs_folder / job["id"]).exists(), "its files are gone")
        until(lambda: client.get(job["links"]["job"]).status_code == 404, "it is forgotten")
        assert client.get("/v1/jobs").json() == {"jobs": []}


def test_the_same_key_is_the_same_job(client: httpx.Client, scan: bytes) -> None:
    first = post(client, scan, "a-key", format="label")
    again = post(client, scan, "a-key", format="label")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    ended(client, first.json())
    assert post(client, scan, "a-key", format="label").json()["state"] == "done"
    assert post(client, scan, "b-key", format="label").json()["id"] != first.json()["id"]
    for other in (post(client, scan[:1600], "a-key", format="label"), post(client, scan, "a-key", format="ply")):
        assert problem(other) == (422, "idempotency_key_reused")
    for bad in ("", "a b", "x" * 129, "a/b"):
        assert problem(post(client, scan, bad)) == (422, "bad_option")
    assert len(client.get("/v1/jobs").json()["jobs"]) == 2


def test_a_key_whose_first_request_is_on_its_way(client: httpx.Client, app: FastAPI, scan: bytes) -> None:
    goes_on = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield scan[:1600]
        goes_on.wait(30)
        yield scan[1600:]

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post, "/v1/jobs", content=slowly(), headers=NAME | {"Idempotency-Key": "k"})
        until(lambda: app.state.context.admission.bytes > 0, "it is on its way")
        second = post(client, scan, "k")
        goes_on.set()
        assert first.result().status_code == 202
    assert problem(second) == (409, "idempotency_key_in_use")
    assert post(client, scan, "k").json()["id"] == first.result().json()["id"]


@pytest.mark.parametrize("job", UNKNOWN)
def test_unknown_jobs(client: httpx.Client, job: str) -> None:
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")):
        status, code = problem(client.request(method, f"/v1/jobs/{job}{path}"))
        assert (status, code) in ((404, "unknown_job"), (404, "not_found")), (method, path)


def test_jobs_are_seen_by_their_owner_alone(serve: Serve, app_of_jobs: Changed, tmp_path: Path, scan: bytes) -> None:
    keys = {}
    for owner in ("anna", "ben"):
        keys[owner], kept = new_key(owner, ["infer"], None, None)
        add_key(tmp_path / "keys.json", kept)
    with serve(app_of_jobs(keys=tmp_path / "keys.json")) as client:
        jobs = {}
        for owner, key in keys.items():
            client.headers["X-API-Key"] = key
            jobs[owner] = ended(client, post(client, scan, "same-key", format="label").json())
        assert jobs["anna"]["id"] != jobs["ben"]["id"]
        for path in ("job", "events", "result"):
            assert problem(client.get(jobs["anna"]["links"][path])) == (404, "unknown_job")
        assert problem(client.delete(jobs["anna"]["links"]["job"])) == (404, "unknown_job")
        assert client.get("/v1/jobs").json()["jobs"] == [jobs["ben"]]
        client.headers["X-API-Key"] = keys["anna"]
        assert show(client, jobs["anna"]) == jobs["anna"]


def test_as_many_jobs_as_there_may_be(serve: Serve, app_of_jobs: Changed, scan: bytes) -> None:
    app = app_of_jobs(max_jobs=2)
    with serve(app) as client:
        with paused(app):
            jobs = [post(client, scan, key).json() for key in ("a", "b")]
            refused = post(client, scan, "c")
            assert problem(refused) == (429, "too_many_jobs")
            assert int(refused.headers["Retry-After"]) >= 1
            assert post(client, scan, "b").status_code == 200  # it has its place
            client.delete(jobs[1]["links"]["job"])
            assert post(client, scan, "c").status_code == 202
        ended(client, jobs[0])


def test_as_many_bytes_as_there_may_be(serve: Serve, app_of_jobs: Changed, jobs_folder: Path, scan: bytes) -> None:
    with serve(app_of_jobs(max_jobs_bytes=2 * len(scan))) as client:
        assert problem(post(client, scan * 3)) == (413, "body_too_large")
        done = ended(client, submitted(client, scan, format="label"))
        refused = post(client, sweep(4, 2500).tobytes() + scan)
        assert problem(refused) == (429, "too_many_jobs")
        assert ended(client, submitted(client, scan, format="label"))["state"] == "done"  # a label file is a fourth of a scan
        large = ended(client, submitted(client, scan, format="csv"))
        assert (large["state"], large["error"]["code"]) == ("failed", "answer_too_large")
        assert not (jobs_folder / large["id"]).exists()
        assert client.delete(done["links"]["job"]).json()["state"] == "expired"
        assert sum(file.stat().st_size for file in jobs_folder.glob("*/*")) <= 2 * len(scan)


def test_what_cannot_be_done_is_refused_or_fails_as_segment_would(client: httpx.Client, jobs_folder: Path, scan: bytes) -> None:
    nan = b"\x00\x00\xc0\x7f" * 4
    for body, options in ((b"", {}), (b"junk", {}), (scan, {"format": "las2"}), (scan, {"model": "no-such"}), (scan, {"model": "tiny"})):
        direct = client.post("/v1/segment", content=body, params=options, headers=NAME)
        assert problem(post(client, body, **options)) == problem(direct)
    assert client.get("/v1/jobs").json() == {"jobs": []}
    direct = client.post("/v1/segment", content=scan + nan, headers=NAME).json()
    job = ended(client, submitted(client, scan + nan))
    assert job["state"] == "failed"
    assert job["error"] == {"code": direct["code"], "detail": direct["detail"], "where": direct.get("where")}
    assert direct["detail"] in client.get(job["links"]["result"]).json()["detail"]
    assert metric(client, "fip_jobs", state="failed") == 1
    assert [each for each in jobs_folder.iterdir() if each.is_dir()] == []


def test_a_service_without_a_folder_says_so(segment_client: httpx.Client, scan: bytes) -> None:
    answers = [post(segment_client, scan), segment_client.get("/v1/jobs")]
    answers += [segment_client.get(f"/v1/jobs/{'0' * 32}{path}") for path in ("", "/events", "/result")]
    answers += [segment_client.delete(f"/v1/jobs/{'0' * 32}")]
    assert {problem(each) for each in answers} == {(503, "jobs_off")}
    assert "FIP_JOBS_DIR" in answers[0].json()["detail"]


def test_one_service_a_folder(client: httpx.Client, app_of_jobs: Changed) -> None:
    with pytest.raises(BadOption, match="another service keeps its jobs"):
        app_of_jobs().state.context.jobs.rows.open()


def test_a_worker_that_dies_takes_no_job_along(client: httpx.Client, app: FastAPI, scan: bytes) -> None:
    with paused(app) as pid:
        job = submitted(client, scan, format="label")
        running(client, job)
        os.kill(pid, signal.SIGKILL)
    assert ended(client, job)["state"] == "done"


def test_an_input_that_is_lost_ends_its_job_and_no_other(client: httpx.Client, app: FastAPI, jobs_folder: Path, scan: bytes) -> None:
    with paused(app):
        first, lost, changed, last = (submitted(client, scan) for _ in range(4))
        running(client, first)
        (jobs_folder / lost["id"] / "input").unlink()
        (jobs_folder / changed["id"] / "input").write_bytes(scan[:160])
    assert [(ended(client, each)["error"] or {}).get("code") for each in (first, lost, changed, last)] == [
        None,
        "input_lost",
        "input_lost",
        None,
    ]


def test_interactive_requests_go_in_between(serve: Serve, app_of_jobs: Changed, scan: bytes) -> None:
    """A job of many passes, and requests that come while it runs."""
    with serve(app_of_jobs(**TILES, max_waiting_points=4000)) as client:
        job = submitted(client, (sweep(4, 60_000) * np.array([8, 8, 8, 1], "<f4")).tobytes())
        until(lambda: (show(client, job)["progress"] or {}).get("done", 0) > 0, "it is on its way")
        answers = [client.post("/v1/segment?format=label", content=scan[:1600], headers=NAME).status_code for _ in range(3)]
        assert show(client, job)["state"] == "running"
        assert answers == [200] * 3
        client.delete(job["links"]["job"])


def test_a_job_waits_until_there_is_room_for_its_cloud(serve: Serve, app_of_jobs: Changed, scan: bytes) -> None:
    app = app_of_jobs(max_waiting_points=4000)
    with serve(app) as client, ThreadPoolExecutor(1) as threads:
        with paused(app):
            before = threads.submit(client.post, "/v1/segment", content=scan, headers=NAME)
            waiting(client, 1)
            job = submitted(client, scan)
            until(lambda: (show(client, job)["progress"] or {}).get("stage") == "voxelize", "its cloud is read")
            assert app.state.context.admission.points == 3000  # those of the request
            assert metric(client, "fip_queue_requests") == 1
        assert before.result().status_code == 200
        assert ended(client, job)["state"] == "done"
        assert metric_free(app)


def test_who_leaves_while_sending_leaves_nothing(client: httpx.Client, app: FastAPI, jobs_folder: Path, scan: bytes) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        head = b"POST /v1/jobs?input_format=bin HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: %d\r\n\r\n" % len(scan)
        connection.sendall(head + scan[:-16])
        until(lambda: app.state.context.admission.bytes > 0, "it is on its way")
    until(lambda: metric_free(app), "nothing is held for it")
    assert client.get("/v1/jobs").json() == {"jobs": []}
    assert [each for each in jobs_folder.iterdir() if each.is_dir()] == []
    assert post(client, scan, "k").status_code == 202


def test_states_are_those_of_the_description(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["components"]["schemas"]["JobInfo"]["properties"]["state"]
    assert tuple(described["enum"]) == JOB_STATES
