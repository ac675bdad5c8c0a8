"""Jobs of many who ask: nobody pays for the backlog, the debts or the curiosity of another."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import httpx

from service.auth.keys import Key, add_key, new_key, remove_key
from tests.contract.conftest import Changed, Serve
from tests.contract.job_calls import ended, post, problem, running, show, submitted
from tests.fire import paused, until


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
