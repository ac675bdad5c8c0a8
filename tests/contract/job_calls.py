"""Jobs as their clients see them."""

import json

import httpx
from fastapi import FastAPI

from tests.fire import until

NAME = {"X-Filename": "street.bin"}
TILES = {"tile_voxels": 1500, "tile_halo": 2}


def post(client: httpx.Client, body: bytes, key: str | None = None, **options: str) -> httpx.Response:
    return client.post("/v1/jobs", content=body, params=options, headers=NAME | ({} if key is None else {"Idempotency-Key": key}))


def submitted(client: httpx.Client, body: bytes, **options: str) -> dict:
    response = post(client, body, **options)
    assert response.status_code == 202, response.text
    job: dict = response.json()
    assert response.headers["Location"] == job["links"]["job"] == f"/v1/jobs/{job['id']}"
    return job


def show(client: httpx.Client, job: dict) -> dict:
    found: dict = client.get(job["links"]["job"]).json()
    return found


def ended(client: httpx.Client, job: dict, *states: str) -> dict:
    states = states or ("done", "failed", "cancelled", "expired")
    until(lambda: show(client, job)["state"] in states, f"the job is {' or '.join(states)}")
    return show(client, job)


def running(client: httpx.Client, job: dict) -> None:
    """Until it has the device."""
    until(lambda: (show(client, job)["progress"] or {}).get("stage") == "forward", "the job is at the device")


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


def events(client: httpx.Client, job: dict) -> list[tuple[str, dict]]:
    """All that a listener is told, until there is no more."""
    told: list[tuple[str, dict]] = []
    with client.stream("GET", job["links"]["events"]) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines: list[str] = []
        for line in response.iter_lines():
            if line:
                lines.append(line)
                continue
            if not lines[0].startswith(":"):
                said = dict(each.split(": ", 1) for each in lines)
                assert int(said["id"]) == len(told) + 1
                told.append((said["event"], json.loads(said["data"])))
            lines = []
    return told


def metric_free(app: FastAPI) -> bool:
    """Nothing is held for jobs that have ended."""
    admission = app.state.context.admission
    return (admission.requests, admission.bytes, admission.points) == (0, 0, 0)
