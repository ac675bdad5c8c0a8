"""What is said of every request when it is over: one line in the log, the metrics, the end of its trace."""

import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from service.telemetry import Telemetry
from service.tracing import RequestTrace

LOG = logging.getLogger("fip.service")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
UNMATCHED = "unmatched"
QUIET = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})  # asked all the time by machines


@dataclass(frozen=True)
class Outcome:
    """How a request ended. method, path: empty of what never became one; route: the pattern of its address, or UNMATCHED; code: of the
    problem that it was refused with; model: name and version that answered; stage: where it was when its client left or its time was
    over; facts: numbers of its cloud; key: the id of the one that it came with.
    """

    request_id: str
    method: str
    path: str
    route: str
    status: int
    seconds: float
    code: str | None = None
    model: tuple[str, str] = ("", "")
    stage: str | None = None
    facts: Mapping[str, int] = field(default_factory=dict)
    key: str | None = None


def request_id_of(headers: Headers) -> str:
    """The caller's id if it is harmless in a header and a log line, else a new one."""
    given = headers.get("x-request-id")
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def tell(outcome: Outcome, telemetry: Telemetry, trace: RequestTrace) -> None:
    """Say it everywhere."""
    name, version = outcome.model
    model = f"{name}:{version}" if name else None
    telemetry.request_duration.labels(outcome.route, name, version, str(outcome.status)).observe(outcome.seconds)
    if outcome.code:
        telemetry.rejected.labels(outcome.code).inc()
    said = {f"fip.{name}": value for name, value in outcome.facts.items()}
    trace.end(
        outcome.status, said | {"http.route": None if outcome.route == UNMATCHED else outcome.route, "fip.model": model}, outcome.code
    )
    fields: dict[str, str | int | float | None] = {
        "request_id": outcome.request_id,
        "method": outcome.method or None,
        "path": outcome.path or None,
        "status": outcome.status,
        "code": outcome.code,
        "key": outcome.key,
        "model": model,
        "ms": round(outcome.seconds * 1000, 3),
        "stage": outcome.stage,
        "trace_id": trace.trace_id,
        **outcome.facts,
    }
    quiet = outcome.path in QUIET and outcome.code is None  # who is refused is told of
    LOG.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})
