"""/v1/jobs: accepted, run, listened to, cancelled, expired; over a real socket, with a real store."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import Serve
from tests.fire import metric, paused, until

NAME = {"X-Filename": "street.bin"}


@pytest.fixture
def settings(segment_settings: Settings, tmp_path: Path) -> Settings:
    return segment_settings.model_copy(update={"jobs_dir": tmp_path / "jobs"})


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(serve: Serve, app: FastAPI) -> Iterator[httpx.Client]:
    with serve(app) as client:
        yield client


def post(client: httpx.Client, body: bytes, key: str | None = None, **options: str) -> httpx.Response:
    return client.post("/v1/jobs", content=body, params=options, headers=NAME | ({} if key is None else {"Idempotency-Key": key}))


def submitted(client: httpx.Client, body: bytes, **options: str) -> dict:
    response = post(client, body, **options)
    assert response.status_code == 202, response.text
    return response.json()


def state_of(client: httpx.Client, job: str) -> str:
    return client.get(f"/v1/jobs/{job}").json()["state"]


def finished(client: httpx.Client, job: str) -> dict:
    until(lambda: state_of(client, job) not in ("queued", "running"), "the job has ended")
    return client.get(f"/v1/jobs/{job}").json()


@pytest.mark.parametrize("fmt", ["ply", "label", "npz"])
def test_the_result_is_what_segment_answers(client: httpx.Client, scan: bytes, fmt: str) -> None:
    job = submitted(client, scan, format=fmt)
    done = finished(client, job["id"])
    assert (done["state"], done["error"]) == ("done", None)
    result = client.get(done["links"]["result"])
    direct = client.post("/v1/segment", content=scan, params={"format": fmt}, headers=NAME)
    assert result.content == direct.content
    for name in ("X-Model", "X-Num-Points", "Content-Disposition", "Content-Type", "Content-Length"):
        assert result.headers[name] == direct.headers[name], name
