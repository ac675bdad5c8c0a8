"""What every answer says to browsers, and which of their requests are refused."""

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Serve

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
PREFLIGHT = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


def check(headers: httpx.Headers, *, but: tuple[str, ...] = ()) -> None:
    assert {name: headers.get_list(name) for name in HEADERS if name not in but} == {
        name: [value] for name, value in HEADERS.items() if name not in but
    }
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control-")]


def test_every_answer_of_the_app(client: httpx.Client, ball: Callable[[int], bytes]) -> None:
    answers = [client.get(path) for path in ("/health/live", "/v1/models", "/metrics", "/nothing", "/openapi.json")]
    answers += [client.post("/v1/classify", content=content) for content in (ball(50), b"", b"nonsense")]
    answers += [client.put("/v1/classify"), client.head("/health/ready"), client.options("/v1/classify", headers=PREFLIGHT)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200, 200, 400, 415, 405, 200, 403]
    for answer in answers:
        check(answer.headers)


def test_segmented_files(segment_client: httpx.Client, scan: bytes) -> None:
    check(segment_client.post("/v1/segment?input_format=bin&format=ply", content=scan).headers)


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000])
def test_what_never_became_a_request(client: httpx.Client, sent: bytes) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=10) as connection:
        connection.sendall(sent)
        head = connection.recv(1 << 16).partition(b"\r\n\r\n")[0].decode()
    lines = (line.partition(": ") for line in head.split("\r\n")[1:])
    check(httpx.Headers([(name, value) for name, _, value in lines]))


def test_who_found_no_room(tiny_settings: Settings, serve: Serve) -> None:
    app = create_app(tiny_settings.model_copy(update={"max_waiting": 1}))
    with serve(app) as client, app.state.context.admission.enter(1):
        refused = client.post("/v1/classify", content=b"x")
    assert refused.status_code == 429
    check(refused.headers)


def test_the_documentation_may_run_its_own_script_only(client: httpx.Client) -> None:
    page, asset = client.get("/docs"), client.get("/static-offline-docs/swagger-ui.css")
    check(page.headers, but=("content-security-policy",))
    [policy] = page.headers.get_list("content-security-policy")
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"].startswith("'self' 'sha256-")
    assert "unsafe" not in rules["script-src"]
    check(asset.headers, but=("cache-control",))
    assert asset.headers["etag"]


def test_another_site_reads_nothing_and_changes_nothing(client: httpx.Client, ball: Callable[[int], bytes]) -> None:
    evil = {"Origin": "https://evil.example"}
    refused = client.post("/v1/classify", content=ball(50), headers=evil)
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
    read = client.get("/v1/models", headers=evil)
    assert read.status_code == 200
    check(read.headers)  # nothing that lets a page have it
    own = str(client.base_url).rstrip("/")
    assert client.post("/v1/classify", content=ball(50), headers={"Origin": own}).status_code == 200


def test_a_name_that_was_made_to_point_here(client: httpx.Client) -> None:
    rebound = {"Host": "evil.example:8000"}
    refused = client.get("/v1/models", headers=rebound)
    assert (refused.status_code, refused.json()["code"]) == (421, "foreign_host")
    assert client.get("/health/ready", headers=rebound).status_code == 200
    assert client.get("/v1/models", headers={"Host": "localhost"}).status_code == 200


def test_nobody_is_sent_to_the_name_that_they_gave(client: httpx.Client) -> None:
    for path in ("/v1/models/", "/docs/", "/metrics/"):
        assert client.get(path).status_code == 404


def test_with_keys_any_name_does(tiny_settings: Settings, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"keys": []}')
    with serve(create_app(tiny_settings.model_copy(update={"keys": tmp_path / "keys.json"}))) as client:
        assert client.get("/v1/models", headers={"Host": "fip.example"}).status_code == 401
        assert client.options("/v1/classify", headers=PREFLIGHT).status_code == 403
