"""Clients that take their time, over real sockets: what the service waits for, and what it does not."""

import contextlib
import http.client
import io
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Response

from service.answer_file import AnswerFile, InPieces
from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import PROMPT_S

LARGE = 64 << 20
PATIENCE = 20.0  # for what takes half a second on an idle machine


def waiting(registry: Path, spool_dir: Path, head_seconds: float = 0.5) -> Settings:
    """Half a second for everything."""
    return Settings(
        registry=str(registry),
        model="tiny",
        head_seconds=head_seconds,
        keep_alive_seconds=0.5,
        body_pause_seconds=0.5,
        body_bytes_per_second=1000,
        send_seconds=0.5,
        spool_dir=spool_dir,
    )


@pytest.fixture(scope="module")
def impatient(serve: Serve, tiny_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that waits half a second for everything, and has a large answer to give."""
    settings = waiting(tiny_registry, tmp_path_factory.mktemp("spool"))
    app = create_app(settings)
    add_large_answer(app, settings.spool_dir)
    with serve(app) as client:
        client.headers["Connection"] = "close"  # one that was kept may be ended just when it is used again
        yield client


def add_large_answer(app: FastAPI, folder: Path | None) -> None:
    @app.get("/large")
    async def large() -> Response:
        def write(file: io.IOBase) -> None:
            for _ in range(LARGE >> 20):
                file.write(bytes(1 << 20))

        answer = AnswerFile(folder, write)
        return InPieces(answer, {}, "application/octet-stream", app.state.context.admission.hold_answer(answer.size))


@pytest.fixture
def connect(impatient: httpx.Client) -> Iterator[Callable[[], socket.socket]]:
    with contextlib.ExitStack() as held:

        def connect() -> socket.socket:
            return held.enter_context(connected(impatient))

        yield connect


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=PATIENCE)


def answer(connection: socket.socket, method: str = "GET") -> tuple[int, str | None, http.client.HTTPResponse]:
    """Status and code of the next answer."""
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    body = response.read()
    is_problem = response.headers.get_content_type() == "application/problem+json"
    return response.status, json.loads(body)["code"] if is_problem else None, response


def ends(connection: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def slow_clients(client: httpx.Client, reason: str) -> float:
    return metric(client, f'fip_slow_clients_total{{reason="{reason}"}} ')


def metric(client: httpx.Client, name: str) -> float:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.split()[-1])


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"])
def test_half_a_head_is_answered_408(impatient: httpx.Client, connect: Callable[[], socket.socket], sent: bytes) -> None:
    before = slow_clients(impatient, "head")
    connection = connect()
    connection.sendall(sent)
    status, code, response = answer(connection)
    assert (status, code, response.headers["Connection"]) == (408, "slow_request", "close")
    assert ends(connection) == b""
    assert slow_clients(impatient, "head") == before + 1


def test_a_trickled_head_is_cut(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in b"GET /health/live HTTP/1.1\r\nX-Slow: " + b"x" * 300:
            connection.sendall(bytes([byte]))
            if select.select([connection], [], [], 0.1)[0]:
                break
    assert answer(connection)[:2] == (408, "slow_request")
    assert time.monotonic() - began < PROMPT_S


def test_the_second_head_of_a_connection_has_the_same_time(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(connection)[0] == 200
    connection.sendall(b"GET /health/")
    assert answer(connection)[:2] == (408, "slow_request")


def test_three_hundred_half_sent_heads(serve: Serve, tiny_registry: Path, tmp_path: Path) -> None:
    with serve(create_app(waiting(tiny_registry, tmp_path, head_seconds=4))) as client, contextlib.ExitStack() as held:
        client.headers["Connection"] = "close"
        connections = [held.enter_context(connected(client)) for _ in range(300)]
        for connection in connections:
            connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n")
        assert metric(client, "fip_connections ") > 200
        times = []
        for _ in range(20):
            began = time.perf_counter()
            assert client.get("/health/live").status_code == 200
            times.append(time.perf_counter() - began)
        assert sorted(times)[-2] < PROMPT_S / 10
        assert {answer(connection)[0] for connection in connections} == {408}
        assert comes_true(lambda: metric(client, "fip_connections ") == 1)


@pytest.mark.parametrize("stray", [b"", b"\r\n"])
def test_an_idle_connection_ends(connect: Callable[[], socket.socket], stray: bytes) -> None:
    connection = connect()
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(connection)[0] == 200
    connection.sendall(stray)  # it stops uvicorn's timer
    assert ends(connection).startswith(b"HTTP/1.1 408" if stray else b"")


RAW = b"POST /v1/classify?input_format=bin HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000\r\n\r\n"
CHUNKED = b"POST /v1/classify?input_format=bin HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
FORM = (
    b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16000\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.bin"\r\n\r\n'
)
PIECES = {"raw": (RAW, b"x"), "chunked": (CHUNKED, b"1\r\nx\r\n"), "multipart": (FORM, b"x")}


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("trickles", [False, True], ids=["pauses", "trickles"])
def test_a_slow_body_is_answered_408(
    impatient: httpx.Client, connect: Callable[[], socket.socket], kind: str, trickles: bool, tmp_path: Path
) -> None:
    before = slow_clients(impatient, "body"), metric(impatient, "fip_requests_in_flight ")
    head, piece = PIECES[kind]
    connection = connect()
    connection.sendall(head + 3 * piece)
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while not select.select([connection], [], [], 0.05)[0] and time.monotonic() - began < PATIENCE:
            if trickles:
                connection.sendall(piece)
    status, code, response = answer(connection)
    assert (status, code, response.headers["Connection"]) == (408, "slow_body", "close")
    assert time.monotonic() - began < PROMPT_S
    connection.close()
    assert comes_true(lambda: metric(impatient, "fip_requests_in_flight ") == before[1])
    assert slow_clients(impatient, "body") == before[0] + 1


def test_a_body_that_pauses_for_less_is_answered(connect: Callable[[], socket.socket]) -> None:
    cloud = np.random.default_rng(0).normal(size=(1000, 4)).astype("<f4").tobytes()
    connection = connect()
    connection.sendall(RAW)
    for part in range(8):
        time.sleep(0.15)
        connection.sendall(cloud[part * 2000 : (part + 1) * 2000])
    assert answer(connection)[0] == 200


def test_a_fast_beginning_does_not_pay_for_a_trickle(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(RAW.replace(b"16000", b"20000000") + bytes(10_000_000))
    began = time.monotonic()
    while not select.select([connection], [], [], 0.05)[0] and time.monotonic() - began < PATIENCE:
        connection.sendall(b"x")
    assert answer(connection)[:2] == (408, "slow_body")
    assert time.monotonic() - began < PROMPT_S


def test_what_is_sent_after_an_answer_is_not_waited_for_either(impatient: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    before = slow_clients(impatient, "body")
    connection = connect()
    connection.sendall(b"POST /v1/classify?model=none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
    assert answer(connection)[:2] == (404, "unknown_model")
    connection.sendall(b"x")
    assert ends(connection) == b""
    assert slow_clients(impatient, "body") == before + 1


def test_time_in_which_the_service_does_not_read_does_not_count(serve: Serve, tiny_registry: Path) -> None:
    """The one thread that writes to the disk is held up for longer than a body may pause."""
    cloud = np.random.default_rng(0).normal(size=(400_000, 4)).astype("<f4").tobytes()
    settings = Settings(registry=str(tiny_registry), model="tiny", body_pause_seconds=0.6, body_bytes_per_second=16 << 20)
    app = create_app(settings)
    with serve(app) as client:
        app.state.context.uploads._threads.total_tokens = 1
        held, occupied = threading.Event(), threading.Event()

        @app.get("/hold")
        async def hold() -> Response:
            def occupy() -> None:
                occupied.set()
                held.wait(PATIENCE)

            await app.state.context.uploads._in_thread(occupy)
            return Response()

        with httpx.Client(base_url=client.base_url, timeout=PATIENCE) as other:
            holder = threading.Thread(target=lambda: other.get("/hold"))
            holder.start()
            assert occupied.wait(PATIENCE)
            release = threading.Timer(1.5, held.set)
            release.start()
            assert client.post("/v1/classify?input_format=bin", content=cloud).status_code == 200
            holder.join()


def test_an_answer_that_nobody_takes_is_given_up(impatient: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    before = slow_clients(impatient, "send"), open_files()
    connections = [connect() for _ in range(5)]
    for connection in connections:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert comes_true(lambda: slow_clients(impatient, "send") == before[0] + 5)
    assert comes_true(lambda: metric(impatient, "fip_requests_in_flight ") == 1)
    for connection in connections:
        assert len(ends(connection)) < LARGE
        connection.close()
    assert comes_true(lambda: open_files() <= before[1] + 1)


def test_an_answer_that_is_taken_slowly_is_not_given_up(impatient: httpx.Client, connect: Callable[[], socket.socket]) -> None:
    before = slow_clients(impatient, "send")
    connection = connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    received, began = 0, time.monotonic()
    while time.monotonic() - began < 3:  # six times as long as it may take nothing
        piece = connection.recv(1 << 14)
        assert piece
        received += len(piece)
        time.sleep(0.05)
    assert received < LARGE // 8  # so slow that the kernel's buffer stays full
    assert slow_clients(impatient, "send") == before


def open_files() -> int:
    """Deleted files that this process, which the service is a thread of, still has open."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(each))  # noqa: PTH115  # a Path would lose the "(deleted)"
    return sum(link.endswith("(deleted)") for link in links)
