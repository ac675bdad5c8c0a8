"""POST /v1/classify: the shape of its answer, its options, the ways to send a file and to say what it is."""

import io
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.artefact import read_manifest
from models.checkpoint import load_checkpoint, save_checkpoint
from models.io import read_cloud
from models.manifest import VoteSpec
from models.predictor import Predictor
from models.zoo import build
from service.app import create_app
from service.settings import Settings

Ball = Callable[[int], bytes]
Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]
LABELS = {"chair", "stool", "table"}


def test_shape_of_the_answer(client: httpx.Client, ball: Ball, tiny_registry: Path) -> None:
    response = client.post("/v1/classify", content=ball(2000))
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"model", "predictions", "num_points", "num_voxels", "filled", "timings_ms"}
    assert answer["model"] == {"name": "tiny", "version": "1", "digest": read_manifest(tiny_registry / "tiny" / "1")[1], "alias": None}
    assert answer["num_points"] == 2000
    assert 0 < answer["num_voxels"] <= 1024
    assert answer["filled"] == []
    assert set(answer["timings_ms"]) == {"read", "parse", "voxelize", "queue", "forward"}
    assert {entry["label"] for entry in answer["predictions"]} == LABELS
    scores = [entry["score"] for entry in answer["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert response.headers["X-Model"] == "tiny:1"
    assert [part.split(";")[0] for part in response.headers["Server-Timing"].split(", ")] == [*answer["timings_ms"], "encode"]


def test_variants_vote_whatever_else_is_asked_meanwhile(tiny_registry: Path, tmp_path: Path, serve: Serve, ball: Ball) -> None:
    shutil.copytree(tiny_registry / "tiny", tmp_path / "tiny")
    folder = tmp_path / "tiny" / "1"
    checkpoint = load_checkpoint(folder)
    manifest = checkpoint.manifest
    voted = manifest.model_copy(update={"input": manifest.input.model_copy(update={"votes": VoteSpec(count=4)})})
    net = build(manifest.network)
    checkpoint.load_into(net)
    save_checkpoint(folder, net, voted, (folder / "README.md").read_text())
    bodies = [ball(500 + 100 * number) for number in range(8)]
    predictor = Predictor.load(folder)
    with serve(create_app(Settings(registry=str(tmp_path), model="tiny"))) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: client.post("/v1/classify?logits=true", content=body).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        alone = predictor.classify([predictor.voxelize(read_cloud(io.BytesIO(body)))])[0]
        np.testing.assert_allclose(answer["logits"], alone.logits, atol=1e-4)
        assert answer["num_voxels"] == alone.num_voxels <= answer["num_points"]


def test_top_and_logits(client: httpx.Client, ball: Ball) -> None:
    answer = client.post("/v1/classify?top=1&logits=true", content=ball(500)).json()
    assert len(answer["predictions"]) == 1
    assert len(answer["logits"]) == 3
    assert int(np.argmax(answer["logits"])) == answer["predictions"][0]["index"]
    assert all(float(np.float32(logit)) == logit for logit in answer["logits"])


def test_raw_and_multipart_give_the_same_answer(client: httpx.Client, ball: Ball) -> None:
    body = ball(3000)
    raw = client.post("/v1/classify?logits=true", content=body).json()
    form = client.post("/v1/classify?logits=true", files={"file": ("chair.ply", body)}).json()
    assert form["logits"] == raw["logits"]


def test_a_form_larger_than_one_write(client: httpx.Client, ball: Ball) -> None:
    assert client.post("/v1/classify", files={"anything": ("x.ply", ball(200_000))}).json()["num_points"] == 200_000


def test_chunked_body(client: httpx.Client, ball: Ball) -> None:
    body = ball(200_000)
    chunks = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    assert client.post("/v1/classify", content=chunks).json()["num_points"] == 200_000


KITTI = np.random.default_rng(0).normal(size=(64, 4)).astype("<f4").tobytes()


@pytest.mark.parametrize(
    "request_options",
    [
        {"params": {"input_format": "bin"}},
        {"headers": {"X-Filename": "scan.bin"}},
        {"headers": {"X-Filename": "../../folder\\scan.bin"}},
        {"headers": {"Content-Type": "application/x-kitti"}},
        {"params": {"input_format": "bin"}, "headers": {"X-Filename": "scan.ply", "Content-Type": "application/ply"}},
        {"headers": {"X-Filename": "scan.bin", "Content-Type": "application/ply"}},
    ],
    ids=["input_format", "file name", "file name with folders", "content type", "input_format first", "file name before content type"],
)
def test_ways_to_say_the_format(client: httpx.Client, request_options: dict[str, dict[str, str]]) -> None:
    response = client.post("/v1/classify", content=KITTI, params=request_options.get("params"), headers=request_options.get("headers"))
    assert response.status_code == 200, response.text
    assert response.json()["num_points"] == 64


def test_multipart_file_name_says_the_format(client: httpx.Client) -> None:
    assert client.post("/v1/classify", files={"file": ("scan.bin", KITTI)}).json()["num_points"] == 64


@pytest.mark.parametrize(
    "name", ["filename*=UTF-8''sc%C3%A4n.bin", "FileName*=utf-8'en'scan.bin", "filename=\"scan.bin\"; filename*=UTF-8''scan.ply"]
)
def test_an_extended_file_name_says_it_too(client: httpx.Client, name: str) -> None:
    form = f"--b\r\nContent-Disposition: form-data; name=file; {name}\r\n\r\n".encode() + KITTI + b"\r\n--b--\r\n"
    response = client.post("/v1/classify", content=form, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert response.json().get("num_points") == 64, response.text


def test_identity_is_no_encoding_however_it_is_written(client: httpx.Client, ball: Ball) -> None:
    assert client.post("/v1/classify", content=ball(100), headers={"Content-Encoding": "Identity"}).status_code == 200


def test_content_says_the_format(client: httpx.Client, ball: Ball) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).normal(size=(77, 3)).astype(np.float32))
    assert client.post("/v1/classify", content=buffer.getvalue()).json()["num_points"] == 77


def test_up_axis_and_unit_are_heard(client: httpx.Client, ball: Ball) -> None:
    body = ball(800)
    plain = client.post("/v1/classify?logits=true", content=body).json()["logits"]
    assert client.post("/v1/classify?logits=true&up=z&unit=m", content=body).json()["logits"] == plain
    assert client.post("/v1/classify?logits=true&up=y", content=body).json()["logits"] != plain
    assert client.post("/v1/classify?top=1&unit=mm", content=body).status_code == 200


@pytest.mark.parametrize("reference", ["tiny", "tiny:1"])
def test_model_by_name(client: httpx.Client, ball: Ball, reference: str) -> None:
    answer = client.post("/v1/classify", params={"model": reference}, content=ball(100)).json()
    assert (answer["model"]["name"], answer["model"]["version"]) == ("tiny", "1")


def test_request_id_is_kept_or_made(client: httpx.Client, ball: Ball) -> None:
    kept = client.post("/v1/classify", content=ball(100), headers={"X-Request-ID": "abc-1"})
    assert kept.headers["X-Request-ID"] == "abc-1"
    assert len(client.post("/v1/classify", content=ball(100)).headers["X-Request-ID"]) == 32
    assert client.post("/v1/classify", headers={"X-Request-ID": "a b" * 90}).headers["X-Request-ID"] != "a b" * 90


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({"a": ("a.ply", b"ply\n"), "b": ("b.ply", b"ply\n")}, {}),
        ({"a": ("a.ply", b"ply\n")}, {"up": "y"}),
    ],
    ids=["two files", "an option as a field"],
)
def test_a_form_holds_one_file_and_nothing_else(client: httpx.Client, files: dict[str, tuple[str, bytes]], data: dict[str, str]) -> None:
    response = client.post("/v1/classify", files=files, data=data)
    assert (response.status_code, response.json()["code"]) == (400, "bad_multipart")


def test_nothing_is_left_on_disk(tmp_path: Path, tiny_registry: Path, serve: Serve, ball: Ball) -> None:
    with serve(create_app(Settings(registry=str(tiny_registry), model="tiny", spool_dir=tmp_path))) as client:
        assert client.post("/v1/classify", content=ball(100_000)).status_code == 200
        assert client.post("/v1/classify", content=ball(10)[:-3]).status_code == 400
        assert client.post("/v1/classify", content=b"junk" * 1_200_000).status_code == 415
    assert list(tmp_path.iterdir()) == []


def test_too_many_points(tiny_registry: Path, serve: Serve, ball: Ball) -> None:
    with serve(create_app(Settings(registry=str(tiny_registry), model="tiny", max_points=99))) as client:
        response = client.post("/v1/classify", content=ball(100))
        assert client.post("/v1/classify", content=ball(99)).status_code == 200
    assert (response.status_code, response.json()["code"]) == (413, "too_many_points")


def test_look_ups_do_not_wait_for_readers(app: FastAPI, serve: Serve, ball: Ball) -> None:
    app.state.context.readers.total_tokens = 0  # as if they were all at work
    with serve(app) as client:
        assert client.post("/v1/classify?model=nobody", content=ball(100)).status_code == 404
        assert client.post("/v1/classify", content=b"junk" * 1_200_000).status_code == 415
        assert client.get("/v1/models").status_code == 200
        assert client.get("/v1/models/tiny").status_code == 200


def test_openapi_describes_the_body_and_the_problems(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    assert "application/ply" in operation["requestBody"]["content"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert set(operation["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504", "507"}
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {"model", "top", "logits", "up", "unit", "input_format", "X-Filename", "X-Request-Timeout"}
    assert set(operation["responses"]["200"]["headers"]) == {"X-Model", "Server-Timing"}
    with_retry = {status for status, described in operation["responses"].items() if "Retry-After" in described.get("headers", {})}
    assert with_retry == {"429", "503"}


def test_openapi_says_of_every_error_that_it_is_a_problem(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    reference = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for path in ("/v1/classify", "/v1/models", "/v1/models/{name}"):
        for operation in document["paths"][path].values():
            for status, described in operation["responses"].items():
                expected = {"application/problem+json": reference} if int(status) >= 400 else described["content"]
                assert described["content"] == expected, (path, status)
                assert set(described["content"]) != {"application/json"} or int(status) < 400
    assert document["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status", "detail", "code"]


def test_docs_need_no_other_server(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
