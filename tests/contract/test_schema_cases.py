"""Requests made from our own OpenAPI description; `make bench-service` sends 2,000 for each operation."""

from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.bench.service import schema
from tests.bench.service.schema_hooks import INFERENCES
from tests.contract.conftest import Serve

CASES = 25


@pytest.mark.slow
def test_made_up_requests_are_answered_as_described(serve: Serve, segment_settings: Settings, tmp_path: Path) -> None:
    with serve(create_app(segment_settings.model_copy(update={"jobs_dir": tmp_path / "jobs", "max_jobs": 1000}))) as client:
        outcome = schema.check(str(client.base_url).rstrip("/"), CASES, seconds=240)
    assert outcome.failures == [], chr(10).join(outcome.failures)
    assert len(outcome.cases) >= 22
    assert outcome.fewest >= CASES
    assert all(outcome.statuses[f"POST {path} 200"] for path in ("/v1/classify", "/v1/segment", "/v1/points", *INFERENCES))
    assert all(outcome.statuses[each] for each in ("POST /v1/jobs 202", "GET /v1/jobs/{id}/result 200", "DELETE /v1/jobs/{id} 200"))
