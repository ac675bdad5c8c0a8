"""GET /v1/models and /v1/models/NAME."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.fire import until

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]


@pytest.fixture
def registry(tiny_registry: Path, tmp_path: Path) -> Path:
    """Two versions of `tiny`; the champion is the older one."""
    registry = tmp_path / "registry"
    for version in ("1", "2"):
        shutil.copytree(tiny_registry / "tiny" / "1", registry / "tiny" / version)
    (registry / "tiny" / "aliases.json").write_text(json.dumps({"champion": 1, "candidate": 2}))
    return registry


def test_list(client: httpx.Client) -> None:
    models = client.get("/v1/models").json()["models"]
    [tiny] = [model for model in models if model["name"] == "tiny"]
    assert tiny["version"] == "1"
    assert tiny["task"] == "classify"
    assert tiny["default"] is True
    assert tiny["labels"] == ["chair", "stool", "table"]
    assert tiny["input"]["normalise"] == "unit_sphere"
    assert tiny["metrics"] == {}
    assert len(tiny["digest"]) == 64
    assert [model["name"] for model in models if model["default"] and model["task"] == "classify"] == ["tiny"]
    shown = client.get("/v1/models/tiny").json()
    assert shown.pop("card").startswith("# tiny")
    assert shown.pop("class_scores") == {}  # nobody measured any
    assert shown.pop("provenance")["code_version"] == "test"
    assert shown == tiny
    assert client.get("/v1/models/models:/tiny/1").json()["version"] == "1"


def test_versions_and_aliases(registry: Path, serve: Serve) -> None:
    body = (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n1 0 0\n0 1 0\n"
    )
    with serve(create_app(Settings(registry=str(registry), model="tiny", lookup_seconds=0.2))) as client:
        listed = [(model["version"], model["alias"], model["default"]) for model in client.get("/v1/models").json()["models"][-2:]]
        assert listed == [("1", "champion", True), ("2", None, False)]

        def asked(**query: str) -> tuple[str, str | None]:
            model = client.post("/v1/classify", params=query, content=body).json()["model"]
            return model["version"], model["alias"]

        assert asked() == ("1", "champion")
        assert asked(model="tiny@candidate") == ("2", "candidate")
        assert asked(model="tiny:2") == ("2", None)
        (registry / "tiny" / "aliases.json").write_text(json.dumps({"champion": 2}))
        until(lambda: asked() == ("2", "champion"), "a moved alias is seen without a restart, after a moment")
        assert client.get("/v1/models/tiny:1").json()["version"] == "1"


def test_a_damaged_version_does_not_hide_the_others(registry: Path, serve: Serve) -> None:
    (registry / "tiny" / "2" / "manifest.json").write_text("{")
    with serve(create_app(Settings(registry=str(registry), model="tiny"))) as client:
        assert [model["version"] for model in client.get("/v1/models").json()["models"] if model["name"] == "tiny"] == ["1"]
        answer = client.get("/v1/models/tiny:2")
    assert (answer.status_code, answer.json()["code"]) == (500, "bad_checkpoint")
    assert str(registry) not in answer.text


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("nobody", 404, "unknown_model"),
        ("tiny:7", 404, "unknown_model"),
        ("..%2f..%2fetc", 404, "not_found"),
        ("..", 404, "not_found"),
        (".hidden", 422, "bad_model_name"),
        ("a b", 422, "bad_model_name"),
    ],
)
def test_unknown_names(client: httpx.Client, name: str, status: int, code: str) -> None:
    response = client.get(f"/v1/models/{name}")
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


def test_unknown_names_list_the_known(client: httpx.Client) -> None:
    assert "tiny" in client.get("/v1/models/tyni").json()["known"]
