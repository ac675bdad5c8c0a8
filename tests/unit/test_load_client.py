"""The clients of `fip bench` against a small HTTP server of its own, which is slow, busy, silent or gone as the test needs it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from service.load.bodies import made_up
from service.load.client import Progress, run_load
from service.load.plan import Body, LoadPlan
from service.load.records import LoadResult

OK = b'HTTP/1.1 200 OK\r\nServer-Timing: read;dur=1.5\r\nContent-Length: 33\r\n\r\n{"predictions":[{"label":"box"}]}'
BUSY = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nContent-Type: application/problem+json\r\n"
    b'Content-Length: 21\r\n\r\n{"code":"overloaded"}'
)
BODIES = (Body("größe.ply", made_up(100, "classify", 0), 3.0), Body("large.ply", made_up(100_000, "classify", 0), 1.0))
PLAN = LoadPlan("http://127.0.0.1:0", BODIES, rate=40, duration_s=1.0, patience_s=20)


@dataclass
class Peer:
    """What it was asked, as (head, size of the body), and how many of its clients went away before they were answered."""

    answer: Callable[[int], Awaitable[bytes]]
    asked: list[tuple[str, int]] = field(default_factory=list)
    left: int = 0
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(size)
                self.asked.append((head, size))
                answering = asyncio.ensure_future(self.answer(len(self.asked)))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    answering.cancel()
                    self.left += 1
                    return
                gone.cancel()
                await asyncio.wait({gone})
                writer.write(answering.result())
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def peer(answer: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[tuple[Peer, str]]:
    it = Peer(answer)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, limit=1 << 22)
    try:
        yield it, "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()


def run(plan: LoadPlan, answer: Callable[[int], Awaitable[bytes]]) -> tuple[LoadResult, Peer]:
    async def both() -> tuple[LoadResult, Peer]:
        async with peer(answer) as (it, url):
            return await run_load(replace(plan, url=url)), it

    return asyncio.run(both())


async def at_once(_count: int) -> bytes:
    return OK


async def slowly(_count: int) -> bytes:
    await asyncio.sleep(0.1)
    return OK


async def never(_count: int) -> bytes:
    await asyncio.sleep(3600)
    return OK


def test_what_is_sent() -> None:
    plan = replace(PLAN, path="/v1/segment", query={"model": "a b", "format": "ply"}, timeout_s=2.5)
    result, it = run(plan, at_once)
    assert len(result.records) == len(it.asked) > 20
    sizes = {len(body.data) for body in BODIES}
    for head, size in it.asked:
        assert head.startswith("post /v1/segment?model=a+b&format=ply http/1.1\r\n")
        assert "\r\nx-request-timeout: 2.5\r\n" in head
        assert f"\r\nx-filename: {'gr__e.ply' if size == len(BODIES[0].data) else 'large.ply'}\r\n" in head
    assert {size for _, size in it.asked} == sizes
    ids = {head.partition("x-request-id: ")[2].partition("\r\n")[0] for head, _ in it.asked}
    assert ids == {record.request_id for record in result.records}
    assert {record.status for record in result.records} == {200}
    for each in result.records:
        assert each.sent_s is not None
        assert each.first_byte_s is not None
        assert each.scheduled_s <= each.sent_s <= each.first_byte_s <= each.done_s
    assert result.summary()["stages_ms"]["read"]["p50"] == 1.5


def test_a_service_that_falls_behind_cannot_hide_it() -> None:
    """One connection, 0.1 s an answer, 40 due a second: the last waits for all before it. A closed loop would see 0.1 s throughout."""
    result, _ = run(replace(PLAN, bodies=BODIES[:1], arrivals="even", connections=1), slowly)
    assert len(result.records) == 40
    found = result.summary(500)
    assert result.peak_connections == 1
    assert 2.9 < max(record.latency_s for record in result.records) < 20
    assert found["late"]["late"] >= 35
    assert found["goodput"]["count"] < 20
    service_times = [record.done_s - (record.sent_s or 0.0) for record in result.records]
    assert sorted(service_times)[20] < 0.5


def test_a_closed_loop_waits_for_its_answers() -> None:
    result, it = run(replace(PLAN, bodies=BODIES[:1], rate=None, clients=3), slowly)
    assert it.connections == 3
    assert 3 <= len(result.records) <= 33
    assert result.summary()["offered_rate"] is None
    assert result.summary()["late"]["late"] == 0


def test_refusals_are_read() -> None:
    async def busy(count: int) -> bytes:
        return BUSY if count % 2 else OK

    result, _ = run(PLAN, busy)
    found = result.summary()
    refused = [record for record in result.records if record.status == 429]
    assert {(record.code, record.retry_after_s) for record in refused} == {("overloaded", 3.0)}
    assert found["latency_ms"]["rejected"]["count"] == len(refused) == found["codes"]["overloaded"] > 5
    assert found["retry_after_s"]["p50"] == 3.0


def test_an_answer_that_comes_before_the_body_is_sent_is_not_lost() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(BUSY.replace(b"Retry-After", b"Connection: close\r\nRetry-After"))
        with suppress(TimeoutError):  # as the service does, so that the answer is not overtaken by a reset
            async with asyncio.timeout(1):
                await reader.read(len(BODIES[1].data))
        writer.close()

    async def both() -> LoadResult:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            url = "http://{}:{}".format(*server.sockets[0].getsockname())
            return await run_load(replace(PLAN, url=url, bodies=BODIES[1:], rate=20))

    found = asyncio.run(both()).summary()
    assert set(found["statuses"]) == {"429"}
    assert found["connection_errors"] == {}


def test_some_clients_leave() -> None:
    result, it = run(replace(PLAN, rate=60, disconnect=0.5), slowly)
    left = [record for record in result.records if record.kind == "disconnected" and record.status == 0]
    assert len(left) > 5
    assert it.left > 0
    assert all(record.error is None and record.latency_s < 5 for record in left)
    assert {record.status for record in result.records if record.kind == "whole"} == {200}
    assert result.summary()["goodput"]["share"] == 1.0
    assert result.summary()["connection_errors"] == {}


def test_damaged_bodies_are_sent_as_such() -> None:
    result, it = run(replace(PLAN, malformed=1.0), at_once)
    assert {record.kind for record in result.records} == {"malformed"}
    assert {record.damage for record in result.records} == {"cut", "header", "random", "empty"}
    assert 0 in {size for _, size in it.asked}
    assert result.summary()["malformed"]["accepted"] == len(result.records)  # this peer takes anything
    assert result.summary()["goodput"]["count"] == 0


def test_a_client_gives_up_in_the_end() -> None:
    result, _ = run(replace(PLAN, rate=10, patience_s=0.3), never)
    assert {(record.status, record.error) for record in result.records} == {(0, "timeout")}
    assert result.elapsed_s < 20


def test_a_service_that_is_not_there() -> None:
    result = asyncio.run(run_load(replace(PLAN, url="http://127.0.0.1:1", rate=10)))
    assert len(result.records) > 0
    assert {(record.status, record.error) for record in result.records} == {(0, "ClientConnectorError")}


def test_a_connection_that_is_closed_in_place_of_an_answer() -> None:
    async def closed(_count: int) -> bytes:
        raise ConnectionError

    result, _ = run(replace(PLAN, bodies=BODIES[:1], rate=10), closed)
    assert sum(result.summary()["connection_errors"].values()) == len(result.records) > 0


def test_a_run_that_is_stopped_reports_what_it_has() -> None:
    seen: list[Progress] = []

    async def stopped() -> LoadResult:
        async with peer(never) as (_, url):
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(1.2, stop.set)
            return await run_load(replace(PLAN, url=url, duration_s=600.0), seen.append, stop=stop)

    started = time.monotonic()
    result = asyncio.run(stopped())
    assert time.monotonic() - started < 20
    assert result.interrupted
    assert {record.error for record in result.records} == {"interrupted"}
    assert seen
    assert seen[-1].in_flight == seen[-1].sent > 0


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("service.load.cli", ("torch", "numpy", "aiohttp", "rich", "matplotlib", "pydantic")),
        ("service.load.terminal", ("torch", "matplotlib", "pydantic", "fastapi")),
        ("service.load.plot", ("torch", "pydantic", "matplotlib.pyplot")),
    ],
)
def test_what_is_imported(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {forbidden} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("package", "arguments"), [("aiohttp", []), ("rich", []), ("matplotlib", ["--plot", "a.svg"])])
def test_a_missing_package_names_the_extra(package: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from service.load.cli import bench; bench(['http://127.0.0.1:1', *{arguments}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: fip bench needs {package!r}, which is not installed: pip install 'fip-server[load]'\n"


@pytest.mark.parametrize(
    ("body", "path", "readable"),
    [
        (b"<html>welcome</html>", "/v1/classify", False),
        (b"{}", "/v1/classify", False),
        (b"[" * 100_000, "/behind/a/proxy/v1/classify", False),
        (b"\x00\xff", "/v1/segment", True),  # may be anything
    ],
)
def test_an_answer_of_somebody_else_is_seen(body: bytes, path: str, readable: bool) -> None:
    async def other(_count: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    result, _ = run(replace(PLAN, bodies=BODIES[:1], rate=10, path=path), other)
    assert {(record.status, record.readable) for record in result.records} == {(200, readable)}
    assert result.any_right is readable


def test_an_answer_of_ours_is_right() -> None:
    result, _ = run(replace(PLAN, bodies=BODIES[:1], rate=10), at_once)
    assert result.any_right
    assert result.summary()["goodput"]["share"] == 1.0
