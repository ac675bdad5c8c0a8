"""Requests and answers of the Open Inference Protocol, made by hand for the tests."""

import json
from dataclasses import dataclass

import httpx
import numpy as np

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"<f4": "FP32", "<f8": "FP64", "|u1": "UINT8", "<i4": "INT32"}
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


@dataclass(frozen=True)
class Answer:
    document: dict
    arrays: dict[str, np.ndarray]
    headers: httpx.Headers


def tensor(name: str, array: np.ndarray) -> dict:
    """An input without its data."""
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.str]}


def in_json(name: str, array: np.ndarray) -> dict:
    return tensor(name, array) | {"data": array.ravel().tolist()}


def binary(name: str, array: np.ndarray) -> dict:
    return tensor(name, array) | {"parameters": {"binary_data_size": array.nbytes}}


def body_of(inputs: dict[str, np.ndarray], **members: object) -> tuple[bytes, dict[str, str]]:
    """A request with binary inputs, and its header."""
    head = json.dumps({"inputs": [binary(name, array) for name, array in inputs.items()], **members}).encode()
    return head + b"".join(array.tobytes() for array in inputs.values()), {HEADER_LENGTH: str(len(head))}


def address(model: str) -> str:
    return f"/v2/models/{model}/infer"


def infer(client: httpx.Client, model: str, inputs: dict[str, np.ndarray], **members: object) -> Answer:
    """What the service answers to binary tensors."""
    body, headers = body_of(inputs, **members)
    response = client.post(address(model), content=body, headers=headers)
    assert response.status_code == 200, response.text
    return read_answer(response)


def read_answer(response: httpx.Response) -> Answer:
    """All outputs as arrays, whichever way they came."""
    length = int(response.headers.get(HEADER_LENGTH, len(response.content)))
    document, rest = json.loads(response.content[:length]), response.content[length:]
    arrays: dict[str, np.ndarray] = {}
    for output in document["outputs"]:
        dtype = DTYPES[output["datatype"]]
        if (size := output.get("parameters", {}).get("binary_data_size")) is not None:
            arrays[output["name"]], rest = np.frombuffer(rest[:size], dtype).reshape(output["shape"]), rest[size:]
        else:
            arrays[output["name"]] = np.array(output["data"], dtype).reshape(output["shape"])
    assert not rest
    return Answer(document, arrays, response.headers)
