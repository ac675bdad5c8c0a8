"""An unmodified `tritonclient[http]` against the service: its answers are those of /v1, and our refusals reach its exceptions."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest


@dataclass(frozen=True)
class Calls:
    """said: what the client was told; arrays: the outputs that it got, by the call and their name."""

    said: dict
    arrays: dict[str, np.ndarray]

    def of(self, call: str) -> dict[str, np.ndarray]:
        """The outputs of one call."""
        found = {name.removeprefix(f"{call} "): array for name, array in self.arrays.items() if name.startswith(f"{call} ")}
        assert found
        return found


@pytest.fixture(scope="module")
def calls(segment_client: httpx.Client, scan: bytes, tmp_path_factory: pytest.TempPathFactory) -> Calls:
    if importlib.util.find_spec("tritonclient") is None:
        if os.environ.get("CI") or os.environ.get("FIP_REQUIRE_DATA") == "1":
            pytest.fail("tritonclient is not installed: run `make install`")
        pytest.skip("tritonclient is not installed")
    folder = tmp_path_factory.mktemp("triton")
    street = np.frombuffer(scan, "<f4").reshape(-1, 4)
    ball = np.random.default_rng(500).normal(size=(500, 3)).astype("<f4")  # what `ball(500)` has
    np.savez(folder / "in.npz", ball=ball, street=street[:, :3].copy(), intensity=street[:, 3].copy())
    address = f"{segment_client.base_url.host}:{segment_client.base_url.port}"
    command = [sys.executable, "-m", "tests.triton_calls", address, str(folder / "in.npz"), str(folder / "out.npz")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "out.npz") as stored:
        return Calls(json.loads(done.stdout), dict(stored))


def test_health(calls: Calls) -> None:
    assert (calls.said["live"], calls.said["ready"]) == (True, True)
    assert calls.said["models"] == {"tiny": True, "streets": True, "nobody": False}
    assert calls.said["version"] == [True, False]


def test_metadata(calls: Calls, segment_client: httpx.Client) -> None:
    assert calls.said["server"] == segment_client.get("/v2").json()
    for name, found in calls.said["metadata"].items():
        assert found == segment_client.get(f"/v2/models/{name}").json()
    assert calls.said["metadata of a version"] == calls.said["metadata"]["tiny"]


def test_who_answered(calls: Calls, segment_client: httpx.Client) -> None:
    answer = calls.said["answer"]
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "tiny", "1")
    assert answer["parameters"]["digest"] == segment_client.get("/v1/models/tiny").json()["digest"]


def test_classes_are_those_of_v1(calls: Calls, segment_client: httpx.Client, ball: Callable[[int], bytes]) -> None:
    expected = segment_client.post("/v1/classify", params={"model": "tiny", "logits": "true"}, content=ball(500)).json()
    for call in ("classify binary", "classify json", "classify fp64", "classify timed"):
        found = calls.of(call)
        assert found["logits"].dtype == np.float32
        assert found["logits"].tolist() == expected["logits"]
        assert found["label"].tolist() == [expected["predictions"][0]["index"]]
    assert list(calls.of("classify json")) == ["logits", "label"]
    assert calls.of("classify binary")["scores"].max() == np.float32(expected["predictions"][0]["score"])


@pytest.mark.parametrize("model", ["streets", "smooth"])
def test_classes_of_points_are_those_of_v1(calls: Calls, segment_client: httpx.Client, scan: bytes, model: str) -> None:
    query = {"model": model, "format": "npz", "input_format": "bin"}
    with np.load(io.BytesIO(segment_client.post("/v1/segment", params=query, content=scan).content)) as expected:
        labels, confidence = expected["labels"], expected["confidence"]
    for call in [f"{model} {way}" for way in ("binary", "named", "json")] + [f"async {n}" for n in range(4) if model == "streets"]:
        found = calls.of(call)
        assert found["labels"].dtype == np.int32
        assert np.array_equal(found["labels"], labels)
        assert np.array_equal(found["confidence"], confidence)
    assert sorted(calls.of(f"{model} binary")) == ["confidence", "labels"]
    logits = calls.of(f"{model} named")["logits"]
    assert logits.shape == (len(labels), 19)
    assert np.array_equal(logits.argmax(axis=1), labels)
    assert np.array_equal(logits, calls.of(f"{model} json")["logits"])


def test_parameters_arrive(calls: Calls) -> None:
    assert not np.array_equal(calls.of("streets parameters")["labels"], calls.of("streets binary")["labels"])


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        ("unknown model", "404", "model: no model is called 'nobody'"),
        ("metadata of an unknown model", "404", "model: no model is called 'nobody'"),
        ("unknown version", "404", "model: model 'tiny' has no 12"),
        ("unknown tensor", "400", "cloud: the model has no such input"),
        ("wrong shape", "400", "points: of shape [500, 2] instead of [N, 3]"),
        ("texts", "400", "points: of datatype 'BYTES' instead of FP32 or FP64"),
        ("shared memory", "400", "inputs.points.parameters.shared_memory_region: the service does not have this extension"),
        ("classes", "400", "outputs.logits.parameters.classification: the service does not have this extension"),
        ("sequence", "400", "parameters.sequence_id: there are no sequences and no priorities here"),
        ("compressed", "415", "Content-Encoding: send the file as it is, without Content-Encoding"),
        ("not a number", "422", "point 0: coordinates must be finite and below 1e+15, found (nan, nan, nan) and 4 more such points"),
        ("missing", "422", "intensity: the model needs the input 'intensity'"),
        ("no address", "404", "POST /v2/repository/index: Not Found"),
    ],
)
def test_refusals_reach_the_client(calls: Calls, call: str, status: str, message: str) -> None:
    found, said = calls.said["refusals"][call]
    assert found == status
    assert said.startswith(message)
