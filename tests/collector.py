"""A little OpenTelemetry collector: OTLP over HTTP, in a thread."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of OpenTelemetry from outside, no proxy before our own collector, and no long wait before spans are sent."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


class Collector(ThreadingHTTPServer):
    """spans: what has arrived; resources: attributes of those who sent. A hanging one reads a request and never answers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.requests = 0
        self.hanging = False
        self.end = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def accept(self, body: bytes) -> None:
        for sender in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(plain(sender.resource.attributes))
            for scope in sender.scope_spans:
                self.spans.extend(scope.spans)

    def await_spans(self, wanted: Callable[[list[Span]], bool], seconds: float = 15.0) -> list[Span]:
        give_up = time.monotonic() + seconds
        while not wanted(self.spans) and time.monotonic() < give_up:
            time.sleep(0.01)
        return list(self.spans)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        if self.server.hanging:
            self.server.end.wait()
            return
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        if self.server.status == 200:
            self.server.accept(body)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def collecting(*, status: int = 200, hanging: bool = False) -> Iterator[Collector]:
    collector = Collector(status)
    collector.hanging = hanging
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        collector.end.set()
        collector.shutdown()
        thread.join()
        collector.server_close()


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict of Python's own values."""
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
