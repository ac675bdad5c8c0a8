"""The names, labels and meaning of the metrics."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(client: httpx.Client) -> Samples:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def value(found: Samples, name: str, /, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_what_is_counted(app: FastAPI, serve: Serve, ball: Callable[[int], bytes]) -> None:
    with serve(app) as client:
        assert client.post("/v1/classify", content=ball(100)).status_code == 200
        assert client.post("/v1/classify", content=b"").status_code == 400
        assert client.post("/v1/classify?up=w").status_code == 422
        assert client.get("/v1/models/tiny").status_code == 200
        assert client.get("/nothing").status_code == 404
        found = samples(client)
        digest = client.get("/v1/models/tiny").json()["digest"]
    count = "fip_request_duration_seconds_count"
    assert value(found, count, route="/v1/classify", model="tiny", version="1", code="200") == 1
    assert value(found, count, route="/v1/classify", model="tiny", version="1", code="400") == 1
    assert value(found, count, route="/v1/classify", model="", version="", code="422") == 1
    assert value(found, count, route="/v1/models/{name}", model="", version="", code="200") == 1
    assert value(found, count, route="unmatched", model="", version="", code="404") == 1
    for stage in ("read", "parse", "voxelize", "queue", "forward", "encode"):
        assert value(found, "fip_stage_duration_seconds_count", stage=stage) == 1
    assert value(found, "fip_rejected_total", reason="empty_file") == 1
    assert value(found, "fip_rejected_total", reason="bad_option") == 1
    assert value(found, "fip_requests_in_flight") == 1  # the one that asks
    assert value(found, "fip_queue_requests") == 0
    assert value(found, "fip_queue_points") == 0
    assert value(found, "fip_model_info", name="tiny", version="1", digest=digest, task="classify") == 1


def test_two_apps_do_not_share_numbers(app: FastAPI, serve: Serve, client: httpx.Client, ball: Callable[[int], bytes]) -> None:
    client.post("/v1/classify", content=ball(100))
    with serve(app) as other:
        assert value(samples(other), "fip_stage_duration_seconds_count", stage="forward") == 0
