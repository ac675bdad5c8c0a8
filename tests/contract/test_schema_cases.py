"""Requests made from our own OpenAPI description; `make bench-service` sends 2,000 for each operation."""

import httpx
import pytest

from tests.bench.service import schema
from tests.bench.service.schema_hooks import INFERENCES

CASES = 25


@pytest.mark.slow
def test_made_up_requests_are_answered_as_described(segment_client: httpx.Client) -> None:
    outcome = schema.check(str(segment_client.base_url).rstrip("/"), CASES, seconds=240)
    assert outcome.failures == []
    assert len(outcome.cases) >= 16
    assert min(outcome.cases.values()) >= CASES
    assert all(outcome.statuses[f"POST {path} 200"] for path in ("/v1/classify", "/v1/segment", *INFERENCES))
