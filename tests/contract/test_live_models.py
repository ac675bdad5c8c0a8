"""Versions that change under a running service: followed, swapped, rolled back, refused, shared out over a budget of memory."""

import asyncio
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from models.checkpoint import loading_bytes
from models.registry import Registry, publish_as
from models.registry.catalogue import BUNDLED
from models.registry.local import LocalRegistry
from models.registry.publish import rollback
from service import residents
from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Ball, Serve, Shifted
from tests.contract.model_calls import answers
from tests.contract.test_served_registry import flip, passage
from tests.fire import metric, until
from tests.published import Answer, shifted, steadily

RATE = 10.0  # of the bar, 50, the bench tells: `make bench-service`
NEW_S, BACK_S = 10.0, 5.0  # within which what moved is to answer


@pytest.fixture
def client(registry: LocalRegistry, version: Shifted, serve: Serve) -> Iterator[httpx.Client]:
    """parts:1, the champion, and parts:2, looked up every 50 ms."""
    publish_as(registry, version(1), "parts", "champion")
    registry.publish(version(2), "parts")
    with serve(create_app(Settings(registry=registry.address, model="parts", lookup_seconds=0.05))) as client:
        yield client


def loaded(client: httpx.Client, model: str) -> bool:
    name, version = model.split(":")
    rows = [line for line in client.get("/metrics").text.splitlines() if line.startswith("fip_model_info{")]
    return any(f'name="{name}"' in row and f'version="{version}"' in row for row in rows)


def test_an_alias_that_moves_under_load_fails_nobody(
    any_registry: Registry, version: Shifted, serve: Serve, ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    name = f"moved-{tmp_path.name[-20:].replace('_', '-').lower().strip('-')}"
    publish_as(any_registry, version(1), name, "champion")
    second = any_registry.publish(version(2), name).version
    app = create_app(Settings(registry=any_registry.address, model=name, lookup_seconds=0.2))
    with serve(app) as client:

        async def run() -> list[Answer]:
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            asking = asyncio.create_task(steadily(str(client.base_url), ball(200), None, RATE, stop))
            await asyncio.sleep(0.5)
            await loop.run_in_executor(None, lambda: any_registry.move_alias(name, "champion", second, expected=1))
            await loop.run_in_executor(None, lambda: until(lambda: answers(client, ball(9)) == f"{name}:2", "the new one", NEW_S))
            await asyncio.sleep(0.5)
            await loop.run_in_executor(None, lambda: rollback(any_registry, name, "champion"))
            await loop.run_in_executor(None, lambda: until(lambda: answers(client, ball(9)) == f"{name}:1", "the old one", BACK_S))
            await asyncio.sleep(0.3)
            stop.set()
            return await asking

        found = asyncio.run(run())
        swaps = metric(client, "fip_model_swaps_total", model=name)
    assert {answer.status for answer in found} == {200}
    logits = {model: {answer.logit for answer in found if answer.model == model} for model in (f"{name}:1", f"{name}:2")}
    assert [len(each) for each in logits.values()] == [1, 1]  # the same cloud, the same version, the same logits
    [first], [other] = logits.values()
    assert other - first == pytest.approx(1, abs=1e-5)
    assert len({(answer.model, answer.digest) for answer in found}) == 2
    assert swaps == 2


def test_the_service_moves_and_rolls_back_by_one_call(client: httpx.Client, registry: LocalRegistry, ball: Ball) -> None:
    assert answers(client, ball(9)) == "parts:1"
    moved = client.put("/v1/models/parts/aliases/champion", params={"version": 2, "expected": 1})
    assert (moved.status_code, moved.json()) == (200, {"name": "parts", "alias": "champion", "version": "2", "before": "1"})
    assert answers(client, ball(9)) == "parts:2"  # the next request, not the next look at the registry
    assert answers(client, ball(9), "parts@champion") == "parts:2"
    back = client.post("/v1/models/parts/aliases/champion/rollback")
    assert (back.status_code, back.json()["version"], back.json()["before"]) == (200, "1", "2")
    assert answers(client, ball(9)) == "parts:1"
    assert registry.history("parts", "champion") == (1, 2)
    made = client.put("/v1/models/parts/aliases/candidate", params={"version": 2, "expected": 0})
    assert made.json() == {"name": "parts", "alias": "candidate", "version": "2", "before": None}


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("parts/aliases/champion", {"version": 3}, 404, "unknown_model"),
        ("parts/aliases/champion", {"version": 2, "expected": 2}, 409, "alias_conflict"),
        ("parts/aliases/champion", {"version": 2, "expected": 0}, 409, "alias_conflict"),
        ("parts/aliases/Champion", {"version": 2}, 422, "bad_model_name"),
        ("parts/aliases/champion", {}, 422, "bad_option"),
        ("parts/aliases/champion", {"version": 0}, 422, "bad_option"),
        ("nobody/aliases/champion", {"version": 1}, 404, "unknown_model"),
        ("modelnet40/aliases/champion", {"version": 1}, 409, "alias_conflict"),
        ("..%2Fparts/aliases/champion", {"version": 1}, 404, "not_found"),
    ],
)
def test_moves_that_cannot_be(
    client: httpx.Client, ball: Ball, path: str, params: dict[str, int], status: int, code: str, registry: LocalRegistry
) -> None:
    refused = client.put(f"/v1/models/{path}", params=params)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert str(registry.root) not in refused.text
    assert registry.history("parts", "champion") == ()
    assert answers(client, ball(9)) == "parts:1"


def test_nothing_to_roll_back_to(client: httpx.Client) -> None:
    refused = client.post("/v1/models/parts/aliases/champion/rollback")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")


def test_a_broken_version_is_refused_before_the_alias_moves(client: httpx.Client, registry: LocalRegistry, ball: Ball) -> None:
    flip(registry.root / "parts" / "2" / "model.safetensors")
    refused = client.put("/v1/models/parts/aliases/champion", params={"version": 2})
    assert (refused.status_code, refused.json()["code"]) == (500, "bad_checkpoint")
    assert registry.versions("parts")[0].aliases == ("champion",)
    registry.move_alias("parts", "champion", 2, expected=1)  # by somebody who does not look
    until(lambda: metric(client, "fip_model_load_failures_total", model="parts", version="2") > 0, "the broken version was tried")
    assert answers(client, ball(9)) == "parts:1"


def test_an_alias_that_is_taken_away_is_no_more(client: httpx.Client, registry: LocalRegistry, ball: Ball) -> None:
    registry.move_alias("parts", "candidate", 2, expected=None)
    assert answers(client, ball(9), "parts@candidate") == "parts:2"
    registry.move_alias("parts", "candidate", None, expected=2)
    until(lambda: answers(client, ball(9), "parts@candidate") == "unknown_model", "the alias is gone")


def test_a_new_version_of_a_model_without_champion_is_followed(
    client: httpx.Client, registry: LocalRegistry, version: Shifted, ball: Ball
) -> None:
    registry.publish(version(3), "others")
    assert answers(client, ball(9), "others") == "others:1"
    registry.publish(version(4), "others")
    until(lambda: answers(client, ball(9), "others") == "others:2", "the newest answers")


def test_many_models_share_a_small_memory(registry: LocalRegistry, version: Shifted, serve: Serve, ball: Ball) -> None:
    names = [f"model-{number}" for number in range(12)]
    for number, name in enumerate(names):
        publish_as(registry, version(number), name, "champion")
    one = loading_bytes(registry.root / names[0] / "1")
    budget, rng = 3 * one, random.Random(0)
    app = create_app(Settings(registry=registry.address, model=names[0], model_memory_bytes=budget))
    with serve(app) as client, ThreadPoolExecutor(6) as threads:
        base = client.post("/v1/classify", params={"logits": "true"}, content=ball(50)).json()["logits"][0]

        def right(name: str) -> bool:
            answer = client.post("/v1/classify", params={"logits": "true", "model": name}, content=ball(50)).json()
            return answer["model"]["name"] == name and abs(answer["logits"][0] - base - names.index(name)) < 1e-4

        asked = list(threads.map(right, rng.choices(names, k=80)))
        peak = metric(client, "fip_model_memory_peak_bytes")
        assert asked == [True] * 80
        assert 0 < peak <= budget
        assert metric(client, "fip_model_memory_bytes") <= budget
        assert metric(client, "fip_model_evictions_total") > 12
        assert metric(client, "fip_model_info") < 6


def test_who_was_asked_for_longest_ago_goes_first(registry: LocalRegistry, version: Shifted, serve: Serve, ball: Ball) -> None:
    for number, name in enumerate("abc"):
        publish_as(registry, version(number), name, "champion")
    app = create_app(Settings(registry=registry.address, model="a"))
    with serve(app):
        [one] = [each.bytes for each in app.state.context.pool.residents.all() if each.entry.model.name == "a"]
    room_for_two = one + loading_bytes(registry.root / "a" / "1")
    with serve(create_app(Settings(registry=registry.address, model="a", model_memory_bytes=room_for_two))) as client:
        for name in "abac":
            assert answers(client, ball(9), name) == f"{name}:1"
        assert [loaded(client, f"{name}:1") for name in "abc"] == [True, False, True]


def test_what_a_job_has_in_hand_is_not_put_out_and_keeps_nobody_out(
    registry: LocalRegistry, version: Shifted, serve: Serve, ball: Ball
) -> None:
    for number in range(6):
        publish_as(registry, version(number), f"m{number}", "champion")
    one = loading_bytes(registry.root / "m0" / "1")
    app = create_app(Settings(registry=registry.address, model="m0", model_memory_bytes=3 * one // 2))
    with serve(app) as client:
        held = app.state.context.pool.get("m1", None)  # as a job does, for hours
        for name in ("m2", "m3", "m4", "m5", "m0", "m1"):
            assert answers(client, ball(9), name) == f"{name}:1"
        loads = metric(client, "fip_model_loads_total")
        assert answers(client, ball(9), "m1") == "m1:1"
        assert (metric(client, "fip_model_loads_total"), held.ref.name) == (loads, "m1")
        app.state.context.pool.residents.let_go([])
        assert loaded(client, "m1:1")


def test_one_load_for_all_who_ask_meanwhile(registry: LocalRegistry, version: Shifted, serve: Serve, ball: Ball, tmp_path: Path) -> None:
    for number, name in enumerate(("warm", "cold")):
        publish_as(registry, version(number), name, "champion")
    publish_as(registry, broken(version(2), tmp_path / "broken"), "broken", "champion")
    app = create_app(Settings(registry=registry.address, model="warm"))
    with serve(app) as client, ThreadPoolExecutor(8) as threads:
        loads = metric(client, "fip_model_loads_total")
        for name, answer in (("cold", "cold:1"), ("broken", "bad_checkpoint")):
            with app.state.context.pool.residents._loading:  # a device that is slow to load
                asked = [threads.submit(answers, client, ball(9), name) for _ in range(8)]
                waits = app.state.context.loads.statistics
                until(lambda: waits().borrowed_tokens + waits().tasks_waiting == 8, "all wait for it")  # noqa: B023  # called at once
            assert {each.result() for each in asked} == {answer}
        assert metric(client, "fip_model_loads_total") == loads + 1
        assert metric(client, "fip_model_load_failures_total", model="broken") == 1


def test_a_model_larger_than_the_memory_is_refused(serve: Serve, ball: Ball, scan: bytes) -> None:
    classifier, segmenter = (loading_bytes(BUNDLED / name / "1") for name in ("modelnet40", "lidar19"))
    assert classifier < segmenter
    with serve(create_app(Settings(model_memory_bytes=classifier))) as client:
        assert answers(client, ball(50)) == "modelnet40:1"
        refused = client.post("/v1/segment", params={"input_format": "bin"}, content=scan)
        assert (refused.status_code, refused.json()["code"]) == (507, "model_too_large")
        assert str(segmenter) in refused.json()["detail"]


def test_a_service_starts_without_its_mlflow_server(
    mlflow_registry: Registry, version: Shifted, serve: Serve, ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    publish_as(mlflow_registry, version(1), "away", "champion")
    with passage(mlflow_registry.address) as (address, close):
        settings = Settings(registry=address, model="away@champion", lookup_seconds=0.1)
        with serve(create_app(settings)) as client:
            assert answers(client, ball(9)) == "away:1"
            assert client.get("/v1/models").status_code == 200
        close()
        with serve(create_app(settings)) as client:
            assert answers(client, ball(9)) == "away:1"
            assert answers(client, ball(9), "away") == "away:1"
            assert answers(client, ball(9), "away@candidate") == "registry_unavailable"
            assert ("away", "1") in [(model["name"], model["version"]) for model in client.get("/v1/models").json()["models"]]


def test_a_version_that_nobody_asks_for_any_more_goes(
    client: httpx.Client, registry: LocalRegistry, ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residents, "IDLE_S", 0.3)
    assert answers(client, ball(9), "parts:2") == "parts:2"
    client.put("/v1/models/parts/aliases/champion", params={"version": 2})
    assert answers(client, ball(9)) == "parts:2"
    until(lambda: not loaded(client, "parts:1"), "the version before has gone")
    assert loaded(client, "parts:2")
    assert loaded(client, "lidar19:1")  # the default of the other task, which nobody ever asked for
    assert client.post("/v1/models/parts/aliases/champion/rollback").status_code == 200
    assert answers(client, ball(9)) == "parts:1"


def broken(folder: Path, into: Path) -> Path:
    """A checkpoint that verifies and does not run: its voxels are smaller than any number of them could count."""
    shifted(folder, into, 0)
    manifest = json.loads((into / "manifest.json").read_text())
    manifest["input"]["voxel_size"] = 1e-9
    (into / "manifest.json").write_text(json.dumps(manifest))
    return into


def test_a_champion_that_does_not_run_is_as_good_as_damaged(
    client: httpx.Client, registry: LocalRegistry, serve: Serve, ball: Ball, tiny_registry: Path, tmp_path: Path
) -> None:
    version = publish_as(registry, broken(tiny_registry / "tiny" / "1", tmp_path / "broken"), "parts", "champion").version
    until(lambda: metric(client, "fip_model_load_failures_total", model="parts", version=str(version)) == 1, "it was tried")
    assert answers(client, ball(9)) == "parts:1"
    refused = client.put("/v1/models/parts/aliases/candidate", params={"version": version})
    assert (refused.status_code, refused.json()["code"]) == (500, "bad_checkpoint")
    assert [row["version"] for row in client.get("/v1/models").json()["damaged"]] == [str(version)]
    with serve(create_app(Settings(registry=registry.address, model="parts", lookup_seconds=0.05))) as other:  # it starts all the same
        assert answers(other, ball(9)) == "parts:1"
        assert answers(other, ball(9), "parts@champion") == "parts:1"
        assert answers(other, ball(9), f"parts:{version}") == "bad_checkpoint"
        until(lambda: metric(other, "fip_model_load_failures_total", model="parts") == 1, "it was tried once")


def test_a_damaged_version_takes_nobody_s_room(registry: LocalRegistry, version: Shifted, serve: Serve, ball: Ball) -> None:
    publish_as(registry, version(1), "parts", "champion")
    registry.publish(version(2), "parts")
    one = loading_bytes(registry.root / "parts" / "1")
    app = create_app(Settings(registry=registry.address, model="parts", model_memory_bytes=int(1.2 * one), lookup_seconds=0.05))
    with serve(app) as client:
        assert answers(client, ball(9)) == "parts:1"
        before = metric(client, "fip_model_evictions_total")
        flip(registry.root / "parts" / "2" / "model.safetensors")
        registry.move_alias("parts", "champion", 2, expected=1)
        until(lambda: metric(client, "fip_model_load_failures_total") > 0, "it was tried")
        assert metric(client, "fip_model_evictions_total") == before
        assert loaded(client, "parts:1")


def test_looking_after_models_is_not_asking_for_them(serve: Serve, registry: LocalRegistry, version: Shifted, ball: Ball) -> None:
    for name in ("a", "b"):
        publish_as(registry, version(ord(name)), name, "champion")
    app = create_app(Settings(registry=registry.address, model="a", lookup_seconds=3600))
    with serve(app) as client:
        pool = app.state.context.pool
        assert [answers(client, ball(9), name) for name in ("b", "a")] == ["b:1", "a:1"]
        asked = {each.entry.model.name: each.asked_s for each in pool.residents.all()}
        loads = metric(client, "fip_model_loads_total")
        pool.follow()
        assert client.get("/v1/models").status_code == 200
        assert {each.entry.model.name: each.asked_s for each in pool.residents.all()} == asked
        assert asked["b"] < asked["a"]
        assert metric(client, "fip_model_loads_total") == loads
