"""Clients who leave, and clients whose time is over: their work ends where it is, and never reaches the device."""

import asyncio
import http.client
import json
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import FastAPI

from service.admission import KEPT_S
from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import metric, paused, until, waiting

Ball = Callable[[int], bytes]
PLENTY = 50


@pytest.fixture
def client(serve: Serve, app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as client:
        yield client


def sent(client: httpx.Client, body: bytes, path: str = "/v1/classify") -> socket.socket:
    """A connection on which a request has been sent, and nothing read."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 0))
    connection.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body)
    return connection


@pytest.mark.parametrize("abruptly", [False, True])
def test_who_leaves_while_waiting_is_out_of_the_line_at_once_and_in_no_pass(
    app: FastAPI, client: httpx.Client, ball: Ball, abruptly: bool
) -> None:
    passes = metric(client, "fip_batch_requests_sum")
    with ThreadPoolExecutor(2) as threads:
        with paused(app):
            blocker = threads.submit(client.post, "/v1/classify", content=ball(100))
            waiting(client, 1)
            gone = [sent(client, ball(100)) for _ in range(PLENTY)]
            stays = threads.submit(client.post, "/v1/classify", content=ball(120))
            waiting(client, PLENTY + 2)
            for connection in gone:
                if abruptly:  # a reset, as of a process that is killed
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            took_s = until(lambda: metric(client, "fip_queue_requests") == 2, "they are out of the line")
            assert metric(client, "fip_cancelled_total", stage="queue") == PLENTY
            assert app.state.context.admission.requests == 2
        assert blocker.result().status_code == 200
        assert stays.result().json()["num_points"] == 120
    assert metric(client, "fip_batch_requests_sum") - passes == 2
    assert took_s < 1.0  # benchmarked: cancel_ms_p99


def test_who_leaves_while_a_pass_is_under_way_takes_no_one_along(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    with ThreadPoolExecutor(1) as threads:
        with paused(app):
            gone = sent(client, ball(100))
            waiting(client, 1)
            gone.close()
            until(lambda: metric(client, "fip_cancelled_total", stage="forward") == 1, "noticed in the middle")
            stays = threads.submit(client.post, "/v1/classify", content=ball(120))
        assert stays.result().status_code == 200


def test_a_cloud_of_many_tiles_stops_at_the_next_one(serve: Serve, segment_settings: Settings, scan: bytes) -> None:
    app = create_app(segment_settings.model_copy(update={"tile_voxels": 1500, "tile_halo": 2}))
    with serve(app) as client:
        whole = client.post("/v1/segment?input_format=bin", content=scan).json()
        assert whole["tiles"] > 3
        before = metric(client, "fip_batch_requests_sum")
        with paused(app):
            connection = sent(client, scan, "/v1/segment?input_format=bin")
            waiting(client, 1)
            connection.close()
            until(lambda: metric(client, "fip_cancelled_total", stage="forward") == 1, "noticed in the first tile")
        assert client.post("/v1/segment?input_format=bin", content=scan).json()["tiles"] == whole["tiles"]
        assert metric(client, "fip_batch_requests_sum") - before == 1 + whole["tiles"]


def test_the_log_says_where_a_client_left(app: FastAPI, client: httpx.Client, ball: Ball, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fip.service")
    with paused(app):
        first, second = sent(client, ball(100)), None
        waiting(client, 1)
        second = sent(client, ball(100))
        waiting(client, 2)
        second.close()
        until(lambda: metric(client, "fip_cancelled_total") == 1, "noticed")
    first.close()
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    [left] = [each for each in fields if each.get("status") == 499 and each.get("stage") == "queue"]
    assert left["path"] == "/v1/classify"
    assert left["ms"] > 0
    assert metric(client, "fip_request_duration_seconds_count", code="499") >= 1


def test_who_leaves_in_the_middle_of_the_body(client: httpx.Client, app: FastAPI, ball: Ball) -> None:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 0))
    connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nply")
    until(lambda: metric(client, "fip_requests_in_flight") == 2, "it is being received")
    house = app.state.context.admission
    time.sleep(KEPT_S + 0.05)
    house.check(0)
    assert house.requests == 0  # a body that may never come does not keep its place
    connection.close()
    until(lambda: metric(client, "fip_cancelled_total", stage="read") == 1, "noticed")


def test_who_leaves_while_its_answer_is_sent(serve: Serve, segment_settings: Settings, scan: bytes) -> None:
    """The answer is larger than what the kernel keeps for a client that does not read."""
    with serve(create_app(segment_settings)) as client:
        connection = sent(client, scan * 400, "/v1/segment?input_format=bin&format=csv")
        connection.recv(1)
        connection.close()
        until(lambda: metric(client, "fip_cancelled_total", stage="send") == 1, "noticed")
        until(lambda: metric(client, "fip_requests_in_flight") == 1, "nothing goes on but the question")


def test_a_time_limit_is_kept_in_the_line(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    passes = metric(client, "fip_batch_requests_sum")
    with ThreadPoolExecutor(1) as threads:
        with paused(app):
            blocker = threads.submit(client.post, "/v1/classify", content=ball(100))
            waiting(client, 1)
            began = time.monotonic()
            late = client.post("/v1/classify", content=ball(100), headers={"X-Request-Timeout": "0.3"})
            took_s = time.monotonic() - began
            waiting(client, 1)
        blocker.result()
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert late.headers["Content-Type"] == "application/problem+json"
    assert "X-Request-ID" in late.headers
    assert 0.3 <= took_s < 3
    assert metric(client, "fip_batch_requests_sum") - passes == 1
    assert metric(client, "fip_rejected_total", reason="deadline_exceeded") == 1
    assert client.post("/v1/classify", content=ball(100), headers={"X-Request-Timeout": "30"}).status_code == 200


def test_a_time_limit_is_kept_while_the_body_is_on_its_way(client: httpx.Client) -> None:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 0))
    connection.settimeout(5)
    connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nX-Request-Timeout: 0.2\r\nContent-Length: 1000\r\n\r\nply")
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    assert (answer.status, json.loads(answer.read())["code"], answer.headers["Connection"]) == (504, "deadline_exceeded", "close")
    assert connection.recv(1) == b""
    connection.close()


def test_a_time_limit_of_the_service_binds_also_those_who_ask_for_more(serve: Serve, tiny_settings: Settings, ball: Ball) -> None:
    app = create_app(tiny_settings.model_copy(update={"request_seconds": 0.3}))
    with serve(app) as client, paused(app):
        for headers in ({}, {"X-Request-Timeout": "100"}):
            answer = client.post("/v1/classify", content=ball(100), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf", "1e9", "１", "1 s"])
def test_a_time_limit_that_is_none(client: httpx.Client, ball: Ball, value: str) -> None:
    answer = client.post("/v1/classify", content=ball(100), headers={"X-Request-Timeout": value.encode()})
    assert (answer.status_code, answer.json()["code"], answer.json()["where"]) == (422, "bad_option", "X-Request-Timeout")


def test_a_full_house_says_no_politely(serve: Serve, tiny_settings: Settings, ball: Ball) -> None:
    app = create_app(tiny_settings.model_copy(update={"max_waiting": 4}))
    with serve(app) as client, ThreadPoolExecutor(4) as threads:
        with paused(app):
            inside = [threads.submit(client.post, "/v1/classify", content=ball(100)) for _ in range(4)]
            waiting(client, 4)
            refused = client.post("/v1/classify", content=ball(100))
            large = client.post("/v1/classify", content=bytes(8 << 20))
            assert client.get("/health/ready").status_code == 200
        assert [answer.result().status_code for answer in inside] == [200] * 4
        for answer in (refused, large):
            assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
            assert int(answer.headers["Retry-After"]) >= 1
        assert metric(client, "fip_rejected_total", reason="overloaded") == 2
        assert client.post("/v1/classify", content=ball(100)).status_code == 200


def test_a_client_that_leaves_an_idle_service_costs_nothing_later(app: FastAPI, client: httpx.Client, ball: Ball) -> None:
    async def storm() -> None:
        async def one() -> None:
            _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            body = ball(100)
            writer.write(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

        await asyncio.gather(*(one() for _ in range(100)))

    asyncio.run(storm())
    until(lambda: metric(client, "fip_requests_in_flight") == 1, "all are through")
    house = app.state.context.admission
    assert (house.requests, house.bytes, house.points) == (0, 0, 0)
    assert client.post("/v1/classify", content=ball(100)).status_code == 200
