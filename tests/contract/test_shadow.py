"""A candidate beside the champion: unseen, counted, and never in the way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.checkpoint import loading_bytes
from models.registry import publish_as
from models.registry.local import LocalRegistry
from service.app import create_app
from service.settings import Settings
from service.shadow import same_classes
from tests.fire import metric, paused, until, waiting
from tests.published import shifted
from tests.untrained_segmenter import save_segmenter

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]
Ball = Callable[[int], bytes]


@pytest.fixture
def registry(tmp_path: Path, tiny_registry: Path) -> LocalRegistry:
    """parts:1, the champion, and parts:2, the candidate, which always agrees; streets:1 and :2, which do not."""
    (tmp_path / "registry").mkdir()
    made = LocalRegistry(tmp_path / "registry")
    for name, folders in (
        ("parts", [shifted(tiny_registry / "tiny" / "1", tmp_path / f"parts{each}", each) for each in (0, 1)]),
        ("streets", [_segmenter(tmp_path / f"streets{seed}", seed) for seed in (0, 1)]),
    ):
        publish_as(made, folders[0], name, "champion")
        publish_as(made, folders[1], name, "candidate")
    return made


def _segmenter(folder: Path, seed: int) -> Path:
    save_segmenter(folder, "streets", seed=seed)
    return folder


def counted(client: httpx.Client, model: str, outcome: str) -> float:
    return metric(client, "fip_shadow_requests_total", model=model, outcome=outcome)


def test_a_candidate_that_agrees(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    settings = Settings(registry=registry.address, model="parts", shadow="parts@candidate", shadow_share=1)
    with serve(create_app(settings)) as client:
        for count in range(1, 6):
            answer = client.post("/v1/classify", content=ball(100 + count)).json()
            assert answer["model"]["version"] == "1"
            until(lambda count=count: counted(client, "parts", "compared") == count, "it was compared")  # type: ignore[misc]
        assert metric(client, "fip_shadow_answers_total", model="parts", version="1", shadow="2") == 5
        assert metric(client, "fip_shadow_answers_agreed_total", model="parts", version="1", shadow="2") == 5


def test_every_point_is_compared(registry: LocalRegistry, serve: Serve, scan: bytes) -> None:
    settings = Settings(registry=registry.address, model="streets", shadow="streets@candidate", shadow_share=1)
    with serve(create_app(settings)) as client:
        labels = {}
        for version in (1, 2):
            sent = {"model": f"streets:{version}", "input_format": "bin", "format": "label"}
            labels[version] = np.frombuffer(client.post("/v1/segment", params=sent, content=scan).content, "<u4")
            until(lambda: metric(client, "fip_queue_requests") == 0, "nothing runs")
        agreed = int((labels[1] == labels[2]).sum())
        assert 0 < agreed < len(labels[1])
        until(lambda: counted(client, "streets", "compared") == 1, "the first was compared, the second was the candidate's own")
        assert metric(client, "fip_shadow_answers_total", model="streets", shadow="2") == len(labels[1])
        assert metric(client, "fip_shadow_answers_agreed_total", model="streets", shadow="2") == agreed


def test_a_share_of_the_requests(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    for share, least, most in ((0.0, 0, 0), (0.5, 3, 37)):
        settings = Settings(registry=registry.address, model="parts", shadow="parts@candidate", shadow_share=share)
        with serve(create_app(settings)) as client:
            for _ in range(40):
                assert client.post("/v1/classify", content=ball(64)).status_code == 200
            found = sum(metric(client, "fip_shadow_requests_total", outcome=each) for each in ("compared", "busy"))
            assert least <= found <= most


def test_other_models_have_no_shadow(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    settings = Settings(registry=registry.address, model="parts", shadow="streets@candidate", shadow_share=1)
    with serve(create_app(settings)) as client:
        assert client.post("/v1/classify", content=ball(64)).status_code == 200
        assert metric(client, "fip_shadow_requests_total") == 0


def test_a_candidate_that_does_not_load_fails_alone(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    (registry.root / "parts" / "2" / "model.safetensors").write_bytes(b"no")
    settings = Settings(registry=registry.address, model="parts", shadow="parts:2", shadow_share=1)
    with serve(create_app(settings)) as client:
        assert client.post("/v1/classify", content=ball(64)).status_code == 200
        until(lambda: counted(client, "parts", "failed") == 1, "it failed")
        assert client.post("/v1/classify", content=ball(64)).json()["model"]["version"] == "1"


def test_where_there_is_room_for_one_it_does_not_run(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    room = loading_bytes(registry.root / "parts" / "1")
    settings = Settings(registry=registry.address, model="parts", shadow="parts@candidate", shadow_share=1, model_memory_bytes=room)
    app = create_app(settings)
    with serve(app) as client:
        loads = metric(client, "fip_model_loads_total")
        with app.state.context.pool.residents._loading:  # it has begun, and waits for room
            assert client.post("/v1/classify", content=ball(100)).status_code == 200
            waits = app.state.context.loads.statistics
            until(lambda: waits().borrowed_tokens == 1, "the candidate is asked for")
        for _ in range(3):
            assert client.post("/v1/classify", content=ball(100)).status_code == 200
        until(lambda: counted(client, "parts", "failed") == 1, "the candidate is given up")
        assert metric(client, "fip_model_loads_total") == loads
        assert metric(client, "fip_model_evictions_total") == 0


def test_it_waits_until_nobody_else_does(registry: LocalRegistry, serve: Serve, ball: Ball) -> None:
    app = create_app(Settings(registry=registry.address, model="parts", shadow="parts@candidate", shadow_share=1))
    with serve(app) as client, httpx.Client(base_url=client.base_url, timeout=60) as other:
        assert client.post("/v1/classify", content=ball(64)).status_code == 200
        until(lambda: counted(client, "parts", "compared") == 1, "the first was compared")
        with ThreadPoolExecutor(1) as threads:
            with paused(app):
                answer = threads.submit(other.post, "/v1/classify", content=ball(100))
                waiting(client, 1)
            assert answer.result().status_code == 200
        until(lambda: counted(client, "parts", "compared") == 2, "then the second")


def test_classes_are_compared_by_their_names() -> None:
    found, answers = np.array([0, 1, 2, 3]), np.array([2, 1, 0, 0])
    assert same_classes(("a", "b", "c", "d"), found, ("c", "b", "a"), answers) == 3


def test_a_setting_that_is_no_reference() -> None:
    with pytest.raises(ValueError, match="no name of lower-case letters"):
        Settings(shadow="Parts!")
