"""A registry that is slow, hangs, or answers late, and a device that is slow to load: nobody waits who asks for models that are known."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from models.registry import Catalogue, ModelVersion, publish_as
from models.registry.local import LocalRegistry
from service import context
from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Ball, Serve, Shifted
from tests.contract.model_calls import answers
from tests.fire import PROMPT_S, metric, until


def test_an_earlier_look_does_not_undo_a_move(
    serve: Serve, registry: LocalRegistry, version: Shifted, ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_as(registry, version(1), "parts", "champion")
    registry.publish(version(2), "parts")
    app = create_app(Settings(registry=registry.address, model="parts", lookup_seconds=3600))
    app.state.context.pool.inquiry.models = Catalogue(SlowRegistry(registry.root))
    with serve(app) as client:
        assert answers(client, ball(9)) == "parts:1"
        monkeypatch.setattr(SlowRegistry, "waits", False)
        monkeypatch.setattr(SlowRegistry, "pause", pause := threading.Event())
        looking = threading.Thread(target=app.state.context.pool.follow)
        moving = threading.Thread(target=client.put, args=("/v1/models/parts/aliases/champion",), kwargs={"params": {"version": 2}})
        try:
            looking.start()  # it has seen version 1, and is slow to say so
            until(lambda: SlowRegistry.waits, "it looks")
            moving.start()
            until(lambda: registry.history("parts", "champion") == (1,), "the alias has moved meanwhile")
            moving.join(1)  # it may wait for the look, or be through before it
        finally:
            pause.set()
        looking.join()
        moving.join()
        assert answers(client, ball(9)) == "parts:2"


class SlowRegistry(LocalRegistry):
    """One whose first answer about versions, once there is a `pause`, is on its way until that is over."""

    pause: threading.Event | None = None
    waits = False

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        found = super().versions(name)
        if SlowRegistry.pause is not None and not SlowRegistry.waits:
            SlowRegistry.waits = True
            SlowRegistry.pause.wait(30)
        return found


class HungRegistry(LocalRegistry):
    """One that does not answer about models called `hung…` until it is `over`."""

    over = threading.Event()

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        if name.startswith("hung"):
            HungRegistry.over.wait(60)
        return super().versions(name)


def test_unknown_names_that_hang_keep_nobody_waiting_who_asks_for_known_ones(
    serve: Serve, registry: LocalRegistry, version: Shifted, ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "LINE_S", 0.5)
    monkeypatch.setattr(HungRegistry, "over", over := threading.Event())
    publish_as(registry, version(1), "other", "champion")
    app = create_app(Settings(registry=registry.address, model="other", lookup_seconds=3600))
    app.state.context.pool.inquiry.models = Catalogue(HungRegistry(registry.root))
    with serve(app) as client, ThreadPoolExecutor(8) as threads:
        client.timeout = httpx.Timeout(PROMPT_S)
        try:
            for number in range(4):
                threads.submit(answers, client, ball(9), f"hung-{number}")
                threads.submit(client.get, f"/v1/models/hung-{number}")
            until(lambda: app.state.context.first_lookups.available_tokens == 0, "the registry is asked")
            for spelt in ("other@champion", "models:/other@champion", "other:1"):
                assert answers(client, ball(9), spelt) == "other:1"
            assert client.get("/v1/models").status_code == 200
            assert client.get("/v2/models/other/ready").status_code == 200
            refused = client.get("/v1/models/nobody")
            assert (refused.status_code, refused.json()["code"]) == (503, "registry_unavailable")
            assert refused.headers["Retry-After"]
        finally:
            over.set()
        until(lambda: answers(client, ball(9), "hung-0") == "unknown_model", "the registry is there again")


def test_who_waits_for_models_does_not_pile_up(registry: LocalRegistry, version: Shifted, serve: Serve, ball: Ball) -> None:
    for number in range(30):
        publish_as(registry, version(number), f"model-{number}", "champion")
    app = create_app(Settings(registry=registry.address, model="model-0"))
    with serve(app) as client, ThreadPoolExecutor(29) as threads:
        with app.state.context.pool.residents._loading:  # a device that is slow to load
            asked = [threads.submit(answers, client, ball(9), f"model-{number}") for number in range(1, 30)]
            until(lambda: metric(client, "fip_rejected_total", reason="overloaded") > 0, "some are told to come again")
            assert answers(client, ball(9)) == "model-0:1"
        found = [each.result() for each in asked]
    assert set(found) == {"overloaded", *(each for each in found if each.endswith(":1"))}
    assert 16 <= sum(each.endswith(":1") for each in found) < 29
