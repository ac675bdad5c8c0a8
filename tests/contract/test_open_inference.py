"""The Open Inference Protocol: the same answers as under /v1, whichever way tensors are sent and asked for."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.registry.local import LocalRegistry
from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import metric, paused, until, waiting
from tests.open_inference import Answer, address, binary, body_of, in_json, infer, read_answer

LABELS = ["chair", "stool", "table"]


@pytest.fixture(scope="module")
def object_points() -> np.ndarray:
    """(500, 3): what `ball(500)` has."""
    return np.random.default_rng(500).normal(size=(500, 3)).astype("<f4")


@pytest.fixture(scope="module")
def street(scan: bytes) -> dict[str, np.ndarray]:
    """The scan as tensors: points (3000, 3) and intensity (3000,)."""
    table = np.frombuffer(scan, "<f4").reshape(-1, 4)
    return {"points": np.ascontiguousarray(table[:, :3]), "intensity": np.ascontiguousarray(table[:, 3])}


def segmented(client: httpx.Client, scan: bytes, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence as /v1/segment has them."""
    query = {"model": model, "format": "npz", "input_format": "bin"}
    response = client.post("/v1/segment", params=query, content=scan)
    assert response.status_code == 200, response.text
    arrays = np.load(io.BytesIO(response.content))
    return arrays["labels"], arrays["confidence"]


def test_what_the_server_is(segment_client: httpx.Client) -> None:
    found = segment_client.get("/v2").json()
    assert (found["name"], found["extensions"]) == ("fip-server", ["binary_tensor_data"])
    assert found["version"] == segment_client.get("/openapi.json").json()["info"]["version"]
    assert segment_client.get("/v2/health/live").json() == {"live": True}
    assert segment_client.get("/v2/health/ready").json() == {"live": True, "ready": True}


def test_not_ready_before_the_models_are_there(app: FastAPI, serve: Serve) -> None:
    with serve(app, start=False) as client:
        assert client.get("/v2/health/live").status_code == 200
        answer = client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"live": False, "ready": False})
        for path in ("/v2/models/tiny", "/v2/models/tiny/ready"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert answer.json()["error"] == answer.json()["detail"]  # there is no place


def test_what_a_classifier_takes_and_gives(segment_client: httpx.Client) -> None:
    found = segment_client.get("/v2/models/tiny").json()
    digest = segment_client.get("/v1/models/tiny").json()["digest"]
    assert found == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "fip",
        "inputs": [{"name": "points", "datatype": "FP32", "shape": [-1, 3], "parameters": {"datatypes": "FP32, FP64"}}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [3]},
            {"name": "scores", "datatype": "FP32", "shape": [3]},
            {"name": "label", "datatype": "INT32", "shape": [1]},
        ],
        "parameters": {"version": "1", "digest": digest, "task": "classify", "labels": LABELS},
    }
    assert segment_client.get("/v2/models/tiny/versions/1").json() == found


@pytest.mark.parametrize(("model", "optional"), [("streets", True), ("strict", False)])
def test_what_a_segmenter_takes_and_gives(segment_client: httpx.Client, model: str, optional: bool) -> None:
    found = segment_client.get(f"/v2/models/{model}").json()
    assert found["inputs"][1:] == [{"name": "intensity", "datatype": "FP32", "shape": [-1], "parameters": {"optional": optional}}]
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["outputs"]] == [
        ("labels", "INT32", [-1]),
        ("confidence", "FP32", [-1]),
        ("logits", "FP32", [-1, 19]),
    ]


@pytest.mark.parametrize("path", ["/v2/models/streets/ready", "/v2/models/streets/versions/1/ready"])
def test_a_model_is_ready(segment_client: httpx.Client, path: str) -> None:
    assert segment_client.get(path).json() == {"name": "streets", "ready": True}


def test_a_classification_is_that_of_v1(segment_client: httpx.Client, object_points: np.ndarray, ball: Callable[[int], bytes]) -> None:
    response = segment_client.post("/v1/classify", params={"model": "tiny", "logits": "true"}, content=ball(500))
    expected = response.json()
    for dtype in ("<f4", "<f8"):
        found = infer(segment_client, "tiny", {"points": object_points.astype(dtype)})
        assert np.array_equal(found.arrays["logits"], np.array(expected["logits"], "<f4"))
        assert found.arrays["label"].tolist() == [expected["predictions"][0]["index"]]
        best = found.arrays["scores"][found.arrays["label"][0]]
        assert float(best) == expected["predictions"][0]["score"]
        digest = expected["model"]["digest"]
        assert found.document["parameters"] == {"digest": digest, "filled": "", "scaled": ""}
        assert (found.document["model_name"], found.document["model_version"]) == ("tiny", "1")


@pytest.mark.parametrize("model", ["streets", "smooth"])
def test_a_segmentation_is_that_of_v1(segment_client: httpx.Client, scan: bytes, street: dict[str, np.ndarray], model: str) -> None:
    labels, confidence = segmented(segment_client, scan, model)
    found = infer(segment_client, model, street, parameters={"binary_data_output": True})
    assert list(found.arrays) == ["labels", "confidence"]
    assert np.array_equal(found.arrays["labels"], labels)
    assert np.array_equal(found.arrays["confidence"], confidence)
    assert len(np.unique(labels)) > 1


def test_every_way_of_sending_and_asking_says_the_same(segment_client: httpx.Client, street: dict[str, np.ndarray]) -> None:
    outputs = [{"name": name} for name in ("logits", "labels", "confidence")]
    expected = infer(segment_client, "streets", street, outputs=outputs).arrays
    assert list(expected) == ["logits", "labels", "confidence"]

    flat = {"inputs": [in_json(name, array) for name, array in street.items()], "outputs": outputs}
    nested = {"inputs": [in_json(name, array) | {"data": array.tolist()} for name, array in street.items()], "outputs": outputs}
    mixed = [binary("intensity", street["intensity"]), in_json("points", street["points"])]
    some = [outputs[0], outputs[1] | {"parameters": {"binary_data": True}}, outputs[2]]
    for document in (flat, nested):
        response = segment_client.post(address("streets"), json=document)
        _same(read_answer(response).arrays, expected)
        assert response.headers["content-type"] == "application/json"
    head = json.dumps({"inputs": mixed, "outputs": some}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    response = segment_client.post(address("streets"), content=head + street["intensity"].tobytes(), headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    found = read_answer(response)
    _same(found.arrays, expected)
    assert ["data" in each for each in found.document["outputs"]] == [True, False, True]
    column = infer(segment_client, "streets", street | {"intensity": street["intensity"].reshape(-1, 1)}, outputs=outputs)
    _same(column.arrays, expected)


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("model", ["streets", "smooth"])
def test_logits_of_points_are_those_of_their_labels(segment_settings: Settings, serve: Serve, model: str) -> None:
    """Of a street that is worth cutting, in one piece and in tiles."""
    rng = np.random.default_rng(1)
    points = rng.uniform([0, -8, -1], [300, 8, 3], (9000, 3)).astype("<f4")
    street, found = {"points": points, "intensity": rng.random(len(points)).astype("<f4")}, list[Answer]()
    for tile in (1_000_000, 5000):
        with serve(create_app(segment_settings.model_copy(update={"tile_voxels": tile}))) as client:
            found.append(infer(client, model, street, outputs=[{"name": "labels"}, {"name": "confidence"}, {"name": "logits"}]))
    assert "X-Tiles" not in found[0].headers
    assert int(found[1].headers["X-Tiles"]) > 1
    for each in found:
        logits = each.arrays["logits"].astype(np.float64)
        assert np.array_equal(logits.argmax(axis=1), each.arrays["labels"])
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        assert np.allclose((weights / weights.sum(axis=1, keepdims=True)).max(axis=1), each.arrays["confidence"], atol=1e-5)
    assert np.array_equal(found[0].arrays["labels"], found[1].arrays["labels"])
    assert np.allclose(found[0].arrays["logits"], found[1].arrays["logits"], atol=1e-4)


def test_a_missing_intensity_is_filled_and_said(segment_client: httpx.Client, street: dict[str, np.ndarray]) -> None:
    found = infer(segment_client, "streets", {"points": street["points"]}, id="no intensity")
    assert found.document["parameters"]["filled"] == "intensity"
    assert found.document["id"] == "no intensity"


def test_unit_and_up_are_those_of_v1(segment_client: httpx.Client, street: dict[str, np.ndarray]) -> None:
    expected = infer(segment_client, "streets", street).arrays
    x, y, z = street["points"].astype("<f8").T * 1000
    turned = street | {"points": np.stack([x, z, -y], axis=1)}  # y is up, in millimetres
    found = infer(segment_client, "streets", turned, parameters={"up": "y", "unit": "mm"}).arrays
    assert (found["labels"] == expected["labels"]).mean() > 0.99  # what lies on the edge of a voxel may change sides
    assert (infer(segment_client, "streets", turned).arrays["labels"] == expected["labels"]).mean() < 0.9


def test_doubles_keep_their_digits(segment_client: httpx.Client, street: dict[str, np.ndarray]) -> None:
    expected = infer(segment_client, "streets", {"points": street["points"].astype("<f8")}).arrays
    far = street["points"].astype("<f8") + np.array([400_000.0, 5_700_000.0, 0.0])  # as map coordinates are
    found = infer(segment_client, "streets", {"points": far}).arrays
    assert (found["labels"] == expected["labels"]).mean() > 0.99
    rounded = infer(segment_client, "streets", {"points": far.astype("<f4")}).arrays
    assert (rounded["labels"] == expected["labels"]).mean() < 0.99


def test_a_version_or_an_alias_answers(segment_settings: Settings, serve: Serve, tmp_path: Path, object_points: np.ndarray) -> None:
    shutil.copytree(Path(segment_settings.registry or "") / "tiny", tmp_path / "tiny")
    registry = LocalRegistry(tmp_path)
    registry.move_alias("tiny", "candidate", 1, expected=None)
    with serve(create_app(segment_settings.model_copy(update={"registry": str(tmp_path), "model": "tiny"}))) as client:
        body, headers = body_of({"points": object_points}, model_name="tiny")
        found = [
            client.post(f"/v2/models/{each}/infer", content=body, headers=headers)
            for each in ("tiny", "tiny/versions/1", "tiny@candidate", "tiny%40candidate", "tiny:1")
        ]
        assert [each.status_code for each in found] == [200] * 5
        assert len({each.content for each in found}) == 1
        assert client.get("/v2/models/tiny@candidate").json() == client.get("/v2/models/tiny/versions/1").json()


def test_who_answered_is_in_log_metrics_and_headers(segment_client: httpx.Client, object_points: np.ndarray) -> None:
    def told(**labels: str) -> float:
        return metric(segment_client, "fip_request_duration_seconds_count", route="/v2/models/{model}/infer", **labels)

    before = told(model="tiny", version="1", code="200")
    body, headers = body_of({"points": object_points})
    response = segment_client.post(address("tiny"), content=body, headers=headers)
    assert response.headers["X-Model"] == "tiny:1"
    stages = [each.split(";")[0] for each in response.headers["Server-Timing"].split(", ")]
    assert stages == ["read", "parse", "voxelize", "queue", "forward", "encode"]
    until(lambda: told(model="tiny", version="1", code="200") == before + 1, "the request is counted")


@pytest.mark.parametrize("headers", [{"X-Request-Timeout": "0.2"}, {}])
def test_time_limits_hold(tiny_settings: Settings, serve: Serve, object_points: np.ndarray, headers: dict[str, str]) -> None:
    app = create_app(tiny_settings)
    with serve(app) as client, paused(app):
        body, length = body_of({"points": object_points}, parameters={} if headers else {"timeout": 200_000})
        response = client.post(address("tiny"), content=body, headers=length | headers)
        said = response.json()
        assert (response.status_code, said["code"]) == (504, "deadline_exceeded")
        assert said["where"] == ("X-Request-Timeout" if headers else "timeout")
        assert said["error"] == f"{said['where']}: {said['detail']}"
        waiting(client, 0)


@pytest.mark.parametrize("indent", [None, 1])
def test_json_that_is_parsed_in_pieces_is_parsed_alike(segment_client: httpx.Client, indent: int | None) -> None:
    points = np.random.default_rng(5).normal(size=(60_000, 3)).astype("<f4") * 5
    intensity = np.random.default_rng(6).random(60_000).astype("<f4")
    expected = infer(segment_client, "streets", {"points": points, "intensity": intensity}).arrays
    for rows in (points.tolist(), points.ravel().tolist()):
        document = {"inputs": [in_json("points", points) | {"data": rows}, in_json("intensity", intensity)]}
        text = json.dumps(document, indent=indent).encode()
        assert len(text) > 4 << 20
        _same(read_answer(segment_client.post(address("streets"), content=text)).arrays, expected)
