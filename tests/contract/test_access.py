"""A service with keys: who gets in, what for, how much of it, and what becomes of keys while it runs."""

import contextlib
import io
import json
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.auth.key_ring import KeyRing
from service.auth.keys import BadKeyFile, Scope, add_key, new_key, remove_key
from service.load.client import load
from service.load.plan import Body, LoadPlan
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import until
from tests.logged import logged

Ball = Callable[[int], bytes]
Make = Callable[..., dict[str, str]]
READY = "/v1/models"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "keys.json").write_text('{"keys": []}')
    return tmp_path / "keys.json"


@pytest.fixture
def make(key_file: Path) -> Make:
    """A new key in the file: the headers that present it."""

    def make(*scopes: Scope, rate: float | None = None, days: float | None = None) -> dict[str, str]:
        text, key = new_key("test", scopes or ("infer",), rate, None if days is None else timedelta(days=days))
        add_key(key_file, key)
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def locked(tiny_settings: Settings, key_file: Path) -> FastAPI:
    return create_app(tiny_settings.model_copy(update={"keys": key_file}))


def id_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].split("_")[1]


def codes(client: httpx.Client, headers: dict[str, str]) -> dict[str, int]:
    asked = {"infer": ("GET", "/v1/models"), "admin": ("DELETE", "/v1/models/tiny"), "metrics": ("GET", "/metrics")}
    return {scope: client.request(*each, headers=headers).status_code for scope, each in asked.items()}


def test_each_scope_opens_its_own_and_nothing_else(locked: FastAPI, serve: Serve, make: Make) -> None:
    keys = {scope: make(scope) for scope in ("infer", "admin", "metrics")}
    both = make("infer", "metrics")
    with serve(locked) as client:
        allowed = {scope: [each for each, code in codes(client, headers).items() if code != 403] for scope, headers in keys.items()}
        assert allowed == {"infer": ["infer"], "admin": ["admin"], "metrics": ["metrics"]}
        assert codes(client, both) == {"infer": 200, "admin": 403, "metrics": 200}
        refused = client.get("/metrics", headers=keys["infer"])
        assert (refused.status_code, refused.json()["code"], refused.json()["where"]) == (403, "forbidden", "scope")
        assert "scope metrics" in refused.json()["detail"]
        text = client.get("/metrics", headers=both).text
        assert 'fip_rejected_total{reason="forbidden"}' in text


def test_without_a_key_only_what_is_open(locked: FastAPI, serve: Serve, make: Make, ball: Ball) -> None:
    good = make("infer")["Authorization"].removeprefix("Bearer ")
    with serve(locked) as client:
        for path in ("/health/live", "/health/ready", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
            assert client.get(path, headers={"X-API-Key": "wrong"}).status_code == 200
            assert client.get(path).status_code == 200
        wrong = [{}, {"X-API-Key": good[:-1]}, {"X-API-Key": ""}, {"Authorization": f"Basic {good}"}, {"Authorization": "Bearer"}]
        wrong += [{"Authorization": good}, {"Authorization": f"Bearer {good} x"}, {"X-API-Key": "x" * 5000}]
        wrong += [{"X-API-Key": good, "Authorization": f"Bearer {good}"}, {"Cookie": f"X-API-Key={good}"}]
        for headers in wrong:
            for method, path in (("GET", READY), ("POST", "/v1/classify"), ("GET", "/nothing"), ("GET", f"/metrics?key={good}")):
                refused = client.request(method, path, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized"), headers
                assert refused.headers["WWW-Authenticate"] == "Bearer"
        for headers in ({"X-API-Key": good}, {"Authorization": f"bearer  {good}"}):
            assert client.post("/v1/classify", content=ball(50), headers=headers).status_code == 200


def whole_answer(connection: socket.socket) -> bytes:
    """Up to the end of its JSON."""
    found = b""
    while not found.endswith(b"}"):
        piece = connection.recv(1 << 16)
        assert piece, f"closed after {found!r}"
        found += piece
    return found


def test_a_refused_upload_is_not_read(locked: FastAPI, serve: Serve) -> None:
    with serve(locked) as client:
        address = (client.base_url.host, client.base_url.port or 80)
        for framing in (f"Content-Length: {30 << 20}", "Transfer-Encoding: chunked"):
            with socket.create_connection(address, timeout=10) as connection:
                connection.sendall(f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
                found = whole_answer(connection)  # before anything of it was sent
                assert b" 401 " in found
                assert b"connection: close" in found.lower()
                connection.sendall(bytes(1 << 20))  # is not reset meanwhile
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(1) == b""
        with socket.create_connection(address, timeout=10) as connection:
            for _ in range(2):  # little to come: the connection stays
                connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
                assert b" 401 " in whole_answer(connection)


def test_keys_come_and_go_while_the_service_runs(locked: FastAPI, serve: Serve, make: Make, key_file: Path) -> None:
    first = make()
    with serve(locked) as client:
        assert client.get(READY, headers=first).status_code == 200
        second = make()
        until(lambda: client.get(READY, headers=second).status_code == 200, "a new key is taken over")
        remove_key(key_file, id_of(first))
        until(lambda: client.get(READY, headers=first).status_code == 401, "a revoked key opens nothing")
        assert client.get(READY, headers=second).status_code == 200


def test_a_key_that_has_expired(locked: FastAPI, serve: Serve, make: Make) -> None:
    soon = make(days=10 / 86_400)  # a busy machine takes some seconds to begin
    with serve(locked) as client:
        assert client.get(READY, headers=soon).status_code == 200
        until(lambda: client.get(READY, headers=soon).status_code == 401, "it expires")


def test_load_is_sent_with_a_key_that_no_report_has(locked: FastAPI, serve: Serve, make: Make, ball: Callable[[int], bytes]) -> None:
    key = make()["Authorization"].removeprefix("Bearer ")
    with serve(locked) as client:
        sent = {"url": str(client.base_url).rstrip("/"), "bodies": (Body("ball.ply", ball(64)),), "clients": 1, "duration_s": 0.5}
        for given, expected in ((key, 200), (None, 401)):
            plan = LoadPlan(**sent, key=given)  # type: ignore[arg-type]
            result = load(plan)
            assert {record.status for record in result.records} == {expected}
            assert key not in repr(plan) + repr(result.summary(500))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    with logged(logging.INFO) as stream:
        yield stream


def told_more(log: io.StringIO, before: int) -> bool:
    return log.getvalue().count("keys not taken over") > before


def test_a_damaged_file_leaves_the_old_keys(locked: FastAPI, serve: Serve, make: Make, key_file: Path, log: io.StringIO) -> None:
    good = make()
    with serve(locked) as client:
        for damaged in ("{", None):
            before = log.getvalue().count("keys not taken over")
            key_file.unlink() if damaged is None else key_file.write_text(damaged)
            until(partial(told_more, log, before), "it is noticed")
            assert client.get(READY, headers=good).status_code == 200
            assert client.get(READY).status_code == 401
        again = make()
        until(lambda: client.get(READY, headers=again).status_code == 200, "the next good one is taken over")
        assert client.get(READY, headers=good).status_code == 401
    text = log.getvalue()
    asked = [event for event in map(json.loads, text.splitlines()) if event.get("path") == READY]
    assert {event.get("key") for event in asked if event["status"] == 200} == {id_of(good), id_of(again)}
    for headers in (good, again):
        assert headers["Authorization"].split("_", 2)[2] not in text


def test_a_key_pays_for_its_points(locked: FastAPI, serve: Serve, make: Make, ball: Ball) -> None:
    limited, rich, free = make(rate=100), make(rate=1e9), make()
    with serve(locked) as client:
        assert client.post("/v1/classify", content=ball(6000), headers=limited).status_code == 200  # 1000 at hand: 50 s of debt
        refused = client.post("/v1/classify", content=ball(10), headers=limited)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 15 < int(refused.headers["Retry-After"]) <= 50
        for headers in (rich, free):
            assert client.post("/v1/classify", content=ball(10), headers=headers).status_code == 200
        assert client.get(READY, headers=limited).status_code == 200  # which costs nothing
        with httpx.Client(base_url=client.base_url) as other:
            assert other.post("/v1/segment", content=ball(10), headers=limited).status_code == 429


def test_a_segmented_cloud_is_paid_for(segment_settings: Settings, serve: Serve, make: Make, key_file: Path, scan: bytes) -> None:
    limited = make(rate=20)
    app = create_app(segment_settings.model_copy(update={"keys": key_file}))
    with serve(app) as client:
        asked = [client.post("/v1/segment?input_format=bin", content=scan, headers=limited) for _ in range(2)]
    assert [answer.status_code for answer in asked] == [200, 429]
    assert 100 < int(asked[1].headers["Retry-After"]) <= (3000 - 200) / 20


def test_a_job_is_paid_for_and_is_its_key_s_alone(
    segment_settings: Settings, serve: Serve, make: Make, key_file: Path, tmp_path: Path, scan: bytes
) -> None:
    limited, other = make(rate=20), make()
    app = create_app(segment_settings.model_copy(update={"keys": key_file, "jobs_dir": tmp_path / "jobs"}))
    with serve(app) as client:
        job = client.post("/v1/jobs?input_format=bin", content=scan, headers=limited)
        assert job.status_code == 202
        address = job.headers["Location"]
        until(lambda: client.get(address, headers=limited).json()["state"] == "done", "it is done")
        refused = client.post("/v1/jobs?input_format=bin", content=scan, headers=limited)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 100 < int(refused.headers["Retry-After"]) <= (3000 - 200) / 20
        assert client.get(address, headers=other).status_code == 404
        assert client.get("/v1/jobs", headers=other).json() == {"jobs": []}
        assert client.get(address).status_code == 401


def test_who_has_no_key_moves_nothing_where_others_can_reach(tiny_settings: Settings, serve: Serve) -> None:
    for anonymous, expected in ((True, 403), (False, 404)):
        with serve(create_app(tiny_settings.model_copy(update={"allow_anonymous": anonymous}))) as client:
            refused = client.put("/v1/models/none/aliases/champion?version=1")
            assert (refused.status_code, client.get(READY).status_code) == (expected, 200)


def test_who_comes_through_a_proxy_without_a_key_moves_nothing(tiny_settings: Settings, serve: Serve) -> None:
    with serve(create_app(tiny_settings.model_copy(update={"hosts": "fip.example"}))) as client:
        refused = client.put("/v1/models/tiny/aliases/champion", params={"version": 1}, headers={"Host": "fip.example"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_strangers_are_told_of_nobody_s_jobs(segment_settings: Settings, serve: Serve, scan: bytes, tmp_path: Path) -> None:
    told = {"allow_anonymous": True, "jobs_dir": tmp_path / "jobs"}
    with serve(create_app(segment_settings.model_copy(update=told))) as client:
        job = client.post("/v1/jobs?input_format=bin", content=scan).json()["id"]
        refused = client.get("/v1/jobs")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert client.get(f"/v1/jobs/{job}").json()["id"] == job


def test_what_turns_out_to_be_no_cloud_is_paid_for(locked: FastAPI, serve: Serve, make: Make, ball: Ball) -> None:
    slow = make(rate=1000)
    broken = b"1 2 3\n" * 40_000 + b"1 2 x\n"
    with serve(locked) as client:
        first = client.post("/v1/classify?input_format=xyz", content=broken, headers=slow)
        assert (first.status_code, first.json()["code"]) == (400, "bad_body")
        assert client.post("/v1/classify?input_format=xyz", content=broken, headers=slow).status_code == 429  # 10,000 points are its burst


def test_who_is_refused_is_told_of_in_the_log(locked: FastAPI, serve: Serve, log: io.StringIO) -> None:
    with serve(locked) as client:
        request_id = client.get("/metrics", headers={"X-API-Key": "guess"}).headers["X-Request-ID"]
        until(lambda: request_id in log.getvalue(), "the guess is in the log")
        quiet = client.get("/health/live").headers["X-Request-ID"]
        assert quiet not in log.getvalue()


def test_a_file_that_could_not_be_read_is_read_again(key_file: Path) -> None:
    ring = KeyRing(key_file)
    ring.load()
    _, key = new_key("test", ("infer",), None, None)
    add_key(key_file, key)
    with limited_descriptors(), pytest.raises(BadKeyFile):
        ring._look(key_file)
    assert ring._look(key_file) is not None
    assert ring._look(key_file) is None


@contextlib.contextmanager
def limited_descriptors() -> Iterator[None]:
    """No file can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_state_of_a_request_says_whose_it_is(locked: FastAPI, app: FastAPI, serve: Serve, make: Make) -> None:
    """What jobs keep as the owner."""
    from fastapi import Request

    for each in (locked, app):

        @each.get("/whose")
        async def whose(request: Request) -> list[object]:
            return [request.state.key_id, request.state.allowance and request.state.allowance.rate]

    limited = make(rate=7)
    with serve(locked) as client:
        assert client.get("/whose", headers=limited).json() == [id_of(limited), 7]
    with serve(app) as client:
        assert client.get("/whose", headers=limited).json() == ["", None]


def test_the_description_says_what_needs_a_key(locked: FastAPI, app: FastAPI) -> None:
    described = locked.openapi()
    assert set(described["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, method, needs in (("/v1/classify", "post", True), ("/metrics", "get", True), ("/health/live", "get", False)):
        operation = described["paths"][path][method]
        assert bool(operation["security"]) == needs == ("401" in operation["responses"])
    assert "securitySchemes" not in app.openapi()["components"]


def test_no_start_with_a_damaged_file(locked: FastAPI, key_file: Path) -> None:
    from service.auth.keys import BadKeyFile

    key_file.write_text("nothing")
    with pytest.raises(BadKeyFile):
        locked.state.context.keys.load()
