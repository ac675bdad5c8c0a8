"""Which model answers a request that names none: one a task."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from models.errors import BadCheckpoint, ModelError, UnknownModel
from models.registry import Catalogue, publish_as
from models.registry.catalogue import BUNDLED
from models.registry.local import LocalRegistry
from service.app import create_app
from service.listing import Listing
from service.pool import Pool
from service.problems import status_of
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.device import Device

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]

XYZ = b"OFF\n4 0 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
BUNDLED_SEGMENTER = next((name for name in ("lidar19",) if (BUNDLED / name).is_dir()), None)


@pytest.fixture
def registry(segment_registry: Path, tmp_path: Path) -> LocalRegistry:
    """tiny, streets and strict."""
    for name in ("tiny", "streets", "strict"):
        shutil.copytree(segment_registry / name, tmp_path / "registry" / name)
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """A folder that stands for an installation without bundled models."""
    (tmp_path / "nothing").mkdir()
    return tmp_path / "nothing"


def pool_of(catalogue: Catalogue, model: str | None = None) -> Pool:
    settings, telemetry = Settings(model=model), Telemetry()
    return Pool(settings, telemetry, Device(settings, telemetry), catalogue)


def answering(client: httpx.Client, task: str, **query: str) -> str:
    response = client.post(f"/v1/{task}", params=query, content=XYZ)
    assert response.status_code == 200, response.text
    return response.json()["model"]["name"]


@pytest.mark.parametrize(
    ("model", "classifier", "segmenter"),
    [
        ("tiny", "tiny", BUNDLED_SEGMENTER or "streets"),
        ("streets", "modelnet40", "streets"),
        ("strict:1", "modelnet40", "strict"),
        (None, "modelnet40", BUNDLED_SEGMENTER or "streets"),
    ],
)
def test_the_model_of_the_settings_is_the_default_of_its_own_task(
    registry: LocalRegistry, serve: Serve, model: str | None, classifier: str, segmenter: str
) -> None:
    with serve(create_app(Settings(registry=registry.address, model=model))) as client:
        loaded = client.get("/metrics").text  # before any request: both are there from the start
        assert answering(client, "classify") == classifier
        shown = [entry["name"] for entry in client.get("/v1/models").json()["models"] if entry["default"]]
        assert sorted(shown) == sorted([classifier, segmenter])
        assert answering(client, "classify", model="tiny") == "tiny"
        assert answering(client, "segment", model="streets") == "streets"
    assert f'name="{classifier}",task="classify"' in loaded
    assert f'name="{segmenter}",task="segment"' in loaded


def test_without_a_model_for_a_task_the_service_starts_and_says_so(registry: LocalRegistry, nothing: Path) -> None:
    for name in ("streets", "strict"):
        shutil.rmtree(registry.root / name)
    pool = pool_of(Catalogue(registry, nothing))
    assert list(pool.load()) == ["tiny"]
    with pytest.raises(UnknownModel, match="no model here to segment") as caught:
        pool.get(None, "segment")
    assert status_of(type(caught.value)) == 404
    assert [model.default for model in Listing(pool).catalogue().models] == [True]
    with pytest.raises(ModelError) as wrong:
        pool.get("tiny", "segment")
    assert wrong.value.code == "wrong_task"
    assert wrong.value.known == ()


def test_a_model_published_meanwhile_answers(registry: LocalRegistry, nothing: Path, segment_registry: Path) -> None:
    for name in ("streets", "strict"):
        shutil.rmtree(registry.root / name)
    pool = pool_of(Catalogue(registry, nothing))
    pool.load()
    publish_as(registry, segment_registry / "streets" / "1", "avenues", "champion")
    live = pool.get(None, "segment")
    assert (live.ref.name, live.ref.alias) == ("avenues", "champion")


def test_nothing_at_all_does_not_start(nothing: Path) -> None:
    with pytest.raises(UnknownModel, match="no model here to classify"):
        pool_of(Catalogue(None, nothing)).load()


def test_an_unknown_model_in_the_settings_does_not_start(registry: LocalRegistry) -> None:
    with pytest.raises(UnknownModel, match="did you mean 'streets'"):
        pool_of(Catalogue(registry), "street").load()


def test_a_damaged_default_stops_its_own_task_only(registry: LocalRegistry, nothing: Path) -> None:
    shutil.rmtree(registry.root / "strict")
    weights = registry.root / "streets" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    pool = pool_of(Catalogue(registry, nothing))
    assert list(pool.load()) == ["tiny"]
    with pytest.raises(BadCheckpoint, match="streets:1 is damaged"):
        pool.get(None, "segment")
    with pytest.raises(BadCheckpoint, match="streets:1 is damaged"):
        pool_of(Catalogue(registry, nothing), "streets").load()


def test_a_manifest_that_cannot_be_read_is_passed_over_and_named(registry: LocalRegistry, nothing: Path) -> None:
    (registry.root / "streets" / "1" / "manifest.json").write_text("{")
    assert Catalogue(registry, nothing).default("segment") == "strict"
    shutil.rmtree(registry.root / "strict")
    with pytest.raises(UnknownModel, match=r"\(streets: damaged\)"):
        Catalogue(registry, nothing).default("segment")
    assert Catalogue(registry, nothing).default("classify") == "tiny"


def test_a_bundled_model_comes_before_those_of_the_registry(registry: LocalRegistry, segment_registry: Path, tmp_path: Path) -> None:
    bundled = tmp_path / "bundled"
    shutil.copytree(segment_registry / "smooth", bundled / "zebra")
    assert Catalogue(registry, bundled).default("segment") == "zebra"
    assert Catalogue(registry, bundled).default("classify") == "tiny"


def test_an_alias_that_moves_to_the_other_task_is_refused_as_such(registry: LocalRegistry, segment_registry: Path, nothing: Path) -> None:
    pool = pool_of(Catalogue(registry, nothing), "tiny")
    pool.load()
    version = registry.publish(segment_registry / "streets" / "1", "tiny").version
    registry.move_alias("tiny", "champion", version, expected=None)
    pool.follow()
    with pytest.raises(ModelError) as caught:
        pool.get(None, "classify")
    assert caught.value.code == "wrong_task"
    assert pool.get("tiny", "segment").ref.version == str(version)
    assert pool.get("tiny:1", "classify").ref.version == "1"
