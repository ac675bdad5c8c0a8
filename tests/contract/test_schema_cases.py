"""Requests made from our own OpenAPI description; `make bench-service` sends 2,000 for each operation."""

from pathlib import Path

import pytest

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
    assert outcome.failures == [], chr(10).join(outcome.failures)
    assert len(outcome.cases) >= 24
    assert outcome.fewest >= CASES
    assert outcome.sequences >= SEQUENCES
    assert outcome.never_done == []
    assert outcome.statuses["POST /v1/jobs 202"]
