"""Ten thousand hostile names, headers, keys and addresses: none gets out of its folder, none makes the service fail."""

import io
import json
import logging
import os
import re
import socket
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import models
from service.app import create_app
from service.auth.keys import SCOPES, add_key, new_key
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.contract.hostile_requests import CANARY, Hostile, hostile_requests
from tests.fire import metric, until
from tests.logged import logged

KINDS = ("path", "option", "key")
CASES = 5000  # for each of the two services
ROOT = Path(__file__).parents[2]
WATCHED = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.symlink", "os.truncate")
UNWANTED = (b"x-evil", b"access-control-", b"server:")
HEADER = re.compile(rb"[A-Za-z-]+: [\x20-\x7e]*")


class Watch:
    """Which files anything but the tests themselves touches, in this process. An audit hook stays for ever; this one rests when it may."""

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.looks = False
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.looks and event in WATCHED and threading.current_thread() is not threading.main_thread():
            self.touched |= {os.fsdecode(each) for each in arguments if isinstance(each, (str, bytes, os.PathLike))}

    @contextmanager
    def looking(self) -> Iterator[None]:
        self.touched.clear()
        self.looks = True
        try:
            yield
        finally:
            self.looks = False


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    with logged(logging.DEBUG) as stream:
        yield stream


def answer_to(address: tuple[str, int], case: Hostile) -> bytes:
    """Head and body, or nothing if the connection was closed without a word."""
    with socket.create_connection(address, timeout=20) as connection:
        with suppress(OSError):  # refused before all of it was sent
            connection.sendall(case.sent)
        found = b""
        with suppress(ConnectionResetError):
            while not whole(found, case.head) and (piece := connection.recv(1 << 16)):
                found += piece
    return found


def whole(found: bytes, head_only: bool) -> bool:
    head, end, body = found.partition(b"\r\n\r\n")
    if not end or head.startswith(b"HTTP/1.1 100"):
        return False
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return head_only or b" 204 " in head[:20] or (length is not None and len(body) >= int(length[1]))


def wrong_with(found: bytes, case: Hostile) -> str | None:
    """What an answer must not be. None if it is fine, and so is none at all to what can hardly be told from noise."""
    if not found:
        return None if case.kind in ("line", "raw header", "header") else "no answer"
    head, _, body = found.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    status = int(first.split()[1])
    if not 200 <= status < 500:
        return f"status {status}"
    if strange := [line for line in headers if not HEADER.fullmatch(line) or line.lower().startswith(UNWANTED)]:
        return f"headers {strange}"
    if not case.head and status >= 400 and json.loads(body)["status"] != status:
        return f"body {body[:80]!r}"
    return None


def test_the_watch_sees(watch: Watch, tmp_path: Path) -> None:
    secret = tmp_path / CANARY
    secret.touch()
    with watch.looking():
        for look in (secret.read_bytes, lambda: [*tmp_path.iterdir()], secret.unlink):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
    assert {str(secret), str(tmp_path)} <= watch.touched


@pytest.mark.slow
@pytest.mark.parametrize("locked", [False, True], ids=["no keys", "keys"])
def test_ten_thousand(
    locked: bool, watch: Watch, log: io.StringIO, segment_registry: Path, serve: Serve, tmp_path: Path, ball: Callable[[int], bytes]
) -> None:
    home = tmp_path / "home"
    for name in ("keys", "spool", "jobs"):
        (home / name).mkdir(parents=True)
    (segment_registry.parent / CANARY).mkdir(exist_ok=True)
    text, key = new_key("all", SCOPES, None, None)
    add_key(home / "keys" / "keys.json", key)
    given = {"registry": str(segment_registry), "model": "tiny", "spool_dir": home / "spool", "jobs_dir": home / "jobs"}
    given |= {"body_pause_seconds": 0.3, "lookup_seconds": 0}
    app = create_app(Settings.model_validate(given | ({"keys": home / "keys" / "keys.json"} if locked else {})))
    opener = text.encode() if locked else b""
    before = {each: sorted(each.iterdir()) for each in (segment_registry.parent, segment_registry, home, home / "keys")}
    statuses: Counter[str] = Counter()
    with serve(app) as client:
        client.headers["X-API-Key"] = text
        address = (client.base_url.host, client.base_url.port or 80)
        series = client.get("/metrics").text.count("\n")
        with watch.looking():
            for number, case in enumerate(hostile_requests(CASES, seed=8 + locked, key=opener)):
                found = answer_to(address, case)
                statuses[f"{case.kind} {found[9:12].decode('latin-1')}"] += 1
                assert (wrong := wrong_with(found, case)) is None, f"case {number}, {wrong}: {case.sent[:400]!r} -> {found[:400]!r}"
        until(lambda: app.state.context.admission.requests == 0, "everybody has left")
        assert client.post("/v1/classify", content=ball(50)).json()["model"]["name"] == "tiny"
        assert client.get("/health/ready").status_code == 200
        metrics_lines = client.get("/metrics").text.count("\n")
        assert metric(client, "fip_worker_restarts_total") == 0
    allowed = [segment_registry, home, Path(tempfile.gettempdir(), "fip-"), *map(Path, models.__path__), ROOT, sys.prefix, sys.base_prefix]
    allowed += [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/proc/self/", "/dev/"]
    strangers = {path for path in watch.touched if path.startswith("/") and not path.startswith(tuple(map(str, allowed)))}
    assert strangers == set()
    assert [path for path in watch.touched if CANARY in path or "passwd" in path or ".." in Path(path).parts] == []
    assert {each: sorted(each.iterdir()) for each in before} == before
    lines = log.getvalue().splitlines()
    assert all(json.loads(line)["event"] for line in lines)
    assert text.split("_", 2)[2] not in log.getvalue()
    assert metrics_lines < series + 1500  # names do not become metrics
    reached = {kind: {code for each, _, code in (name.rpartition(" ") for name in statuses) if each == kind} for kind in KINDS}
    assert {"404", "422"} <= reached["path"] | reached["option"]  # some got as far as the registry
    assert ("401" in reached["key"]) == locked
