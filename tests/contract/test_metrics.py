"""The names, labels and meaning of the metrics."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from service.problems import LINGER_S

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
    assert value(found, "fip_stage_duration_seconds_count", stage="read") == 2  # the empty body was read too
    for stage in ("parse", "voxelize", "queue", "forward", "encode"):
        assert value(found, "fip_stage_duration_seconds_count", stage=stage) == 1
    for kind, amount in (("requests", 1), ("points", 100)):
        assert value(found, f"fip_batch_{kind}_count") == 1
        assert value(found, f"fip_batch_{kind}_sum") == amount
    assert value(found, "fip_rejected_total", reason="empty_file") == 1
    assert value(found, "fip_rejected_total", reason="bad_option") == 1
    assert value(found, "fip_requests_in_flight") == 1  # the one that asks
    assert value(found, "fip_queue_requests") == 0
    assert value(found, "fip_queue_points") == 0
    assert value(found, "fip_model_info", name="tiny", version="1", digest=digest, task="classify") == 1


def test_a_stage_that_fails_is_counted(app: FastAPI, serve: Serve, ball: Callable[[int], bytes]) -> None:
    with serve(app) as client:
        assert client.post("/v1/classify", content=ball(100)[:-1]).status_code == 400  # in parse
        assert client.post("/v1/classify", content=ball(1)).status_code == 422  # in voxelize
        assert client.post("/v1/classify?input_format=npz", content=b"x" * 100).status_code == 400
        found = samples(client)
    counts = {stage: value(found, "fip_stage_duration_seconds_count", stage=stage) for stage in ("read", "parse", "voxelize", "forward")}
    assert counts == {"read": 3, "parse": 3, "voxelize": 1, "forward": 0}


def test_the_duration_ends_with_the_answer(app: FastAPI, serve: Serve) -> None:
    with serve(app) as client, socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=5) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")
        while connection.recv(1 << 16):  # the service waits a second for the rest before it closes
            pass
        found = samples(client)
    labels = {"route": "/v1/classify", "model": "tiny", "version": "1", "code": "413"}
    assert value(found, "fip_request_duration_seconds_count", **labels) == 1
    assert value(found, "fip_request_duration_seconds_sum", **labels) < LINGER_S / 2


def test_two_apps_do_not_share_numbers(app: FastAPI, serve: Serve, client: httpx.Client, ball: Callable[[int], bytes]) -> None:
    client.post("/v1/classify", content=ball(100))
    with serve(app) as other:
        assert value(samples(other), "fip_stage_duration_seconds_count", stage="forward") == 0
