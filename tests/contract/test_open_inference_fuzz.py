"""Made-up requests of the Open Inference Protocol: whatever is combined is answered or refused, and never a failure of the service."""

import json

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.open_inference import HEADER_LENGTH, address, read_answer

CASES = 100
HUGE = 2**63
SIZES = st.one_of(st.integers(-2, 60), st.sampled_from([2**31, HUGE - 1, HUGE, 10**30, 1.5, None, "3", True]))
NUMBERS: st.SearchStrategy[object] = st.one_of(
    st.floats(-50, 50), st.integers(-5, 300), st.sampled_from([1e39, 1e300, None, "1", True, [], {}])
)
DATA: st.SearchStrategy[object] = st.one_of(
    st.lists(NUMBERS, max_size=12), st.lists(st.lists(NUMBERS, max_size=4), max_size=4), st.sampled_from([None, 1, "x", {}, [[[[]]]]])
)
NAMES = st.sampled_from(["points", "points", "points", "intensity", "rgb", "labels", "", "x" * 300, "\x00", 3])


def sound(data: st.DataObject) -> tuple[dict, bytes]:
    """An input that could be answered, in one of the three ways there are."""
    rows, dtype = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(["<f4", "<f8"]))
    points = np.random.default_rng(rows).normal(size=(rows, 3)).astype(dtype)
    tensor = {"name": "points", "shape": [rows, 3], "datatype": "FP32" if dtype == "<f4" else "FP64"}
    if data.draw(st.booleans()):
        return tensor | {"parameters": {"binary_data_size": points.nbytes}}, points.tobytes()
    return tensor | {"data": points.tolist() if data.draw(st.booleans()) else points.ravel().tolist()}, b""


def damaged(data: st.DataObject, tensor: dict) -> dict:
    """With a member or two replaced."""
    changes = {
        "name": NAMES,
        "shape": st.one_of(st.lists(SIZES, max_size=4), st.sampled_from([None, 3, "3"])),
        "datatype": st.sampled_from(["FP32", "FP64", "UINT8", "INT64", "BYTES", "", None]),
        "data": DATA,
        "parameters": st.one_of(st.none(), st.fixed_dictionaries({"binary_data_size": SIZES})),
    }
    for member in data.draw(st.lists(st.sampled_from(sorted(changes)), max_size=2)):
        tensor = tensor | {member: data.draw(changes[member])}
    return tensor


@pytest.mark.parametrize("model", ["tiny", "streets"])
@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_no_combination_fails(segment_client: httpx.Client, model: str, data: st.DataObject) -> None:
    made = [sound(data) for _ in range(data.draw(st.integers(1, 2)))]
    document: dict = {"inputs": [damaged(data, tensor) for tensor, _ in made]}
    if data.draw(st.booleans()):
        outputs = st.sampled_from(["labels", "logits", "label", "boxes", 1])
        document["outputs"] = [{"name": data.draw(outputs)} for _ in range(data.draw(st.integers(0, 2)))]
    if data.draw(st.booleans()):
        document["parameters"] = data.draw(
            st.dictionaries(st.sampled_from(["binary_data_output", "priority", "up", "x"]), NUMBERS, max_size=2)
        )
    head = json.dumps(document).encode()
    body = head + b"".join(binary for _, binary in made)
    lengths = st.sampled_from([None, len(head), len(head), len(head), len(head) - 1, len(head) + 1, 0, len(body), len(body) + 1, -1])
    length = data.draw(lengths)
    body += data.draw(st.sampled_from([b"", b"", b"", b"\0"]))
    response = segment_client.post(address(model), content=body, headers={} if length is None else {HEADER_LENGTH: str(length)})
    if response.status_code == 200:
        read_answer(response)
    else:
        assert response.status_code in (400, 413, 422), response.text
        assert response.json()["error"]


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "name", "shape", "data", "id"]) | st.text(), inner)
        ),
        max_leaves=20,
    )
)
def test_no_json_fails(segment_client: httpx.Client, text: object) -> None:
    response = segment_client.post(address("streets"), content=json.dumps(text).encode())
    assert (response.status_code, response.json()["where"] != "") == (400, True)
