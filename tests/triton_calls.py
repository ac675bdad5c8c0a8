"""What an unmodified `tritonclient.http` gets from a service, for test_triton_client.py.

A process of its own: the client runs on gevent, which the threads of a test run are better left out of.
`python -m tests.triton_calls ADDRESS INPUTS.npz OUTPUTS.npz`; on standard output is JSON: what was said, and what was refused.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import tritonclient.http as triton


def tensors(arrays: dict[str, np.ndarray], *, binary: bool = True) -> list[triton.InferInput]:
    made = []
    for name, array in arrays.items():
        made.append(triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype)))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return made


def outputs(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def kept(found: triton.InferResult, prefix: str) -> dict[str, np.ndarray]:
    """All outputs of an answer."""
    names = [each["name"] for each in found.get_response()["outputs"]]
    return {f"{prefix} {name}": found.as_numpy(name) for name in names}


def inferences(client: triton.InferenceServerClient, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every way to ask."""
    ball, street = {"points": given["ball"]}, {"points": given["street"], "intensity": given["intensity"]}
    found = kept(client.infer("tiny", tensors(ball)), "classify binary")
    found |= kept(client.infer("tiny", tensors(ball, binary=False), outputs=outputs("logits", "label", binary=False)), "classify json")
    found |= kept(client.infer("tiny", tensors({"points": given["ball"].astype(np.float64)}), model_version="1"), "classify fp64")
    found |= kept(client.infer("tiny", tensors(ball), priority=0, timeout=60_000_000, request_id="7"), "classify timed")
    for model in ("streets", "smooth"):
        names = ("labels", "confidence", "logits")
        found |= kept(client.infer(model, tensors(street)), f"{model} binary")
        found |= kept(client.infer(model, tensors(street), outputs=outputs(*names)), f"{model} named")
        found |= kept(client.infer(model, tensors(street, binary=False), outputs=outputs(*names, binary=False)), f"{model} json")
    found |= kept(
        client.infer("streets", tensors({"points": street["points"]}), parameters={"up": "y", "unit": "cm"}), "streets parameters"
    )
    pending = [client.async_infer("streets", tensors(street), request_id=str(number)) for number in range(4)]
    for number, each in enumerate(pending):
        answer = each.get_result()
        assert answer.get_response()["id"] == str(number)
        found |= kept(answer, f"async {number}")
    return found


def refusals(client: triton.InferenceServerClient, given: dict[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """What the client's exceptions say: status and message."""
    ball = {"points": given["ball"]}
    bad = triton.InferInput("points", [2, 3], "BYTES")
    bad.set_data_from_numpy(np.full((2, 3), b"1", np.object_))
    shared = triton.InferInput("points", [2, 3], "FP32")
    shared.set_shared_memory("region", 24)
    calls: dict[str, Callable[[], object]] = {
        "unknown model": lambda: client.infer("nobody", tensors(ball)),
        "metadata of an unknown model": lambda: client.get_model_metadata("nobody"),
        "unknown version": lambda: client.get_model_metadata("tiny", "12"),
        "unknown tensor": lambda: client.infer("tiny", tensors({"cloud": given["ball"]})),
        "wrong shape": lambda: client.infer("tiny", tensors({"points": given["ball"][:, :2].copy()})),
        "texts": lambda: client.infer("tiny", [bad]),
        "shared memory": lambda: client.infer("tiny", [shared]),
        "classes": lambda: client.infer("tiny", tensors(ball), outputs=[triton.InferRequestedOutput("logits", class_count=2)]),
        "sequence": lambda: client.infer("tiny", tensors(ball), sequence_id=3, sequence_start=True),
        "compressed": lambda: client.infer("tiny", tensors(ball), request_compression_algorithm="gzip"),
        "not a number": lambda: client.infer("tiny", tensors({"points": np.full((5, 3), np.nan, np.float32)})),
        "missing": lambda: client.infer("strict", tensors({"points": given["street"]})),
        "no address": lambda: client.get_model_repository_index(),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
        except triton.InferenceServerException as error:
            said[name] = (error.status(), error.message())
    return said


def main() -> None:
    address, source, target = sys.argv[1:]
    with np.load(source) as stored:
        given = dict(stored)
    with triton.InferenceServerClient(address, concurrency=4) as client:
        said = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "models": {name: client.is_model_ready(name) for name in ("tiny", "streets", "nobody")},
            "version": [client.is_model_ready("tiny", version) for version in ("1", "2")],
            "server": client.get_server_metadata(),
            "metadata": {name: client.get_model_metadata(name) for name in ("tiny", "streets")},
            "metadata of a version": client.get_model_metadata("tiny", "1"),
            "answer": client.infer("tiny", tensors({"points": given["ball"]}), request_id="mine").get_response(),
            "refusals": refusals(client, given),
        }
        np.savez(target, **inferences(client, given))
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
