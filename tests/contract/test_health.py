"""Alive, ready, and not ready before and after."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest
from fastapi import FastAPI

Serve = Callable[..., AbstractContextManager[httpx.Client]]


def test_a_started_service_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "alive"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_not_ready_until_started(app: FastAPI, serve: Serve) -> None:
    with serve(app, start=False) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        refused = client.post("/v1/classify", content=b"ply\n")
    assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
    assert (refused.status_code, refused.json()["code"], refused.headers["Retry-After"]) == (503, "not_ready", "1")


def test_draining_is_not_ready_but_still_answers(app: FastAPI, serve: Serve, ball: Callable[[int], bytes]) -> None:
    with serve(app) as client:
        app.state.context.lifecycle.phase = "draining"
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        assert client.post("/v1/classify", content=ball(100)).status_code == 200


def test_head_answers_without_a_body(app: FastAPI, serve: Serve) -> None:
    with serve(app) as client:
        found = [client.head("/health/live"), client.head("/health/ready")]
        app.state.context.lifecycle.phase = "draining"
        found.append(client.head("/health/ready"))
    assert [(response.status_code, response.content) for response in found] == [(200, b""), (200, b""), (503, b"")]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"), [("GET", "/nothing", 404, "not_found"), ("PUT", "/v1/classify", 405, "method_not_allowed")]
)
def test_the_framework_s_errors_are_problems_too(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


def test_an_unforeseen_error_tells_nothing(app: FastAPI, serve: Serve) -> None:
    @app.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("secret")

    with serve(app) as client:
        response = client.get("/breaks")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["X-Request-ID"]


def test_health_answers_while_others_compute(client: httpx.Client, ball: Callable[[int], bytes]) -> None:
    url = client.base_url
    stop = threading.Event()
    body = ball(200_000)

    def keep_busy() -> None:
        with httpx.Client(base_url=url, timeout=30) as other:
            while not stop.is_set():
                other.post("/v1/classify", content=body).raise_for_status()

    workers = [threading.Thread(target=keep_busy) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        slowest = max(client.get("/health/live").elapsed.total_seconds() for _ in range(50))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert slowest < 1.0
