"""The worker is killed, hangs, runs out of memory, dies of a request: the service goes on, and nobody else notices but by waiting."""

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.batching import Line
from service.settings import Settings
from service.worker.client import Lane, Net, Source, Worker
from service.worker.nursery import nursery
from tests.contract.conftest import Serve
from tests.fire import GIVE_UP_S, PROMPT_S, metric, paused, until, waiting, worker_pid

Ball = Callable[[int], bytes]


@pytest.fixture
def client(serve: Serve, app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as client:
        yield client


def ready(client: httpx.Client) -> int:
    return client.get("/health/ready").status_code


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_an_idle_worker_that_dies_is_missed_at_once_and_replaced(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    pid = worker_pid(app)
    kill(pid)
    until(lambda: metric(client, "fip_worker_restarts_total") == 1, "the death is noticed", 2)
    until(lambda: ready(client) == 200, "ready again", 15)
    assert client.post("/v1/classify", content=ball(100)).status_code == 200
    assert worker_pid(app) != pid
    assert metric(client, "fip_worker_up") == 1


def test_not_ready_while_there_is_no_worker_and_what_waits_is_kept(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    """With the nursery stopped no worker can be started: the time between is as long as the test likes."""
    alone = client.post("/v1/classify", content=ball(100)).json()["predictions"]
    keeper = nursery()._process
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGSTOP)
    try:
        kill(worker_pid(app))
        until(lambda: ready(client) == 503, "not ready", 2)
        assert client.get("/health/ready").json() == {"status": "recovering"}
        assert client.get("/health/live").status_code == 200
        assert metric(client, "fip_worker_up") == 0
        with ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(client.post, "/v1/classify", content=ball(100)) for _ in range(4)]
            waiting(client, 4)
            os.kill(keeper.pid, signal.SIGCONT)
            assert [answer.result().status_code for answer in answers] == [200] * 4
            assert answers[0].result().json()["predictions"] == alone
    finally:
        os.kill(keeper.pid, signal.SIGCONT)


@pytest.mark.parametrize("how_many", [1, 6])
def test_killed_in_the_middle_of_a_pass_nothing_is_lost(app: FastAPI, client: httpx.Client, ball: Ball, how_many: int) -> None:
    with ThreadPoolExecutor(how_many) as threads, paused(app) as pid:
        answers = [threads.submit(client.post, "/v1/classify", content=ball(200 + 10 * i)) for i in range(how_many)]
        waiting(client, how_many)
        kill(pid)
        found = [answer.result() for answer in answers]
    assert [answer.status_code for answer in found] == [200] * how_many
    assert [answer.json()["num_points"] for answer in found] == [200 + 10 * i for i in range(how_many)]


def test_the_nursery_may_die_too(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    keeper = nursery()._process
    assert keeper is not None
    kill(keeper.pid)
    kill(worker_pid(app))
    until(lambda: metric(client, "fip_worker_restarts_total") == 1 and ready(client) == 200, "another worker of another nursery", 60)
    assert client.post("/v1/classify", content=ball(100)).status_code == 200


def test_a_worker_that_hangs_is_replaced(serve: Serve, tiny_settings: Settings, ball: Ball) -> None:
    app = create_app(tiny_settings.model_copy(update={"forward_seconds": 0.5}))
    with serve(app) as client:
        pid = worker_pid(app)
        os.kill(pid, signal.SIGSTOP)
        assert client.post("/v1/classify", content=ball(100)).status_code == 200
        assert worker_pid(app) != pid
        until(lambda: not Path(f"/proc/{pid}").exists(), "the one that hung is gone", 5)


def test_a_request_that_takes_every_worker_down_is_refused_alone(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    """The worker is killed whenever it is given this cloud, known by its size; five others were in the same batch."""
    poison, others = 777, [100, 110, 120, 130, 140]
    device = app.state.context.device
    forward = device.forward

    def deadly(key: str, batch, lane):
        if any(len(voxels.inverse) == poison for voxels in batch):
            kill(worker_pid(app))
        return forward(key, batch, lane)

    device.forward = deadly  # what kills it, segmentation fault or memory, is not ours to bring about at will; the death is real
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(client.post, "/v1/classify", content=ball(points), timeout=60) for points in (poison, *others)]
        found = [answer.result() for answer in answers]
    assert [answer.status_code for answer in found] == [500, 200, 200, 200, 200, 200]
    assert found[0].json()["code"] == "worker_failed"
    assert 2 <= metric(client, "fip_worker_restarts_total") <= 3


def test_a_mistake_in_the_line_costs_one_pass_and_not_all_that_come(
    app: FastAPI, client: httpx.Client, ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(Line, "measured", lambda self, batch, seconds: [][0])
        refused = client.post("/v1/classify", content=ball(100))
        assert (refused.status_code, refused.json()["code"]) == (500, "worker_failed")
    assert client.post("/v1/classify", content=ball(100)).status_code == 200
    mistakes: list[int] = []

    def mistaken(self, express: bool = False):
        mistakes.append(1)
        raise RuntimeError("a mistake")

    with monkeypatch.context() as changed, ThreadPoolExecutor(1) as threads:
        changed.setattr(Line, "take", mistaken)
        waits = threads.submit(client.post, "/v1/classify", content=ball(100))
        until(lambda: len(mistakes) > 1, "it went wrong, and again")
        changed.undo()
        assert waits.result().status_code == 200


def test_a_long_pass_is_answered_whatever_happens_beside_it(
    serve: Serve, segment_settings: Settings, street: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, wrong = Line.take, threading.Event()

    def mistaken(self, express: bool = False):
        if not express:
            return take(self)
        wrong.set()
        raise RuntimeError("a mistake")

    query = {"format": "label", "input_format": "bin"}
    with serve(create_app(segment_settings.model_copy(update={"batch_voxels": 1000}))) as client:
        expected = client.post("/v1/segment", params=query, content=street)
        monkeypatch.setattr(Line, "take", mistaken)
        assert client.post("/v1/segment", params=query, content=street).content == expected.content
    assert wrong.is_set()


def test_a_model_whose_load_kills_the_worker_takes_no_request_along(
    serve: Serve, segment_settings: Settings, ball: Ball, scan: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tries to load it, each in the middle of a pass of the same request."""
    load, forward, passing, kills = Worker.load, Worker.forward, threading.Event(), list[int]()

    def deadly(self: Worker, source: Source) -> Net:
        if source.key.startswith("smooth") and len(kills) < 2:
            assert passing.wait(GIVE_UP_S)
            passing.clear()
            assert self.pid is not None
            kill(self.pid)
            kills.append(self.pid)
        return load(self, source)

    def beside(self: Worker, key: str, batch, lane: Lane = "usual"):
        if (before := len(kills)) < 2:
            passing.set()
            until(lambda: len(kills) > before, "the load killed the worker")
        return forward(self, key, batch, lane)

    app = create_app(segment_settings)
    with serve(app) as client, ThreadPoolExecutor(2) as threads:
        monkeypatch.setattr(Worker, "load", deadly)
        monkeypatch.setattr(Worker, "forward", beside)
        asked = threads.submit(client.post, "/v1/classify", content=ball(100))
        loads = threads.submit(client.post, "/v1/segment", params={"model": "smooth", "input_format": "bin"}, content=scan)
        assert loads.result().json()["code"] == "bad_checkpoint"
        assert asked.result().status_code == 200
        assert len(kills) == 2


def address_space(pid: int, what: str = "VmSize") -> int:
    """Bytes of it in use, or the most that ever were (VmPeak)."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) << 10


@contextmanager
def spare_memory(pid: int, size: int) -> Iterator[None]:
    """The process can have so much more, and is refused what goes beyond."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + size, before[1]))
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def street() -> bytes:
    """40,000 points, nearly all in voxels of their own."""
    rng = np.random.default_rng(1)
    xyz = rng.uniform([-40, -40, 0], [40, 40, 6], (40_000, 3))
    return np.column_stack([xyz, rng.random(len(xyz))]).astype("<f4").tobytes()


def fresh(app: FastAPI, client: httpx.Client) -> int:
    """A worker that has computed nothing yet, and so holds no memory that it could use again."""
    before = metric(client, "fip_worker_restarts_total")
    kill(worker_pid(app))
    until(lambda: metric(client, "fip_worker_restarts_total") > before and ready(client) == 200, "a worker")
    return worker_pid(app)


QUERY = {"input_format": "bin", "format": "raw"}


def test_out_of_memory_a_cloud_is_cut_into_tiles_that_fit(serve: Serve, segment_settings: Settings, street: bytes) -> None:
    app = create_app(segment_settings.model_copy(update={"tile_halo": 2}))
    with serve(app) as client:
        pid = fresh(app, client)
        before = address_space(pid)
        whole = client.post("/v1/segment", params=QUERY, content=street)
        assert whole.status_code == 200
        takes = address_space(pid, "VmPeak") - before
        pid = fresh(app, client)
        with spare_memory(pid, takes // 2):
            answer = client.post("/v1/segment", params=QUERY, content=street)
        assert answer.status_code == 200, answer.text
        assert int(answer.headers["X-Tiles"]) > 1
        assert worker_pid(app) == pid  # it said that it had no more, and lived
        same = np.frombuffer(answer.content, np.uint8, 40_000) == np.frombuffer(whole.content, np.uint8, 40_000)
        assert same.mean() > 0.9  # margins of two voxels, and an untrained net


def test_out_of_memory_a_batch_is_split_and_everybody_answered(serve: Serve, segment_settings: Settings, street: bytes) -> None:
    """Four clouds wait, of which two fit into memory together."""
    app = create_app(segment_settings.model_copy(update={"batch_voxels": 1_000_000}))
    small = street[: 10_000 * 16]
    with serve(app) as client, ThreadPoolExecutor(5) as threads:
        pid = fresh(app, client)
        before = address_space(pid)
        alone = client.post("/v1/segment", params=QUERY, content=street).content
        takes = address_space(pid, "VmPeak") - before
        pid = fresh(app, client)
        passes = metric(client, "fip_batch_requests_count")
        with paused(app):
            blocker = threads.submit(client.post, "/v1/segment", params=QUERY, content=small)
            waiting(client, 1)
            answers = [threads.submit(client.post, "/v1/segment", params=QUERY, content=street, timeout=60) for _ in range(4)]
            waiting(client, 5)
            limited = spare_memory(pid, int(2.5 * takes))
            limited.__enter__()
        found = [answer.result() for answer in answers]
        limited.__exit__(None, None, None)
        assert blocker.result().status_code == 200
        assert [answer.status_code for answer in found] == [200] * 4
        assert all(answer.content[:40_000] == alone[:40_000] and "X-Tiles" not in answer.headers for answer in found)
        assert metric(client, "fip_batch_requests_count") - passes >= 4  # the one in front, four at once, and the parts of these
        assert worker_pid(app) == pid


def test_out_of_memory_what_fits_in_no_size_is_refused_and_its_neighbours_are_answered(
    serve: Serve, segment_settings: Settings, street: bytes
) -> None:
    """Hardly any memory is left: enough for clouds of twenty points, not for a tile with the margin of all that the net sees."""
    app = create_app(segment_settings)
    few = [street[: (20 + i) * 16] for i in range(5)]
    with serve(app) as client, ThreadPoolExecutor(6) as threads:
        pid = fresh(app, client)
        for body in few:
            assert client.post("/v1/segment", params=QUERY, content=body).status_code == 200
        with paused(app):
            blocker = threads.submit(client.post, "/v1/segment", params=QUERY, content=few[0])
            waiting(client, 1)
            guilty = threads.submit(client.post, "/v1/segment", params=QUERY, content=street, timeout=60)
            neighbours = [threads.submit(client.post, "/v1/segment", params=QUERY, content=body) for body in few[1:]]
            waiting(client, 6)
            limited = spare_memory(pid, 1 << 20)
            limited.__enter__()
        answers = [answer.result() for answer in (blocker, *neighbours)]
        refused = guilty.result()
        limited.__exit__(None, None, None)
        assert [answer.status_code for answer in answers] == [200] * 5
        assert (refused.status_code, refused.json()["code"]) == (507, "out_of_memory")
        assert worker_pid(app) == pid
        assert client.post("/v1/segment", params=QUERY, content=street).status_code == 200


def test_a_model_removed_from_the_registry_goes_on_until_its_worker_dies(
    serve: Serve, tiny_registry: Path, tmp_path: Path, ball: Ball
) -> None:
    shutil.copytree(tiny_registry, tmp_path / "registry")
    app = create_app(Settings(registry=str(tmp_path / "registry"), model="tiny", lookup_seconds=3600))
    with serve(app) as client:
        shutil.rmtree(tmp_path / "registry" / "tiny")
        assert client.post("/v1/classify", content=ball(100)).status_code == 200
        kill(worker_pid(app))
        until(lambda: metric(client, "fip_worker_restarts_total") == 1 and ready(client) == 200, "a worker without it")
        answer = client.post("/v1/classify", content=ball(100))
        assert answer.status_code in (404, 500)
        assert answer.json()["code"] in ("unknown_model", "bad_checkpoint")
        assert client.post("/v1/segment", content=ball(100)).status_code == 200  # the bundled one


def test_nothing_of_a_worker_is_left_when_the_service_ends(serve: Serve, app: FastAPI) -> None:
    with serve(app):
        pid = worker_pid(app)
        began = time.monotonic()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the worker is gone", 5)
    assert time.monotonic() - began < PROMPT_S


def test_the_end_does_not_wait_for_a_worker_that_cannot_be_started(serve: Serve, app: FastAPI) -> None:
    keeper = nursery()._process
    with serve(app) as client:
        assert keeper is not None
        os.kill(keeper.pid, signal.SIGSTOP)
        kill(worker_pid(app))
        until(lambda: ready(client) == 503, "not ready", 2)
        began = time.monotonic()
    took_s = time.monotonic() - began
    os.kill(keeper.pid, signal.SIGCONT)
    assert took_s < 20


def test_workers_that_die_one_after_the_other_leave_nothing_behind(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(6):
        fresh(app, client)
    assert client.post("/v1/classify", content=ball(100)).status_code == 200
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 4
