"""How many connections there may be, and what HTTP/1.1 promises on each, over real sockets."""

import asyncio
import contextlib
import logging
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Request
from prometheus_client import CollectorRegistry

from service.app import create_app
from service.connections import AT_ONCE, FILES, Connections, listen, room_for
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.contract.test_slow_clients import answer, comes_true, connected, ends, metric, slow_clients
from tests.fire import request_lines

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
MOST = 8


@pytest.fixture(scope="module")
def capped(serve: Serve, tiny_registry: Path) -> Iterator[httpx.Client]:
    """A service with few connections, one of which is the client's own."""
    app = create_app(Settings(registry=str(tiny_registry), model="tiny", max_connections=MOST))

    @app.get("/until-left")
    async def until_left(request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)

    with serve(app) as client:
        client.get("/health/live")
        yield client


@pytest.fixture
def connect(capped: httpx.Client) -> Iterator[Callable[[], socket.socket]]:
    with contextlib.ExitStack() as held:

        def connect() -> socket.socket:
            return held.enter_context(connected(capped))

        yield connect
    assert comes_true(lambda: metric(capped, "fip_connections ") == 1)


def test_the_oldest_that_never_asked_makes_room(capped: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    before = slow_clients(capped, "evicted")
    asked = [connect() for _ in range(2)]
    for connection in asked:
        connection.sendall(GET)
        assert answer(connection)[0] == 200
    silent = [connect() for _ in range(MOST - 3)]
    assert comes_true(lambda: metric(capped, "fip_connections ") == MOST)
    newest = connect()
    newest.sendall(GET)
    assert answer(newest)[0] == 200
    assert ends(silent[0]) == b""
    for connection in (*asked, *silent[1:]):
        connection.sendall(GET)
        assert answer(connection)[0] == 200
    assert slow_clients(capped, "evicted") == before + 1


def test_one_too_many_is_answered_503(capped: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    before = slow_clients(capped, "refused")
    asked = [connect() for _ in range(MOST - 1)]
    for connection in asked:
        connection.sendall(GET)
        assert answer(connection)[0] == 200
    late = connect()
    late.sendall(GET)
    status, code, response = answer(late)
    assert (status, code, response.headers["Connection"]) == (503, "too_many_connections", "close")
    assert int(response.headers["Retry-After"]) >= 1
    assert ends(late) == b""
    assert slow_clients(capped, "refused") == before + 1
    for connection in asked:
        connection.sendall(GET)
        assert answer(connection)[0] == 200


def test_a_crowd_ends_no_answer(capped: httpx.Client, connect: Callable[[], socket.socket], ball: Callable[[int], bytes]) -> None:
    """Connections that ask nothing come and come; those that ask are answered."""
    crowd: list[socket.socket] = []
    over = threading.Event()

    def come() -> None:
        while not over.is_set():
            crowd.append(connected(capped))
            time.sleep(0.001)

    coming = threading.Thread(target=come)
    coming.start()
    try:
        for _ in range(20):
            assert capped.post("/v1/classify", content=ball(500)).status_code == 200
    finally:
        over.set()
        coming.join()
        for connection in crowd:
            connection.close()
    assert len(crowd) > MOST


def test_continue_is_said_before_the_body(capped: httpx.Client, connect: Callable[[], socket.socket], ball: Callable[[int], bytes]) -> None:
    body = ball(500)
    connection = connect()
    connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    assert answer(connection)[0] == 200


def test_pipelined_requests_are_answered_in_order(connect: Callable[[], socket.socket], ball: Callable[[int], bytes]) -> None:
    body = ball(500)
    post = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: post\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: get\r\n\r\n"
    connection = connect()
    connection.sendall(post + get + post + get[:20])
    assert answered(connection, 3) == [b"post", b"get", b"post"]
    connection.sendall(get[20:])
    assert answered(connection, 1) == [b"get"]


def answered(connection: socket.socket, requests: int) -> list[bytes]:
    """The ids of the next so many answers, none of which is large."""
    received = b""
    while received.count(b"}") < received.count(b"{") or received.count(b"HTTP/1.1 200 OK") < requests or not received.endswith(b"}"):
        received += connection.recv(1 << 16)
    return re.findall(rb"(?i)x-request-id: (\w+)", received)


def test_who_leaves_while_pipelining_is_missed(capped: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    """uvicorn would tell only the last of the requests, which has not begun."""
    connection = connect()
    connection.sendall(b"GET /until-left HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
    assert comes_true(lambda: metric(capped, "fip_requests_in_flight ") == 2)
    connection.close()
    assert comes_true(lambda: metric(capped, "fip_requests_in_flight ") == 1)


def test_http_1_0_is_answered_and_closed(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
    assert ends(connection).startswith(b"HTTP/1.1 200 ")


def test_what_is_not_http_is_answered_400(connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fip.service")
    connection = connect()
    connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))  # the beginning of TLS
    status, code, response = answer(connection)
    assert (status, code) == (400, "bad_request")
    [line] = request_lines(caplog)
    assert (line["status"], line["code"], line["path"]) == (400, "bad_request", None)
    assert line["request_id"] == response.headers["X-Request-ID"]


def test_a_broken_chunk_is_answered_400(capped: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nply\n\r\nzz\r\n")
    assert answer(connection)[:2] == (400, "bad_request")
    assert ends(connection) == b""
    assert comes_true(lambda: metric(capped, "fip_requests_in_flight ") == 1)


def test_what_was_asked_before_nonsense_is_answered(connect: Callable[[], socket.socket], ball: Callable[[int], bytes]) -> None:
    body = ball(500)
    connection = connect()
    connection.sendall(
        b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"nonsense\r\n\r\n"
    )
    status, _, response = answer(connection)
    assert (status, response.headers["Connection"]) == (200, "close")
    assert ends(connection) == b""


def test_the_limit_on_open_files_is_raised_and_then_obeyed() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, limits[1]))
        assert room_for(100) == 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 600
        assert room_for(500) == 500
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + FILES
        assert room_for(10**9) == limits[1] - FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_listener_without_descriptors_turns_connections_away() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    [listener] = listen("127.0.0.1", 0)
    with listener, contextlib.ExitStack() as held:
        listener.listen()
        listener.setblocking(False)
        clients = [held.enter_context(socket.create_connection(listener.getsockname())) for _ in range(3)]
        accepted = held.enter_context(listener.accept()[0])
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (accepted.fileno() + 1, limits[1]))
            for _ in range(2):
                with pytest.raises(BlockingIOError):
                    listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for client in clients[1:]:
            assert client.recv(1) == b""
        held.enter_context(socket.create_connection(listener.getsockname()))
        held.enter_context(listener.accept()[0])


def test_a_listener_lets_others_have_their_turn() -> None:
    [listener] = listen("127.0.0.1", 0)
    with listener, contextlib.ExitStack() as held:
        listener.listen()
        listener.setblocking(False)
        for _ in range(AT_ONCE + 5):
            held.enter_context(socket.create_connection(listener.getsockname()))
        for _ in range(AT_ONCE):
            held.enter_context(listener.accept()[0])
        with pytest.raises(BlockingIOError):
            listener.accept()
        rest = listener.waiting()
        assert len(rest) == 5
        for each in rest:
            each.close()


def test_every_address_of_a_host_is_listened_on() -> None:
    listeners = listen("", 0)
    assert {each.family for each in listeners} <= {socket.AF_INET, socket.AF_INET6}
    assert len(listeners) >= 1
    for each in listeners:
        each.close()


class Still:
    """A connection that is never slow."""

    def check(self, now: float) -> None:
        pass

    def abort(self) -> None:
        raise AssertionError("ended")


def test_sweeping_ends_with_the_last_connection() -> None:
    async def run() -> tuple[bool, bool]:
        connections = Connections(Settings(head_seconds=0.04), CollectorRegistry())
        still = Still()
        assert connections.opened(still)
        await asyncio.sleep(0.1)
        during = connections._sweeping
        connections.closed(still)
        await asyncio.sleep(0.1)
        return during, connections._sweeping

    assert asyncio.run(run()) == (True, False)
