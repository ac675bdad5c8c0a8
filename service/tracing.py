"""Traces of requests, as far as the environment asks for them. Without a collector nothing of OpenTelemetry is imported.

Off: the caller's trace id still gets into the log. On: see service/spans.py.
"""

import logging
import os
from collections.abc import Mapping

from starlette.datastructures import Headers

from service.trace_context import TraceParent, join_tracestate, parse_traceparent

LOG = logging.getLogger("fip.service")
COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"

Attributes = Mapping[str, str | bool | int | float | None]


class RequestTrace:
    """One request; this one records nothing. trace_id: 32 hex digits, of the caller's trace or of one begun here."""

    __slots__ = ("trace_id",)

    def __init__(self, trace_id: str | None) -> None:
        self.trace_id = trace_id

    def stage(self, name: str, started_ns: int, ended_ns: int, attributes: Attributes | None = None) -> None:
        """A stage that is over, from any thread. Times in ns since the epoch, as of time.time_ns(); they are kept within the request."""

    def end(self, status: int, attributes: Attributes | None = None, error: str | None = None) -> None:
        """The answer is out. status: of HTTP, 0 if none was sent; error: the code of the problem. `http.route` among the attributes names
        the span. Stages that come later are ignored, and so is a second end.
        """


class Tracing:
    """What makes the traces of an app; this one makes none."""

    def start(self, name: str, headers: Headers, attributes: Attributes) -> RequestTrace:
        """A request has arrived. name: one of few, such as the method; `http.request.method` belongs among the attributes."""
        parent = caller(headers)
        return RequestTrace(parent.trace_id if parent else None)

    def close(self) -> None:
        """Send what waits, for 2 s at most."""


def caller(headers: Headers) -> TraceParent | None:
    """The span that the caller names. More than one is none."""
    found = headers.getlist("traceparent")
    return parse_traceparent(found[0]) if len(found) == 1 else None


def caller_state(headers: Headers) -> str | None:
    return join_tracestate(headers.getlist("tracestate"))


def open_tracing() -> Tracing:
    """Tracing as OpenTelemetry's own variables ask for it; never raises: what stands in the way is one error in the log.

    On when OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names a collector, unless OTEL_SDK_DISABLED is true or
    OTEL_TRACES_EXPORTER leaves out otlp.
    """
    asked = next((name for name in COLLECTORS if os.environ.get(name)), None)
    if asked is None or _turned_off():
        return Tracing()
    try:
        from service.spans import SpanTracing

        tracing = SpanTracing()
    except ImportError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        LOG.error(f"{asked} asks for traces, but OpenTelemetry is not installed: pip install 'fip-server[otel]'")
    except Exception as error:  # a variable of OpenTelemetry with a value that it refuses
        LOG.error("no traces: OpenTelemetry refuses its settings", extra={"fields": {"reason": str(error)}})
    else:
        protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), SPOKEN)
        if protocol != SPOKEN:
            LOG.warning(f"traces are sent as {SPOKEN}, not as {protocol}: the port of a collector for that is mostly 4318")
        return tracing
    return Tracing()


def _turned_off() -> bool:
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or (exporters != "" and "otlp" not in exporters.split(","))
