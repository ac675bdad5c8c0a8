"""POST /v1/segment of large clouds: tiled, told so, refused above the limits; and answers too large for memory."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.predictor import Predictor
from service import answer_file
from service.answer_file import AnswerFile
from service.app import create_app
from service.errors import SpoolFull
from service.settings import Settings
from tests.unit.test_tiling import street

Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]


@pytest.fixture(scope="module")
def long_street() -> bytes:
    cloud = street()
    return np.column_stack([cloud.xyz, np.asarray(cloud.intensity)]).astype("<f4").tobytes()


def ask(client: httpx.Client, body: bytes, **options: str) -> httpx.Response:
    return client.post("/v1/segment", params=options, content=body, headers={"X-Filename": "street.bin"})


@pytest.mark.parametrize("model", ["streets", "smooth"])
def test_tiles_give_the_answer_of_one_piece(segment_settings: Settings, serve: Serve, long_street: bytes, model: str) -> None:
    with serve(create_app(segment_settings)) as client:
        whole = ask(client, long_street, format="npz", model=model)
    with serve(create_app(segment_settings.model_copy(update={"tile_voxels": 5000}))) as client:
        tiled = ask(client, long_street, format="npz", model=model)
        said = ask(client, long_street, model=model).json()
        lines = client.get("/metrics").text.splitlines()
    assert "X-Tiles" not in whole.headers
    assert int(tiled.headers["X-Tiles"]) == said["tiles"] > 2
    assert tiled.headers["X-Halo"] == "116 of 116 voxels"
    assert said["halo"] == {"voxels": 116, "full": 116}
    expected, found = np.load(io.BytesIO(whole.content)), np.load(io.BytesIO(tiled.content))
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-5)
    assert 'fip_stage_duration_seconds_count{stage="forward"} 2.0' in lines  # once a request, not once a tile
    assert f"fip_batch_requests_sum {2.0 * said['tiles']}" in lines
    assert "fip_batch_points_sum 40000.0" in lines


def test_a_narrow_margin_is_told_of(segment_settings: Settings, serve: Serve, long_street: bytes) -> None:
    with serve(create_app(segment_settings.model_copy(update={"tile_voxels": 2000, "tile_halo": 16}))) as client:
        said = ask(client, long_street).json()
        headers = ask(client, long_street, format="label").headers
    assert said["halo"] == {"voxels": 16, "full": 116}
    assert headers["X-Halo"] == "16 of 116 voxels"


def test_a_tile_that_cannot_be_small_enough(segment_settings: Settings, serve: Serve, long_street: bytes) -> None:
    with serve(create_app(segment_settings.model_copy(update={"tile_voxels": 300}))) as client:
        problem = ask(client, long_street)
        assert ask(client, long_street[: 16 * 200]).status_code == 200
    assert problem.status_code == 413
    said = problem.json()
    assert (said["code"], said["where"]) == ("too_many_voxels", "tile_voxels")
    assert "tile_halo" in said["detail"]


def test_too_many_points(segment_settings: Settings, serve: Serve, long_street: bytes) -> None:
    with serve(create_app(segment_settings.model_copy(update={"max_points": 19_999}))) as client:
        problem = ask(client, long_street)
    assert (problem.status_code, problem.json()["code"]) == (413, "too_many_points")
    assert "20000 points, the limit is 19999" in problem.json()["detail"]


def test_answers_from_the_disk_are_those_from_memory(
    segment_client: httpx.Client, long_street: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ask(segment_client, long_street, format="ply")
    monkeypatch.setattr(answer_file, "IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr(answer_file, "PIECE", 4000)
    large = ask(segment_client, long_street, format="ply")
    assert large.content == small.content
    assert int(large.headers["Content-Length"]) == len(large.content) > 100_000


def test_no_room_for_an_answer(tmp_path: Path) -> None:
    def fill(out: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(SpoolFull, match="no room for the answer: No space left on device"):
        AnswerFile(tmp_path, fill)


def test_a_failed_request_leaves_no_file_open(segment_client: httpx.Client, long_street: bytes) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert ask(segment_client, long_street[:-3]).status_code == 400
        assert ask(segment_client, long_street, format="ply").status_code == 200
        assert segment_client.post("/v1/segment?format=same", content=b"OFF\n3 1 0\n0 0 0\n0 9 0\n9 0 0\n3 0 1 2\n").status_code == 422
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_same_of_a_format_without_room_for_labels(segment_client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is computed."""
    monkeypatch.setattr(Predictor, "forward", None)
    problem = segment_client.post("/v1/segment?format=same", content=b"OFF\n3 1 0\n0 0 0\n0 9 0\n9 0 0\n3 0 1 2\n").json()
    assert problem["code"] == "bad_option"
    assert problem["where"] == "format"
    assert "labels cannot be added to off files" in problem["detail"]
    assert "ply" in problem["known"]
