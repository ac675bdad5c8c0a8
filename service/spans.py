"""Spans by OpenTelemetry's SDK, sent to a collector from a thread. Imported only where a collector is asked for: needs the extra `otel`.

A collector that is down, hangs or refuses costs spans, and nothing else: what waits is bounded (OTEL_BSP_MAX_QUEUE_SIZE), nobody waits
for it, and it is said once a minute.
"""

import logging
import threading
import time
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer, set_span_in_context
from opentelemetry.trace.span import TraceState
from starlette.datastructures import Headers

from service.tracing import Attributes, RequestTrace, Tracing, caller, caller_state

LOG = logging.getLogger("fip.service")
FLUSH_SECONDS = 2.0
QUIET_SECONDS = 60.0
STAGES = 128  # of one request, 4 ms; a cloud of a thousand tiles has more, would hold up others and push out their spans
CHARACTERS = 2000
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"})
INT64 = range(-(1 << 63), 1 << 63)


class SpanTracing(Tracing):
    """Raises: whatever OpenTelemetry raises about its variables."""

    def __init__(self) -> None:
        _say_once_a_minute()
        self._exporter = OTLPSpanExporter()
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("fip-server", version("fip-server"))

    def start(self, name: str, headers: Headers, attributes: Attributes) -> RequestTrace:
        given = dict(attributes)
        method = given.get("http.request.method")
        if method is not None and method not in METHODS:
            given |= {"http.request.method": "_OTHER", "http.request.method_original": method}
        started_ns = time.time_ns()
        span = self._tracer.start_span(name, _remote(headers), SpanKind.SERVER, _clean(given), start_time=started_ns)
        return SpanTrace(self._tracer, span, str(method) if method in METHODS else "HTTP", started_ns)

    def close(self) -> None:
        sender = threading.Thread(target=self._provider.shutdown, name="traces-flush", daemon=True)
        sender.start()
        sender.join(FLUSH_SECONDS)
        if sender.is_alive():  # hangs: no further attempt, and its thread holds up no end of the process
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class SpanTrace(RequestTrace):
    """A server span and its stages, as in OpenTelemetry's conventions for HTTP."""

    __slots__ = ("_context", "_last_ns", "_method", "_span", "_stages", "_started_ns", "_tracer")

    def __init__(self, tracer: Tracer, span: Span, method: str, started_ns: int) -> None:
        super().__init__(f"{span.get_span_context().trace_id:032x}")
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._method = method
        self._started_ns = self._last_ns = started_ns
        self._stages = 0

    def stage(self, name: str, started_ns: int, ended_ns: int, attributes: Attributes | None = None) -> None:
        if not self._span.is_recording():
            return
        self._stages += 1
        if self._stages > STAGES:
            return
        begin = max(started_ns, self._started_ns)  # the wall clock may have been set in between
        end = max(ended_ns, begin)
        self._last_ns = max(self._last_ns, end)
        self._tracer.start_span(name, self._context, attributes=_clean(attributes or {}), start_time=begin).end(end)

    def end(self, status: int, attributes: Attributes | None = None, error: str | None = None) -> None:
        if not self._span.is_recording():
            return
        given = {"http.response.status_code": status or None, "fip.code": error, **(attributes or {})}
        if self._stages > STAGES:
            given["fip.stages_left_out"] = self._stages - STAGES
        if status >= 500 or (not status and error):
            given["error.type"] = error or str(status)
            self._span.set_status(Status(StatusCode.ERROR))
        if route := given.get("http.route"):
            self._span.update_name(f"{self._method} {route}")
        self._span.set_attributes(_clean(given))
        self._span.end(max(time.time_ns(), self._last_ns))


def _remote(headers: Headers) -> Context:
    """A context of the caller's span, else an empty one: never what the running thread happens to carry."""
    parent = caller(headers)
    if parent is None:
        return Context()
    state = caller_state(headers)
    remote = SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(parent.flags), TraceState.from_header([state] if state else [])
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _clean(attributes: Attributes) -> dict[str, str | bool | int | float]:
    """Without None, and as protobuf takes it: one value that it refuses would lose a whole batch of spans."""
    return {name: _encodable(value) for name, value in attributes.items() if value is not None}


def _encodable(value: str | bool | int | float) -> str | bool | int | float:
    if isinstance(value, str):
        return value if value.isascii() and len(value) <= CHARACTERS else value[:CHARACTERS].encode("utf-8", "backslashreplace").decode()
    return hex(value)[:CHARACTERS] if isinstance(value, int) and value not in INT64 else value


def _resource() -> Resource:
    """Who sends: fip-server, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise."""
    found = Resource.create({"service.version": version("fip-server")})
    unnamed = str(found.attributes.get("service.name", "")).startswith("unknown_service")
    return found.merge(Resource({"service.name": "fip-server"})) if unnamed else found


class OnceAMinute(logging.Handler):
    """Hands one record a minute on to the service's log, with the number of those that were left out since the last."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        super().__init__(logging.WARNING)
        self._quiet_seconds = quiet_seconds
        self._next = 0.0
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if "already shutdown" in record.getMessage():  # the end of an exporter is no trouble, and would take the place of some
            return
        if now < self._next:
            self._left_out += 1
            return
        fields = {"reason": record.getMessage(), "left_out": self._left_out}
        self._next, self._left_out = now + self._quiet_seconds, 0
        LOG.warning("trouble with traces", extra={"fields": fields})


def _say_once_a_minute() -> None:
    """OpenTelemetry says something for every batch it loses, every attempt, every span that finds the queue full."""
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, OnceAMinute) for handler in logger.handlers):
        logger.addHandler(OnceAMinute())
    logger.propagate = False
