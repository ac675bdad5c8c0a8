"""Who finds no room is told so at the door: no body is read, and nothing else is made of the request."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from uvicorn.server import ServerState

from service.app import create_app
from service.connections import Connections
from service.protocol import BoundedHttp
from service.server import configure
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import metric, paused, until, waiting

Ball = Callable[[int], bytes]

PLACES = 3
HEAD = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def app(tiny_settings: Settings) -> FastAPI:
    return create_app(tiny_settings.model_copy(update={"max_waiting": PLACES}))


@contextmanager
def full(app: FastAPI, client: httpx.Client, ball: Ball) -> Iterator[None]:
    """All places are taken meanwhile, by requests that are answered afterwards."""
    with ThreadPoolExecutor(PLACES) as threads:
        with paused(app):
            inside = [threads.submit(client.post, "/v1/classify", content=ball(100)) for _ in range(PLACES)]
            waiting(client, PLACES)
            yield
        assert [answer.result().status_code for answer in inside] == [200] * PLACES


@pytest.fixture
def crowded(app: FastAPI, serve: Serve, ball: Ball) -> Iterator[httpx.Client]:
    with serve(app) as client, full(app, client, ball):
        yield client


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(crowded: httpx.Client) -> Iterator[Connect]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection((crowded.base_url.host, crowded.base_url.port or 80), timeout=10))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with small names, and body of the next answer."""
    came = b""
    while b"\r\n\r\n" not in came:
        piece = connection.recv(1 << 16)
        assert piece, f"closed after {came!r}"
        came += piece
    head, _, body = came.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(1 << 16)
    assert len(body) == int(headers["content-length"])
    return int(lines[0].split()[1]), headers, body


def refused(connection: socket.socket) -> dict[str, str]:
    """The headers of an answer that is a refusal."""
    status, headers, body = answer(connection)
    assert (status, json.loads(body)["code"], headers["content-type"]) == (429, "overloaded", "application/problem+json")
    assert int(headers["retry-after"]) >= 1
    return headers


def descriptors_open() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_a_small_body_keeps_the_connection(connect: Connect, crowded: httpx.Client, ball: Ball) -> None:
    connection, body = connect(), ball(100)
    for number in range(3):
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\nX-Request-ID: r{number}\r\n\r\n".encode() + body)
        headers = refused(connection)
        assert (headers["x-request-id"], headers.get("connection")) == (f"r{number}", None)
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(connection)[0] == 200
    assert metric(crowded, "fip_rejected_total", reason="overloaded") == 3
    assert metric(crowded, "fip_request_duration_seconds_count", route="/v1/classify", code="429") == 3


def test_told_before_a_byte_of_the_body_has_come(connect: Connect) -> None:
    connection = connect()
    connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n".encode())
    assert "connection" not in refused(connection)
    connection.sendall(b"x" * 100 + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(connection)[0] == 200


@pytest.mark.parametrize("framing", [f"Content-Length: {32 << 20}", "Transfer-Encoding: chunked"])
def test_a_large_body_is_thrown_away_and_the_connection_ended(connect: Connect, framing: str) -> None:
    connection = connect()
    connection.sendall(f"{HEAD}{framing}\r\n\r\n".encode())
    assert refused(connection)["connection"] == "close"
    for _ in range(32):  # who goes on sending all the same is not reset meanwhile
        connection.sendall(bytes(1 << 20))
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""


def test_who_waits_for_leave_to_send_is_told_not_to(connect: Connect) -> None:
    connection = connect()
    connection.sendall(f"{HEAD}Content-Length: 100\r\nExpect: 100-continue\r\n\r\n".encode())
    assert refused(connection)["connection"] == "close"


def test_old_clients_and_those_that_close(connect: Connect) -> None:
    old = HEAD.replace("1.1", "1.0")
    for head in (old, old + "Connection: keep-alive\r\n", HEAD + "Connection: close\r\n"):
        connection = connect()
        connection.sendall(f"{head}Content-Length: 4\r\n\r\nbody".encode())
        assert refused(connection)["connection"] == "close"
        assert connection.recv(1) == b""


def test_one_after_the_other_on_a_pipeline(connect: Connect) -> None:
    connection = connect()
    request = f"{HEAD}Content-Length: 4\r\n\r\nbody".encode()
    connection.sendall(request + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" + request)
    found = b""
    while found.count(b"HTTP/1.1 ") < 3 or not found.endswith(b"}"):
        found += connection.recv(1 << 16)
    assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"429", b"200", b"429"]


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "", "Content-Length: 70000"])
def test_nothing_is_done_after_the_last_answer_of_a_connection(connect: Connect, crowded: httpx.Client, framing: str) -> None:
    before = descriptors_open()
    asked = metric(crowded, "fip_request_duration_seconds_count")
    connection = connect()
    framing = framing and f"{framing}\r\n"
    connection.sendall(f"{HEAD}{framing}\r\n".encode() * 200 + b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert refused(connection)["connection"] == "close"
    assert connection.recv(1) == b""
    connection.close()
    until(lambda: descriptors_open() <= before, "all descriptors are given back")
    assert metric(crowded, "fip_request_duration_seconds_count") - asked <= 3  # this one, and those for the metrics


def test_who_reads_nothing_is_not_answered_for_ever(connect: Connect, crowded: httpx.Client) -> None:
    connection = connect()
    connection.setblocking(False)
    request = f"{HEAD}Content-Length: 0\r\n\r\n".encode() * 500
    sent = 0
    began = time.monotonic()
    while time.monotonic() < began + 2 and sent < 64 << 20:
        with contextlib.suppress(BlockingIOError):
            sent += connection.send(request)
    assert sent < 32 << 20  # it is no longer read from
    assert crowded.get("/health/live").status_code == 200


def test_at_the_end_of_the_service_it_is_the_last_answer(tiny_settings: Settings, ball: Ball) -> None:
    """What uvicorn does with a connection while it drains is up to the protocol, which is asked here without a server."""
    app = create_app(tiny_settings.model_copy(update={"max_waiting": 1}))
    connections = Connections(app.state.context.settings, CollectorRegistry())
    connections.draining = True

    async def run() -> bytes:
        config = configure(app, connections, lifespan="off")
        config.load()
        ours, theirs = socket.socketpair()
        with theirs, app.state.context.admission.enter(1):
            make = partial(BoundedHttp, connections, app.state.doorman, config, ServerState(), {})
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(make, ours)
            theirs.sendall(f"{HEAD}Content-Length: 4\r\n\r\nbody".encode())
            theirs.setblocking(False)
            answer = await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
            transport.abort()
        return answer

    head = asyncio.run(run()).partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 429")
    assert b"connection: close" in head


def test_other_addresses_and_methods_are_not_for_the_doorman(connect: Connect, crowded: httpx.Client) -> None:
    assert crowded.get("/v1/models").status_code == 200
    assert crowded.get("/v1/classify").status_code == 405
    assert crowded.post("/v1/nothing", content=b"x").status_code == 404
    connection = connect()
    connection.sendall(b"POST http://x/v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
    assert refused(connection)["x-request-id"]  # by the route: the address is spelt otherwise


def test_room_again(app: FastAPI, serve: Serve, ball: Ball) -> None:
    with serve(app) as client:
        with full(app, client, ball):
            assert client.post("/v1/classify", content=ball(100)).status_code == 429
        assert client.post("/v1/classify", content=ball(100)).status_code == 200
        house = app.state.context.admission
        assert (house.requests, house.bytes, house.points) == (0, 0, 0)
