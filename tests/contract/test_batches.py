"""Requests that go through the net together get the answers that they get alone; who does not fit goes in turn."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import BODY_LIMIT, Serve
from tests.fire import metric, paused, until, waiting
from tests.open_inference import address, body_of, read_answer

Ball = Callable[[int], bytes]
POINTS = (30, 100, 300, 1000, 3000, 10_000, 47, 2000)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """With the bundled models: an untrained net gives every cloud much the same."""
    return create_app(Settings(max_body_bytes=BODY_LIMIT))


@pytest.fixture(scope="module")
def bundled(serve: Serve, app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as client:
        yield client


def together(app: FastAPI, client: httpx.Client, posts: list[Callable[[httpx.Client], httpx.Response]]) -> list[httpx.Response]:
    """The answers to requests that all wait in line before the device looks at any of them."""
    with ThreadPoolExecutor(len(posts)) as threads:
        with paused(app):
            blocker = threads.submit(posts[0], client)  # the device is given this one, and stops
            waiting(client, 1)
            answers = [threads.submit(post, client) for post in posts[1:]]
            waiting(client, len(posts))
        return [blocker.result(), *(answer.result() for answer in answers)]


def test_a_batch_of_clouds_of_all_sizes_answers_as_each_alone(app: FastAPI, bundled: httpx.Client, ball: Ball) -> None:
    def post(points: int) -> Callable[[httpx.Client], httpx.Response]:
        return lambda client: client.post("/v1/classify", params={"logits": "true", "top": "40"}, content=ball(points))

    alone = [post(points)(bundled).json() for points in POINTS]
    before = metric(bundled, "fip_batch_requests_count")
    found = [answer.json() for answer in together(app, bundled, [post(points) for points in (30, *POINTS)])][1:]
    assert metric(bundled, "fip_batch_requests_count") - before == 2  # the one in front, and all others at once
    for one, other in zip(alone, found, strict=True):
        assert one["predictions"][0]["label"] == other["predictions"][0]["label"]
        np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-4)


def test_a_batch_of_scans_labels_every_point_as_each_alone(app: FastAPI, bundled: httpx.Client, scan: bytes) -> None:
    points = np.frombuffer(scan, "<f4").reshape(-1, 4)
    scans = [np.ascontiguousarray(points[::step]).tobytes() for step in (1, 2, 3, 7)]

    def post(body: bytes) -> Callable[[httpx.Client], httpx.Response]:
        return lambda client: client.post("/v1/segment", params={"format": "raw", "input_format": "bin"}, content=body)

    alone = [post(body)(bundled).content for body in scans]
    before = metric(bundled, "fip_batch_requests_count")
    found = [answer.content for answer in together(app, bundled, [post(body) for body in (scans[-1], *scans)])][1:]
    assert metric(bundled, "fip_batch_requests_count") - before == 2
    for body, one, other in zip(scans, alone, found, strict=True):
        count = len(body) // 16
        assert one[:count] == other[:count]
        sure, other_sure = (np.frombuffer(each, "<f2", offset=count).astype(float) for each in (one, other))
        np.testing.assert_allclose(sure, other_sure, atol=2e-3)


def test_a_batch_of_scans_has_the_logits_of_each_alone(app: FastAPI, bundled: httpx.Client, scan: bytes) -> None:
    table = np.frombuffer(scan, "<f4").reshape(-1, 4)
    scans = [table[::step] for step in (1, 2, 3, 7)]

    def post(points: np.ndarray) -> Callable[[httpx.Client], httpx.Response]:
        inputs = {"points": np.ascontiguousarray(points[:, :3]), "intensity": np.ascontiguousarray(points[:, 3])}
        body, headers = body_of(inputs, outputs=[{"name": "logits"}])
        return lambda client: client.post(address("lidar19"), content=body, headers=headers)

    alone = [read_answer(post(each)(bundled)).arrays["logits"] for each in scans]
    before = metric(bundled, "fip_batch_requests_count")
    answers = together(app, bundled, [post(each) for each in (scans[-1], *scans)])[1:]
    assert metric(bundled, "fip_batch_requests_count") - before == 2
    for points, one, answer in zip(scans, alone, answers, strict=True):
        assert one.shape == (len(points), 19)
        np.testing.assert_allclose(one, read_answer(answer).arrays["logits"], atol=1e-4)


def test_models_are_not_mixed(app: FastAPI, bundled: httpx.Client, ball: Ball) -> None:
    body = ball(500)
    posts = [lambda client: client.post("/v1/classify", content=body), lambda client: client.post("/v1/segment", content=body)] * 3
    before = metric(bundled, "fip_batch_requests_count")
    answers = together(app, bundled, posts)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert [answer.json()["model"]["name"] for answer in answers] == ["modelnet40", "lidar19"] * 3
    assert metric(bundled, "fip_batch_requests_count") - before == 3  # the one in front, then each model once


def test_the_budget_of_a_batch(serve: Serve, tiny_settings: Settings, ball: Ball) -> None:
    app = create_app(tiny_settings.model_copy(update={"batch_voxels": 1}))
    with serve(app) as client:
        before = metric(client, "fip_batch_requests_count")
        answers = together(app, client, [lambda client: client.post("/v1/classify", content=ball(100))] * 5)
        assert [answer.status_code for answer in answers] == [200] * 5
        assert metric(client, "fip_batch_requests_count") - before == 5


def test_small_clouds_do_not_wait_for_a_large_one_to_be_through(serve: Serve, segment_settings: Settings, scan: bytes) -> None:
    """A cloud of many tiles: between two of them others get their turn."""
    points = np.frombuffer(scan, "<f4").reshape(-1, 4)
    shifts = np.array([[40 * i, 40 * j, 0, 0] for i in range(7) for j in range(7)], "<f4")
    large = np.concatenate([points + shift for shift in shifts]).astype("<f4").tobytes()
    small = points[::30].tobytes()
    query = {"input_format": "bin", "format": "json"}
    with serve(create_app(segment_settings.model_copy(update={"tile_voxels": 6000, "tile_halo": 8}))) as client:
        took, done = [], threading.Event()

        def upload() -> httpx.Response:
            try:
                return client.post("/v1/segment", params=query, content=large, timeout=120)
            finally:
                done.set()

        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(upload)
            waiting(client, 1)
            while not done.is_set():
                began = time.perf_counter()
                assert client.post("/v1/segment", params=query, content=small).status_code == 200
                took.append(time.perf_counter() - began)
        found = answer.result().json()
    assert found["tiles"] >= 20
    assert len(took) >= found["tiles"] / 4  # a share of the device, not what the large one leaves over
    assert sorted(took)[len(took) // 2] < found["timings_ms"]["forward"] / 1000 / 3


def test_small_clouds_go_beside_a_long_pass(app: FastAPI, bundled: httpx.Client, ball: Ball, scan: bytes) -> None:
    """A cloud that is one pass of some seconds: what comes meanwhile does not wait for its end, and nobody's answer changes."""
    rng = np.random.default_rng(2)
    long = np.column_stack([rng.uniform([-90, -90, 0], [90, 90, 8], (120_000, 3)), rng.random(120_000)]).astype("<f4").tobytes()
    query = {"input_format": "bin", "format": "raw"}
    alone = bundled.post("/v1/classify", params={"logits": "true"}, content=ball(2000)).json()
    same_net = bundled.post("/v1/segment", params=query, content=scan)
    before = bundled.post("/v1/segment", params=query, content=long, timeout=120)
    took = []
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(bundled.post, "/v1/segment", params=query, content=long, timeout=120)
        until(lambda: app.state.context.scheduler.seconds_left > 0, "the long pass is under way")
        while not answer.done():
            began = time.perf_counter()
            found = bundled.post("/v1/classify", params={"logits": "true"}, content=ball(2000)).json()
            took.append(time.perf_counter() - began)
            np.testing.assert_allclose(found["logits"], alone["logits"], atol=1e-4)
            assert bundled.post("/v1/segment", params=query, content=scan).content == same_net.content
    assert "X-Tiles" not in before.headers  # one pass
    assert answer.result().content == before.content
    assert len(took) >= 4
