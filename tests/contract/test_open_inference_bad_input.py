"""The Open Inference Protocol: what cannot be answered is refused with the name of the tensor, before anything of its size is made."""

import json
import socket
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from service.app import create_app
from service.inference.request import HEADER_BYTES
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import metric
from tests.open_inference import HEADER_LENGTH, address, binary, body_of, in_json

POINTS = np.arange(12, dtype="<f4").reshape(4, 3)
INTENSITY = np.linspace(0, 1, 4, dtype="<f4")


def refused(response: httpx.Response) -> tuple[int, str, str]:
    """Status, code and place of a refusal."""
    said = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert said["error"] == (f"{said['where']}: {said['detail']}" if "where" in said else said["detail"])
    return response.status_code, said["code"], said.get("where", "")


def sent(client: httpx.Client, document: object, data: bytes | None = None, model: str = "streets") -> tuple[int, str, str]:
    """How a request is refused; data: behind the JSON."""
    head = json.dumps(document).encode()
    headers = {} if data is None else {HEADER_LENGTH: str(len(head))}
    return refused(client.post(address(model), content=head + (data or b""), headers=headers))


def one(**members: object) -> dict:
    """Sound points but for these members."""
    return {"inputs": [in_json("points", POINTS) | members]}


JSON_BODIES: dict[str, tuple[object, str, str]] = {
    "no object": ([1], "bad_inference_request", "body"),
    "no inputs": ({}, "bad_inference_request", "inputs"),
    "inputs no list": ({"inputs": 3}, "bad_inference_request", "inputs"),
    "no tensors": ({"inputs": []}, "bad_tensor", "points"),
    "too many tensors": ({"inputs": [in_json("points", POINTS)] * 17}, "bad_inference_request", "inputs"),
    "twice": ({"inputs": [in_json("points", POINTS)] * 2}, "bad_tensor", "points"),
    "unknown tensor": ({"inputs": [in_json("points", POINTS), in_json("normals", POINTS)]}, "bad_tensor", "normals"),
    "not read by the model": ({"inputs": [in_json("points", POINTS), in_json("rgb", POINTS.astype("|u1"))]}, "bad_tensor", "rgb"),
    "only intensity": ({"inputs": [in_json("intensity", INTENSITY)]}, "bad_tensor", "points"),
    "other numbers of points": (
        {"inputs": [in_json("points", POINTS), in_json("intensity", INTENSITY[:3])]},
        "bad_tensor",
        "intensity",
    ),
    "datatype": (one(datatype="INT64"), "bad_tensor", "points"),
    "strings": (one(datatype="BYTES"), "bad_tensor", "points"),
    "datatype no text": (one(datatype=7), "bad_inference_request", "inputs.points.datatype"),
    "columns": (one(shape=[6, 2]), "bad_tensor", "points"),
    "flat": (one(shape=[12]), "bad_tensor", "points"),
    "batched": (one(shape=[1, 4, 3]), "bad_tensor", "points"),
    "negative": (one(shape=[-4, -3]), "bad_inference_request", "inputs.points.shape.0"),
    "fraction": (one(shape=[4.0, 3]), "bad_inference_request", "inputs.points.shape.0"),
    "truth": (one(shape=[True, 3]), "bad_inference_request", "inputs.points.shape.0"),
    "too much for 64 bits": (one(shape=[10**30, 3]), "bad_inference_request", "inputs.points.shape.0"),
    "too little data": (one(data=[1.0] * 11), "bad_tensor", "points"),
    "too much data": (one(data=[1.0] * 13), "bad_tensor", "points"),
    "ragged": (one(data=[[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2]]), "bad_tensor", "points"),
    "half nested": (one(data=[[1, 2, 3], [1, 2, 3], [1, 2, 3], 4]), "bad_tensor", "points"),
    "nested too deep": (one(data=[[[1], [2], [3]]] * 4), "bad_tensor", "points"),
    "texts": (one(data=["1"] * 12), "bad_tensor", "points"),
    "null": (one(data=[None] * 12), "bad_tensor", "points"),
    "truths": (one(data=[True] * 12), "bad_tensor", "points"),
    "object": (one(data={"0": 1}), "bad_tensor", "points"),
    "no data": ({"inputs": [{"name": "points", "shape": [4, 3], "datatype": "FP32"}]}, "bad_tensor", "points"),
    "too large for float32": (one(data=[1e39] * 12), "non_finite", "point 0"),
    "no points": (one(shape=[0, 3], data=[]), "no_points", ""),
    "shared memory": (
        one(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 48}),
        "unsupported_extension",
        "inputs.points.parameters.shared_memory_region",
    ),
    "unknown member": (one(colour=1), "bad_inference_request", "inputs.points.colour"),
    "unknown parameter": (one() | {"parameters": {"voxel_size": 1}}, "bad_inference_request", "parameters.voxel_size"),
    "sequence": (one() | {"parameters": {"sequence_id": 3}}, "unsupported_extension", "parameters.sequence_id"),
    "priority": (one() | {"parameters": {"priority": 1}}, "unsupported_extension", "parameters.priority"),
    "negative time": (one() | {"parameters": {"timeout": -1}}, "bad_inference_request", "parameters.timeout"),
    "up": (one() | {"parameters": {"up": "w"}}, "bad_option", "up"),
    "unit": (one() | {"parameters": {"unit": "parsec"}}, "bad_option", "unit"),
    "unknown output": (one() | {"outputs": [{"name": "boxes"}]}, "bad_tensor", "boxes"),
    "output twice": (one() | {"outputs": [{"name": "labels"}] * 2}, "bad_tensor", "labels"),
    "classification": (
        one() | {"outputs": [{"name": "labels", "parameters": {"classification": 3}}]},
        "unsupported_extension",
        "outputs.labels.parameters.classification",
    ),
    "another model": (one() | {"model_name": "smooth"}, "bad_inference_request", "model_name"),
    "id no text": (one() | {"id": 42}, "bad_inference_request", "id"),
    "id too long": (one() | {"id": "x" * 257}, "bad_inference_request", "id"),
    "binary without a length": ({"inputs": [binary("points", POINTS)]}, "bad_tensor", "inputs"),
}


@pytest.mark.parametrize(("document", "code", "where"), JSON_BODIES.values(), ids=JSON_BODIES)
def test_json_that_cannot_be_answered(segment_client: httpx.Client, document: object, code: str, where: str) -> None:
    status, found, place = sent(segment_client, document)
    assert (found, place) == (code, where)
    assert status in (400, 422)


BINARY_BODIES: dict[str, tuple[dict, bytes, str, str]] = {
    "too few bytes": (binary("points", POINTS), POINTS.tobytes()[:-1], "bad_tensor", "inputs"),
    "trailing bytes": (binary("points", POINTS), POINTS.tobytes() + b"\0", "bad_tensor", "inputs"),
    "none": (binary("points", POINTS), b"", "bad_tensor", "inputs"),
    "bytes for another shape": (binary("points", POINTS) | {"shape": [5, 3]}, POINTS.tobytes(), "bad_tensor", "points"),
    "bytes for another datatype": (binary("points", POINTS) | {"datatype": "FP64"}, POINTS.tobytes(), "bad_tensor", "points"),
    "negative size": (
        binary("points", POINTS) | {"parameters": {"binary_data_size": -1}},
        POINTS.tobytes(),
        "bad_inference_request",
        "inputs.points.parameters.binary_data_size",
    ),
    "both": (binary("points", POINTS) | {"data": POINTS.tolist()}, POINTS.tobytes(), "bad_tensor", "points"),
    "nobody's": (in_json("points", POINTS), POINTS.tobytes(), "bad_tensor", "inputs"),
    "terabytes": (
        binary("points", POINTS) | {"shape": [10**11, 3], "parameters": {"binary_data_size": 12 * 10**11}},
        POINTS.tobytes(),
        "too_many_points",
        "points",
    ),
    "not a number": (binary("points", POINTS), np.full((4, 3), np.nan, "<f4").tobytes(), "non_finite", "point 0"),
    "infinite": (binary("points", POINTS), np.full((4, 3), np.inf, "<f4").tobytes(), "non_finite", "point 0"),
}


@pytest.mark.parametrize(("tensor", "data", "code", "where"), BINARY_BODIES.values(), ids=BINARY_BODIES)
def test_binary_tensors_that_cannot_be_answered(segment_client: httpx.Client, tensor: dict, data: bytes, code: str, where: str) -> None:
    status, found, place = sent(segment_client, {"inputs": [tensor]}, data)
    assert (found, place) == (code, where)
    assert status == (413 if code == "too_many_points" else 422 if code == "non_finite" else 400)


def test_a_model_that_needs_intensity_gets_it_or_refuses(segment_client: httpx.Client) -> None:
    assert sent(segment_client, one(), model="strict") == (422, "missing_feature", "intensity")


def test_an_intensity_that_is_no_number(segment_client: httpx.Client) -> None:
    intensity = np.array([0, 1, np.nan, 0], "<f4")
    inputs = {"points": POINTS, "intensity": intensity}
    body, headers = body_of(inputs)
    answer = segment_client.post(address("streets"), content=body, headers=headers)
    assert refused(answer) == (422, "non_finite", "point 2")


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b'{"inputs": [NaN]}', b"\xff\xfe", b"[" * 5000, b"{}x"])
def test_what_is_no_json(segment_client: httpx.Client, text: bytes) -> None:
    for headers in ({}, {HEADER_LENGTH: str(len(text))}):
        found = refused(segment_client.post(address("streets"), content=text, headers=headers))
        assert found == (400, "bad_inference_request", "body")


def long_json(data: str) -> bytes:
    """Of 60,000 points, more than is parsed at once."""
    return f'{{"inputs": [{{"name": "points", "shape": [60000, 3], "datatype": "FP32", "data": {data}}}]}}'.encode()


ROW, TEXT, NINES = "[1.25,-3e0,0.5]", '"1"', "9" * 900_000
LONG_ARRAYS = {
    "too short": (f"[{','.join([ROW] * 59_999)}]", "bad_tensor", "points"),
    "too long": (f"[{','.join([ROW] * 60_001)}]", "bad_tensor", "points"),
    "much too long": (f"[{','.join(['0'] * 900_000)}]", "bad_tensor", "points"),
    "a comma at the end": (f"[{','.join([ROW] * 60_000)},]", "bad_inference_request", "body"),
    "two commas": (f"[{','.join([ROW] * 30_000)},,{','.join([ROW] * 30_000)}]", "bad_inference_request", "body"),
    "no commas": ("[" + ROW * 60_000 + "]", "bad_inference_request", "body"),
    "no number": (f"[{','.join([ROW] * 59_999)},[1-,2,3]]", "bad_inference_request", "body"),
    "a row of two": (f"[{','.join([ROW] * 59_999)},[1,2]]", "bad_tensor", "points"),
    "not nested throughout": (f"[{','.join([ROW] * 59_999)},1,2,3]", "bad_tensor", "points"),
    "one number": (f"[{NINES}]", "bad_inference_request", "body"),
    "not closed": (f"[{','.join([ROW] * 60_000)}", "bad_inference_request", "body"),
    "too deep": ("[" * 700_000 + "]" * 700_000, "bad_inference_request", "body"),
    "null": (f"[{','.join([ROW] * 59_999)},[1,2,null]]", "bad_tensor", "points"),
    "texts": (f"[{','.join([TEXT] * 180_000)}]", "bad_tensor", "points"),
    "too much else": (f"[{','.join([TEXT] * 300_000)}]", "header_too_large", "body"),
    "a long text": (f'"{NINES}{NINES}"', "header_too_large", "body"),
    "a text that is not closed": (f'"{NINES}', "bad_inference_request", "body"),
}


@pytest.mark.parametrize(("data", "code", "where"), LONG_ARRAYS.values(), ids=LONG_ARRAYS)
def test_long_arrays_that_cannot_be_answered(segment_client: httpx.Client, data: str, code: str, where: str) -> None:
    text = long_json(data)
    if code == "bad_inference_request":  # the oracle of what is no JSON
        with pytest.raises((ValueError, RecursionError)):
            json.loads(text)
    assert refused(segment_client.post(address("streets"), content=text)) == (400, code, where)


def test_a_row_as_long_as_the_body(segment_client: httpx.Client) -> None:
    text = long_json(f"[[{','.join(['0.5'] * 300_000)}]]")
    assert refused(segment_client.post(address("streets"), content=text)) == (400, "bad_inference_request", "body")


@pytest.mark.parametrize("length", ["", "-1", "+5", "1e3", "0x10", "99999999999999999999", "5, 5", "1" * 5000])
def test_a_length_that_is_none(segment_client: httpx.Client, length: str) -> None:
    answer = segment_client.post(address("streets"), content=b"{}", headers={HEADER_LENGTH: length})
    assert refused(answer) == (400, "bad_inference_request", HEADER_LENGTH)


def test_two_lengths(segment_client: httpx.Client) -> None:
    answer = segment_client.post(address("streets"), content=b"{}", headers=[(HEADER_LENGTH, "2"), (HEADER_LENGTH, "1")])
    assert refused(answer) == (400, "bad_inference_request", HEADER_LENGTH)


def test_a_length_beyond_the_body(segment_client: httpx.Client) -> None:
    answer = segment_client.post(address("streets"), content=b"{}", headers={HEADER_LENGTH: "3"})
    assert refused(answer) == (400, "bad_inference_request", HEADER_LENGTH)


def test_too_much_json_in_front_of_tensors(segment_client: httpx.Client) -> None:
    answer = segment_client.post(address("streets"), content=b"{}", headers={HEADER_LENGTH: str(HEADER_BYTES + 1)})
    assert refused(answer) == (400, "header_too_large", HEADER_LENGTH)


@pytest.fixture(scope="module")
def narrow(segment_settings: Settings, serve: Serve) -> Iterator[httpx.Client]:
    """Few bytes, few points."""
    small = {"max_json_bytes": 1000, "max_points": 40, "max_body_bytes": 2000}
    with serve(create_app(segment_settings.model_copy(update=small))) as client:
        yield client


@pytest.mark.parametrize("chunked", [False, True])
def test_too_much_json(narrow: httpx.Client, chunked: bool) -> None:
    text = b" " * 1001
    answer = narrow.post(address("streets"), content=iter([text[:600], text[600:]]) if chunked else text)
    assert refused(answer) == (413, "body_too_large", "body")
    assert "1000 bytes" in answer.json()["detail"]
    body, headers = body_of({"points": np.zeros((40, 3), "<f8")})
    assert len(body) > 1000  # the limit is that of JSON
    assert narrow.post(address("streets"), content=body, headers=headers).status_code == 200


def test_too_many_points(narrow: httpx.Client) -> None:
    body, headers = body_of({"points": np.zeros((41, 3), "<f4")})
    assert refused(narrow.post(address("streets"), content=body, headers=headers)) == (413, "too_many_points", "points")


def test_logits_of_too_many_points(narrow: httpx.Client) -> None:
    points = np.random.default_rng(0).normal(size=(27, 3)).astype("<f4")
    for count, expected in ((26, 200), (27, 413)):  # of 19 classes, 4 bytes each
        body, headers = body_of({"points": points[:count]}, outputs=[{"name": "logits"}])
        answer = narrow.post(address("streets"), content=body, headers=headers)
        assert answer.status_code == expected
    assert refused(answer) == (413, "answer_too_large", "logits")


def test_compressed_bodies_are_refused(segment_client: httpx.Client) -> None:
    answer = segment_client.post(address("streets"), content=b"x", headers={"Content-Encoding": "gzip"})
    assert refused(answer) == (415, "unsupported_encoding", "Content-Encoding")


def test_a_form_is_no_json(segment_client: httpx.Client) -> None:
    answer = segment_client.post(address("streets"), files={"file": b"{}"})
    assert refused(answer) == (400, "bad_inference_request", "body")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing", 404, "not_found"),
        ("POST", "/v2", 405, "method_not_allowed"),
        ("GET", "/v2/models/streets/infer", 405, "method_not_allowed"),
        ("GET", "/v2/models/nobody", 404, "unknown_model"),
        ("GET", "/v2/models/streets/versions/7", 404, "unknown_model"),
        ("GET", "/v2/models/streets/versions/x", 422, "bad_model_name"),
        ("GET", "/v2/models/nobody/ready", 404, "unknown_model"),
        ("POST", "/v2/models/nobody/infer", 404, "unknown_model"),
        ("POST", "/v2/models/..%2F..%2Fetc/infer", 404, "not_found"),
        ("POST", "/v2/models/%00/infer", 422, "bad_model_name"),
        ("POST", "/v2/models/streets@nobody/infer", 404, "unknown_model"),
        ("POST", "/v2/models/streets@x/versions/1/infer", 422, "bad_model_name"),
    ],
)
def test_addresses_of_nothing(segment_client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    assert refused(segment_client.request(method, path))[:2] == (status, code)


def test_model_names_do_not_get_into_metrics(segment_client: httpx.Client) -> None:
    for number in range(3):
        for path in (f"/v2/models/made-up-{number}/infer", f"/v2/models/made-up-{number}/versions/{number}/infer"):
            segment_client.post(path, headers={"X-Request-Timeout": "never"})
    assert "made-up" not in segment_client.get("/metrics").text
    assert metric(segment_client, "fip_request_duration_seconds_count", route="/v2/models/{model}/versions/{version}/infer") >= 3


def test_the_doorman_knows_these_addresses(segment_settings: Settings, serve: Serve) -> None:
    app = create_app(segment_settings.model_copy(update={"max_waiting_bytes": 1}))
    with serve(app) as client:
        app.state.context.admission.bytes = 1  # somebody else's file
        answer = client.post(address("streets"), content=b"{}")
        assert refused(answer)[:2] == (429, "overloaded")
        assert answer.headers["Retry-After"]
        assert metric(client, "fip_request_duration_seconds_count", route="/v2/models/{model}/infer", code="429") == 1
        app.state.context.admission.bytes = 0


def test_a_body_shorter_than_announced(segment_settings: Settings, serve: Serve) -> None:
    body, headers = body_of({"points": POINTS})
    quick = segment_settings.model_copy(update={"body_pause_seconds": 0.3})
    with serve(create_app(quick)) as client, socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        head = f"POST {address('streets')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 1}\r\n"
        head += f"{HEADER_LENGTH}: {headers[HEADER_LENGTH]}\r\n\r\n"
        connection.settimeout(30)
        connection.sendall(head.encode() + body)
        came = b""
        while piece := connection.recv(1 << 16):
            came += piece
        assert came.startswith(b"HTTP/1.1 408")
        assert json.loads(came.split(b"\r\n\r\n", 1)[1])["error"]


def test_a_long_array_is_no_text(segment_client: httpx.Client) -> None:
    """However long: what is taken out of the JSON before it is parsed is the data of tensors."""
    for length in (10, 40_000):
        body = json.dumps({"id": [1] * length, "inputs": [{"name": "points", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]}]})
        refused = segment_client.post("/v2/models/streets/infer", content=body.encode())
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_inference_request")
