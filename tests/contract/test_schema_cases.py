"""Requests made from our own OpenAPI description; `make bench-service` sends 2,000 for each operation."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app
from service.settings import Settings
from tests.bench.service import schema
from tests.bench.service.furnished import furnish
from tests.contract.conftest import Serve

CASES, SEQUENCES = 50, 25


@pytest.mark.slow
def test_made_up_requests_are_answered_as_described(serve: Serve, tmp_path: Path) -> None:
    furnished = furnish(tmp_path)
    with serve(create_app(Settings.model_validate(furnished.settings))) as client:
        outcome = schema.check(str(client.base_url).rstrip("/"), furnished.key, CASES, SEQUENCES, seconds=240)
    assert outcome.failures == {}
    assert len(outcome.cases) >= 25
    assert outcome.fewest >= CASES
    assert outcome.sequences >= SEQUENCES
    assert outcome.never_done == []
    assert all(outcome.statuses[f"POST /v1/jobs {status}"] for status in (200, 202))


@dataclass(frozen=True)
class Broken:
    """A service that does otherwise than it says, at four addresses."""

    app: ASGIApp
    key: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope.get("path", ""), scope.get("method")
        if path == "/v1/models":  # asks for no key
            scope = {**scope, "headers": [*_without_keys(scope), (b"x-api-key", self.key.encode())]}
        elif path.startswith("/v1/jobs/") and method == "DELETE":  # deletes nothing
            scope = {**scope, "method": "GET"}
        elif path.startswith("/v1/points") and b"most=" in scope["query_string"]:  # a status that nobody was told of
            await PlainTextResponse("", 418)(scope, receive, send)
            return
        elif path.startswith("/v2/models/lidar19") and method == "GET":  # fails
            await PlainTextResponse("", 500)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _without_keys(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in scope["headers"] if name not in (b"authorization", b"x-api-key")]


@pytest.mark.slow
def test_a_service_that_does_otherwise_is_found(serve: Serve, tmp_path: Path) -> None:
    furnished = furnish(tmp_path)
    app = create_app(Settings.model_validate(furnished.settings))
    app.add_middleware(Broken, key=furnished.key)
    with serve(app) as client:
        outcome = schema.check(str(client.base_url).rstrip("/"), furnished.key, CASES, 0, seconds=240)
    found = {tuple(each.split(": ")[:2]) for each in outcome.failures.values()}
    assert {
        ("GET /v1/models", "API accepts requests without authentication"),
        ("POST /v1/points", "Undocumented status code"),
        ("GET /v2/models/{model}", "Server error"),
    } <= found
    assert any("a job that was deleted is" in each for each in outcome.failures.values())


def test_what_a_report_tells(tmp_path: Path) -> None:
    wrong = {"name": "a_check", "status": "failure", "failure_info": {"failure": {"title": "Wrong", "message": "so"}}}
    tried = {
        "label": "GET /a",
        "cases": {"1": {}, "2": {}, "3": {"parent_id": "2"}},  # the last is of a check
        "interactions": {
            "1": {"response": {"status_code": 200}},
            "2": {"request": {"uri": "/a?b"}, "response": {"status_code": 404}},
            "3": {"response": None},
        },
        "checks": {"1": [{"name": "a_check", "status": "success"}], "2": [wrong], "3": [wrong]},
    }
    refused = {"label": "POST /b", "cases": {"4": {}}, "interactions": {"4": {"response": {"status_code": 422}}}}
    events = [
        {"Initialize": {}},
        finished("fuzzing", tried),
        finished("coverage", {"label": "GET /c", "cases": {"5": {}, "6": {}}}),  # and no cases of its own afterwards
        finished("fuzzing", refused),
        finished("stateful", {"label": "Stateful tests", "cases": {"7": {}}}),
        finished("stateful", {"label": "Stateful tests"}),  # one that made no request
        {"NonFatalError": {"label": "POST /b", "info": "could not be tried"}},
    ]
    report = tmp_path / "0.ndjson"
    report.write_text("".join(f"{json.dumps(each)}\n" for each in events), encoding="utf-8")
    outcome = schema.read_report(report)
    assert outcome.cases == {"GET /a": 2, "POST /b": 1, "GET /c": 0}
    assert (outcome.fewest, outcome.sequences) == (0, 1)
    assert outcome.statuses == {"GET /a 200": 1, "GET /a 404": 1, "GET /a None": 1, "POST /b 422": 1}
    assert outcome.never_done == ["GET /c", "POST /b"]
    wrong_once, error = outcome.failures.values()
    assert wrong_once == 'GET /a: Wrong: so; {"uri": "/a?b"}'
    assert error.startswith("NonFatalError: ")
    twice = outcome + outcome
    assert (twice.cases["GET /a"], twice.fewest, twice.sequences, twice.failures) == (4, 0, 2, outcome.failures)


def finished(phase: str, recorder: dict[str, object]) -> dict[str, object]:
    return {"ScenarioFinished": {"phase": phase, "recorder": recorder}}
