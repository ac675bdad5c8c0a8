"""What POST /v1/segment must refuse, and how; and that a model of the other task is refused before the file is looked at."""

import http.client
import io
import json
import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from models.answers import ANSWERS
from service.app import create_app
from service.settings import Settings
from tests.contract.test_bad_input import Case

Ball = Callable[[int], bytes]
Serve = Callable[[FastAPI], AbstractContextManager[httpx.Client]]


def points(*rows: tuple[float, ...]) -> bytes:
    """A KITTI file of these rows."""
    return b"".join(struct.pack("<4f", *row) for row in rows)


def wide_npz() -> bytes:
    """A good cloud with a column that PLY cannot hold."""
    buffer = io.BytesIO()
    np.savez(buffer, xyz=np.eye(3, dtype=np.float32), when=np.full(3, (1 << 60) + 1))
    return buffer.getvalue()


GOOD = points((0, 0, 0, 0.5), (1, 0, 0, 0.5), (0, 1, 0, 0.5), (0, 0, 1, 0.5))
BIN = {"input_format": "bin"}
CASES = [
    Case("empty", b"", 400, "empty_file", query=BIN),
    Case("truncated", GOOD[:-3], 400, "truncated_file", query=BIN),
    Case("nan", GOOD + points((float("nan"), 0, 0, 0)), 422, "non_finite", where="point 4", query=BIN),
    Case("nan_intensity", GOOD + points((0, 0, 0, float("nan"))), 422, "non_finite", where="point 4", query=BIN),
    Case("too_wide", GOOD + points((1e9, 0, 0, 0)), 422, "extent", query=BIN),
    Case("wrong_unit", GOOD + points((3e5, 0, 0, 0)), 422, "extent", query=BIN),
    Case("wrong_format", b"\xff\xd8\xff\xe0 JFIF" * 100, 415, "unsupported_format"),
    Case("not_the_format_of_its_name", b"\xff\xd8\xff\xe0 JFIF" * 100, 400, "bad_header", headers={"X-Filename": "a.ply"}),
    Case("unknown_answer", GOOD, 422, "bad_option", where="format", query=BIN | {"format": "docx"}),
    Case("answer_in_capitals", GOOD, 422, "bad_option", where="format", query=BIN | {"format": "PLY"}),
    Case("answer_given_twice", GOOD, 422, "bad_option", where="format", query=[("format", "ply"), ("format", "label"), *BIN.items()]),
    Case("unknown_input", GOOD, 422, "bad_option", where="input_format", query={"input_format": "docx"}),
    Case("unknown_up", GOOD, 422, "bad_option", where="up", query=BIN | {"up": "w"}),
    Case("unknown_unit", GOOD, 422, "bad_option", where="unit", query=BIN | {"unit": "parsec"}),
    Case("option_of_the_other_task", GOOD, 422, "bad_option", where="top", query=BIN | {"top": "3"}),
    Case("unknown_model", GOOD, 404, "unknown_model", where="model", query=BIN | {"model": "street"}),
    Case("path_traversal", GOOD, 422, "bad_model_name", query=BIN | {"model": "../../etc"}),
    Case("wrong_task", GOOD, 422, "wrong_task", where="model", query=BIN | {"model": "tiny"}),
    Case(
        "no_intensity_and_none_to_fill_in",
        b"OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0",
        422,
        "missing_feature",
        where="intensity",
        query={"model": "strict"},
    ),
    Case("a_column_that_ply_cannot_hold", wide_npz(), 422, "bad_option", where="format", query={"format": "ply"}),
    Case("compressed_body", GOOD, 415, "unsupported_encoding", query=BIN, headers={"Content-Encoding": "gzip"}),
    Case("form_without_a_boundary", GOOD, 400, "bad_multipart", headers={"Content-Type": "multipart/form-data"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused_with_a_code_and_the_service_lives_on(segment_client: httpx.Client, case: Case) -> None:
    response = segment_client.post("/v1/segment", params=case.query, headers=case.headers, content=case.body)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (case.status, case.code), response.text
    assert case.where is None or problem["where"] == case.where
    assert response.headers["content-type"] == "application/problem+json"
    assert set(problem) <= {"type", "title", "status", "detail", "code", "where", "known"}
    good = segment_client.post("/v1/segment", params=BIN | {"format": "label"}, content=GOOD)
    assert (good.status_code, len(good.content)) == (200, 16)


def test_unknown_formats_name_the_nearest(segment_client: httpx.Client) -> None:
    problem = segment_client.post("/v1/segment", params={"format": "lable"}, content=GOOD).json()
    assert "did you mean 'label'?" in problem["detail"]
    assert problem["known"] == ["json", "same", *ANSWERS]


def test_a_file_with_the_feature_is_no_problem_for_a_strict_model(segment_client: httpx.Client) -> None:
    response = segment_client.post("/v1/segment", params=BIN | {"model": "strict"}, content=GOOD)
    assert (response.status_code, response.json()["filled"]) == (200, [])


def test_too_many_points(segment_registry: Path, serve: Serve) -> None:
    with serve(create_app(Settings(registry=str(segment_registry), model="streets", max_points=3))) as client:
        assert client.post("/v1/segment", params=BIN, content=GOOD[:48]).status_code == 200
        response = client.post("/v1/segment", params=BIN, content=GOOD)
    assert (response.status_code, response.json()["code"]) == (413, "too_many_points")


@pytest.mark.parametrize(
    ("address", "model", "other", "default"), [("segment", "tiny", "classify", "streets"), ("classify", "streets", "segment", "modelnet40")]
)
def test_a_wrong_task_is_refused_before_the_body_is_sent(
    segment_client: httpx.Client, address: str, model: str, other: str, default: str
) -> None:
    url = segment_client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=5) as connection:
        head = f"POST /v1/{address}?model={model} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        problem = json.loads(response.read())
    assert (response.status, problem["code"], problem["where"], problem["known"]) == (422, "wrong_task", "model", [default])
    assert problem["detail"] == (
        f"model '{model}' does not {address}, it does {other}: POST the file to /v1/{other}, or leave ?model= out to ask '{default}'"
    )


def test_a_model_of_the_other_task_is_not_loaded_to_be_refused(segment_settings: Settings, serve: Serve) -> None:
    with serve(create_app(segment_settings)) as client:
        assert client.post("/v1/classify?model=strict", content=b"").json()["code"] == "wrong_task"
        loaded = [line for line in client.get("/metrics").text.splitlines() if line.startswith("fip_model_info{")]
    assert loaded
    assert not any('name="strict"' in line for line in loaded)


@pytest.mark.parametrize("body", [b"", b"junk" * 1000, b"ply\nformat"])
def test_whatever_the_file_is_the_task_comes_first(segment_client: httpx.Client, body: bytes) -> None:
    assert segment_client.post("/v1/segment?model=tiny", content=body).json()["code"] == "wrong_task"
    assert segment_client.post("/v1/classify?model=streets", content=body).json()["code"] == "wrong_task"


def test_a_client_that_leaves_in_the_middle_harms_nobody(segment_client: httpx.Client, ball: Ball) -> None:
    url = segment_client.base_url
    head = f"POST /v1/segment?format=ply HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(ball(50_000))}\r\n\r\n".encode()
    for _ in range(3):
        with socket.create_connection((url.host, url.port or 0), timeout=5) as connection:
            connection.sendall(head + ball(50_000))  # and does not wait for the answer
    assert segment_client.post("/v1/segment", content=ball(100)).status_code == 200
