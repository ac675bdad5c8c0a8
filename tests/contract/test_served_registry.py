"""A service on a registry that changes, breaks and goes away beneath it: real files, the real app, a real MLflow server."""

import contextlib
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from models.registry import ModelVersion, Registry, publish_as
from models.registry.local import LocalRegistry
from service import inquiry
from service.app import create_app
from service.settings import Settings
from tests.fire import PROMPT_S
from tests.unreadable import make_unreadable

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]
Ball = Callable[[int], bytes]

PICKLE = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."


@pytest.fixture
def folder(tiny_registry: Path) -> Path:
    return tiny_registry / "tiny" / "1"


@pytest.fixture
def registry(tmp_path: Path, folder: Path) -> LocalRegistry:
    """parts 1 (champion) and 2, others 1."""
    (tmp_path / "registry").mkdir()
    made = LocalRegistry(tmp_path / "registry")
    publish_as(made, folder, "parts", "champion")
    made.publish(folder, "parts")
    made.publish(folder, "others")
    return made


@pytest.fixture
def client(registry: LocalRegistry, serve: Serve) -> Iterator[httpx.Client]:
    with serve(create_app(Settings(registry=registry.address, model="parts", lookup_seconds=0))) as client:
        yield client


def asked(client: httpx.Client, ball: Ball, model: str | None = None) -> tuple[int, str]:
    """Status, and the version that answered or the code of the problem."""
    answer = client.post("/v1/classify", params={"model": model} if model else {}, content=ball(100))
    return answer.status_code, answer.json()["model"]["version"] if answer.is_success else answer.json()["code"]


def test_a_service_that_starts_on_a_damaged_champion_answers_with_the_one_before(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    registry.move_alias("parts", "champion", 2, expected=1)
    flip(registry.folder(ModelVersion("parts", 2)) / "model.safetensors")
    with serve(create_app(Settings(registry=registry.address, model="parts", lookup_seconds=0))) as client:
        assert asked(client, ball) == (200, "1")
        assert asked(client, ball, "parts@champion") == (200, "1")
        assert asked(client, ball, "parts:2") == (500, "bad_checkpoint")
        assert client.get("/v1/models/parts").status_code == 500


def test_however_an_alias_is_spelt_its_old_version_serves_on(registry: LocalRegistry, client: httpx.Client, ball: Ball) -> None:
    assert asked(client, ball, "parts") == (200, "1")
    flip(registry.folder(ModelVersion("parts", 2)) / "model.safetensors")
    registry.move_alias("parts", "champion", 2, expected=1)
    for spelt in ("parts", "parts@champion", "models:/parts@champion"):
        assert asked(client, ball, spelt) == (200, "1")


def test_a_number_that_stands_for_another_model_now_is_loaded_anew(
    registry: LocalRegistry, client: httpx.Client, ball: Ball, folder: Path, tmp_path: Path
) -> None:
    first = client.post("/v1/classify", params={"model": "others:1"}, content=ball(100)).json()["model"]["digest"]
    shutil.rmtree(registry.root / "others")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + "\n")
    assert registry.publish(other, "others").version == 1
    again = client.post("/v1/classify", params={"model": "others:1"}, content=ball(100)).json()["model"]["digest"]
    assert again != first
    assert again == registry.digest(ModelVersion("others", 1))


def failures(client: httpx.Client, version: str) -> float | None:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == "fip_model_load_failures_total"]
    return next((sample.value for sample in samples if sample.labels == {"model": "parts", "version": version}), None)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda f: flip(f / "model.safetensors"), "model.safetensors"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]), "model.safetensors"),
    "missing": (lambda f: (f / "curve.png").unlink(), "curve.png"),
    "extra": (lambda f: (f / "notes.md").write_text("# x"), "notes.md"),
    "pickle": (lambda f: (f / "model.pkl").write_bytes(PICKLE), "model.pkl"),
    "pickle as weights": (lambda f: (f / "model.safetensors").write_bytes(PICKLE), "model.safetensors"),
    "manifest": (lambda f: (f / "manifest.json").write_text("{"), "manifest.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_by_name_while_the_others_serve(
    client: httpx.Client, registry: LocalRegistry, ball: Ball, damage: str
) -> None:
    spoil, file = DAMAGES[damage]
    spoil(registry.folder(ModelVersion("parts", 2)))
    refused = client.post("/v1/classify", params={"model": "parts:2"}, content=ball(100))
    assert (refused.status_code, refused.json()["code"], refused.json()["where"]) == (500, "bad_checkpoint", "parts:2")
    assert "parts:2" in refused.json()["detail"]
    assert file in refused.json()["detail"]
    assert str(registry.root) not in refused.text
    assert [asked(client, ball, model) for model in (None, "parts:1", "others")] == [(200, "1")] * 3
    listed = client.get("/v1/models").json()
    ours = [(model["name"], model["version"]) for model in listed["models"] if model["name"] in registry.names()]
    assert ours == [("others", "1"), ("parts", "1")]
    assert [(model["name"], model["version"]) for model in listed["damaged"]] == [("parts", "2")]
    assert file in listed["damaged"][0]["reason"]


def test_the_old_version_serves_on_when_an_alias_moves_to_a_damaged_one(
    client: httpx.Client, registry: LocalRegistry, folder: Path, ball: Ball, caplog: pytest.LogCaptureFixture
) -> None:
    names = (None, "parts", "parts@champion", "models:/parts@champion")
    assert [asked(client, ball, name) for name in names] == [(200, "1")] * 4
    flip(registry.folder(ModelVersion("parts", 2)) / "model.safetensors")
    with caplog.at_level(logging.ERROR, "fip.service"):
        registry.move_alias("parts", "champion", 2, expected=1)
        assert [asked(client, ball, name) for name in names] == [(200, "1")] * 4
    assert asked(client, ball, "parts:2") == (500, "bad_checkpoint")
    assert asked(client, ball, "parts:1") == (200, "1")
    assert failures(client, "2") == 1  # five asked, one tried
    [event] = [record for record in caplog.records if record.getMessage() == "model does not load"]
    assert event.__dict__["fields"]["model"] == "parts:2"
    assert "model.safetensors" in event.__dict__["fields"]["error"]
    classifiers = [model for model in client.get("/v1/models").json()["models"] if model["task"] == "classify"]
    assert [(model["name"], model["version"]) for model in classifiers if model["default"]] == [("parts", "1")]

    assert publish_as(registry, folder, "parts", "champion").version == 3
    assert asked(client, ball) == (200, "3")


def test_the_old_version_serves_on_when_the_newest_is_damaged(
    client: httpx.Client, registry: LocalRegistry, folder: Path, ball: Ball
) -> None:
    assert asked(client, ball, "others") == (200, "1")
    flip(registry.folder(registry.publish(folder, "others")) / "README.md")
    assert asked(client, ball, "others") == (200, "1")  # no champion: a bare name is the newest


def test_damaged_aliases_are_named_and_what_they_said_is_remembered(client: httpx.Client, registry: LocalRegistry, ball: Ball) -> None:
    assert asked(client, ball) == (200, "1")
    (registry.root / "parts" / "aliases.json").write_text("{")
    assert [asked(client, ball, name) for name in (None, "others")] == [(200, "1")] * 2
    refused = client.post("/v1/classify", params={"model": "parts@candidate"}, content=ball(100))
    assert (refused.status_code, refused.json()["code"]) == (500, "bad_checkpoint")
    assert "parts is damaged: aliases.json" in refused.json()["detail"]
    assert [(model["name"], model["version"]) for model in client.get("/v1/models").json()["damaged"]] == [("parts", None)]


def test_a_model_that_cannot_be_read_leaves_the_others_alone(
    client: httpx.Client, registry: LocalRegistry, folder: Path, ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(client, ball, "others") == (200, "1")
    registry.publish(folder, "locked")
    make_unreadable(registry.root / "locked", monkeypatch)
    assert asked(client, ball, "nobody") == (404, "unknown_model")
    refused = client.post("/v1/classify", params={"model": "locked"}, content=ball(100))
    assert (refused.status_code, refused.json()["code"]) == (500, "bad_checkpoint")
    assert refused.json()["detail"] == "locked is damaged: cannot be read: Permission denied"
    listed = client.get("/v1/models")
    assert listed.status_code == 200
    assert [(model["name"], model["version"]) for model in listed.json()["damaged"]] == [("locked", None)]
    assert {("parts", "1"), ("others", "1")} <= {(model["name"], model["version"]) for model in listed.json()["models"]}
    publish_as(registry, folder, "parts", "champion")
    assert asked(client, ball) == (200, "3")  # the registry is asked on


def test_what_was_served_is_served_on_while_the_registry_is_away(client: httpx.Client, registry: LocalRegistry, ball: Ball) -> None:
    assert asked(client, ball) == (200, "1")
    away = registry.root.rename(registry.root.with_name("away"))
    assert asked(client, ball) == (200, "1")
    refused = client.post("/v1/classify", params={"model": "others"}, content=ball(100))
    assert (refused.status_code, refused.json()["code"]) == (503, "registry_unavailable")
    assert refused.headers["Retry-After"]
    assert str(registry.root) not in refused.text
    assert client.get("/v1/models").status_code == 503
    away.rename(registry.root)
    time.sleep(inquiry.ASK_AGAIN_S)
    assert asked(client, ball, "others") == (200, "1")


def test_a_model_shows_its_card_and_where_it_comes_from(client: httpx.Client, registry: LocalRegistry) -> None:
    shown = client.get("/v1/models/modelnet40:1").json()
    assert shown["card"].startswith("---\nlicense: other")
    assert shown["provenance"]["weights_2d_sha256"] in shown["card"]
    (registry.folder(ModelVersion("parts", 2)) / "README.md").write_text("# Trust me\n")
    refused = client.get("/v1/models/parts:2")
    assert (refused.status_code, refused.json()["code"]) == (500, "bad_checkpoint")
    assert "README.md" in refused.json()["detail"]


@contextlib.contextmanager
def passage(address: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """An address that leads to another one until it is closed: (address, close)."""
    to = (urlsplit(address).hostname, urlsplit(address).port)
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = listener.accept()[0], socket.create_connection(to)
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    def close() -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for end in (listener, *ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield "http://{}:{}".format(*listener.getsockname()), close
    finally:
        close()
        thread.join()


def test_a_service_on_mlflow_outlives_it(
    mlflow_registry: Registry, folder: Path, serve: Serve, ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path))
    publish_as(mlflow_registry, folder, "served", "champion")
    settings = partial(Settings, model="models:/served@champion", lookup_seconds=0)
    with passage(mlflow_registry.address) as (address, close), serve(create_app(settings(registry=address))) as client:
        assert [asked(client, ball, name) for name in (None, "models:/served/1", "modelnet40")] == [(200, "1")] * 3
        publish_as(mlflow_registry, folder, "served", "champion")
        assert asked(client, ball) == (200, "2")
        assert client.get("/v1/models/served").json()["card"].startswith("# tiny")
        close()
        started = time.monotonic()
        assert [asked(client, ball, name) for name in (None, "served:1", "modelnet40")] == [(200, "2"), (200, "1"), (200, "1")]
        assert asked(client, ball, "served@candidate") == (503, "registry_unavailable")
        assert time.monotonic() - started < PROMPT_S
