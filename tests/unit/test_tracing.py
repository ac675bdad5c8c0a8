"""Traces as a collector gets them, and what a broken collector costs: spans, and nothing else."""

import gc
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from service.tracing import Tracing, open_tracing
from tests.collector import Collector, collecting, only_ours, plain
from tests.fire import PROMPT_S

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = Headers({"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque,other=1"})
POST = {"http.request.method": "POST", "url.path": "/v1/classify"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    only_ours(monkeypatch)
    logger = logging.getLogger("opentelemetry")  # each test has the minute to itself
    for handler in [handler for handler in logger.handlers if type(handler).__name__ == "OnceAMinute"]:
        logger.removeHandler(handler)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        yield collector


def one_request(tracing: Tracing, headers: Headers = HEADERS, status: int = 200, error: str | None = None) -> None:
    request = tracing.start("POST", headers, POST)
    started = time.time_ns()
    request.stage("parse", started, started + 1000)
    request.stage("forward", started + 1000, started + 2000, {"fip.batch_requests": 3})
    request.end(status, {"http.route": "/v1/classify", "fip.model": "tiny:1", "fip.num_points": None}, error)


def test_a_request_and_its_stages_arrive(collector: Collector) -> None:
    tracing = open_tracing()
    before = time.time_ns()
    one_request(tracing)
    after = time.time_ns()
    tracing.close()
    server, parse, forward = sorted(collector.spans, key=lambda span: (span.name != "POST /v1/classify", span.start_time_unix_nano))
    assert (server.trace_id.hex(), server.parent_span_id.hex(), server.trace_state) == (TRACE, PARENT, "vendor=opaque,other=1")
    assert server.kind == server.SPAN_KIND_SERVER
    assert server.status.code == server.status.STATUS_CODE_UNSET
    assert plain(server.attributes) == {
        **POST,
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "fip.model": "tiny:1",
    }
    assert (parse.name, forward.name, plain(forward.attributes)) == ("parse", "forward", {"fip.batch_requests": 3})
    for child in (parse, forward):
        assert (child.trace_id, child.parent_span_id) == (server.trace_id, server.span_id)
        assert child.end_time_unix_nano - child.start_time_unix_nano == 1000
    assert before <= server.start_time_unix_nano <= parse.start_time_unix_nano
    assert forward.end_time_unix_nano <= server.end_time_unix_nano <= after
    assert collector.resources[0]["service.name"] == "fip-server"


def test_a_trace_begins_here_without_a_caller(collector: Collector) -> None:
    tracing = open_tracing()
    begun = []
    for headers in (Headers(), Headers({"traceparent": "00-nonsense"})):
        request = tracing.start("POST", headers, POST)
        request.end(200)
        begun.append(request.trace_id)
    tracing.close()
    assert {span.trace_id.hex() for span in collector.spans} == set(begun)
    assert len(set(begun)) == 2
    assert {span.parent_span_id for span in collector.spans} == {b""}


@pytest.mark.parametrize(
    ("status", "error", "failed", "kind"),
    [(200, None, False, None), (429, "overloaded", False, None), (499, None, False, None), (500, None, True, "500"),
     (503, "not_ready", True, "not_ready"), (0, "internal", True, "internal")],
)  # fmt: skip
def test_only_what_the_server_did_wrong_is_an_error(
    collector: Collector, status: int, error: str | None, failed: bool, kind: str | None
) -> None:
    tracing = open_tracing()
    one_request(tracing, status=status, error=error)
    tracing.close()
    [server] = [span for span in collector.spans if span.name == "POST /v1/classify"]
    attributes = plain(server.attributes)
    assert server.status.code == (server.status.STATUS_CODE_ERROR if failed else server.status.STATUS_CODE_UNSET)
    assert (attributes.get("error.type"), attributes.get("fip.code")) == (kind, error)
    assert attributes.get("http.response.status_code") == (status or None)


def test_hostile_attributes_lose_no_span(collector: Collector) -> None:
    tracing = open_tracing()
    hostile = {"http.request.method": "BREW\n", "url.path": "/\udc80" + "x" * 10_000, "fip.num_points": 1 << 80}
    tracing.start("POST", Headers(), hostile).end(404)
    one_request(tracing)
    tracing.close()
    assert len(collector.spans) == 4
    [odd] = [plain(span.attributes) for span in collector.spans if span.trace_id.hex() != TRACE]
    assert (odd["http.request.method"], odd["http.request.method_original"]) == ("_OTHER", "BREW\n")
    assert odd["fip.num_points"] == hex(1 << 80)
    assert odd["url.path"].startswith("/\\udc80x")
    assert len(odd["url.path"]) < 2010


def test_headers_of_any_kind_are_taken(collector: Collector) -> None:
    tracing = open_tracing()
    texts = st.text(st.characters(codec="latin-1"), max_size=40) | st.text("abz=,@/* \t", max_size=600)

    @given(texts, st.lists(texts, max_size=3))
    def arrive(parent: str, states: list[str]) -> None:
        sent = [("traceparent", parent), *(("tracestate", state) for state in states)]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in [*sent, ("traceparent", HEADERS["traceparent"])]]
        assert tracing.start("POST", Headers(raw=raw), POST).trace_id != TRACE  # two parents are none
        assert tracing.start("POST", Headers(raw=raw[1:]), POST).trace_id == TRACE

    arrive()
    tracing.close()


def test_stages_lie_within_their_request_even_when_the_clock_was_set(collector: Collector) -> None:
    tracing = open_tracing()
    request = tracing.start("POST", Headers(), POST)
    now = time.time_ns()
    hour = 3600 * 10**9
    for begin, end in ((now - hour, now), (now, now + hour), (now, now - hour), (now - hour, now - hour)):
        request.stage("forward", begin, end)
    request.end(200)
    tracing.close()
    [server] = [span for span in collector.spans if span.name == "POST"]
    for span in collector.spans:
        assert server.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= server.end_time_unix_nano
    assert len(collector.spans) == 5


def test_a_cloud_of_many_tiles_sends_some_of_its_stages(collector: Collector) -> None:
    tracing = open_tracing()
    request = tracing.start("POST", Headers(), POST)
    for _ in range(1000):
        now = time.time_ns()
        request.stage("forward", now, now)
    request.end(200)
    request.stage("encode", 0, 1)  # too late
    request.end(500)
    tracing.close()
    assert len(collector.spans) == 129
    [server] = [span for span in collector.spans if span.name == "POST"]
    assert plain(server.attributes)["fip.stages_left_out"] == 872


@pytest.mark.parametrize(
    ("variables", "spans"),
    [
        ({"OTEL_TRACES_SAMPLER": "always_off"}, 0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 3),
        ({"OTEL_SDK_DISABLED": "true"}, 0),
        ({"OTEL_TRACES_EXPORTER": "none"}, 0),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, 3),
    ],
)
def test_the_standard_variables_decide(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], spans: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracing = open_tracing()
    one_request(tracing)
    assert tracing.start("POST", HEADERS, POST).trace_id == TRACE  # in the log in any case
    tracing.close()
    assert len(collector.spans) == spans


def test_a_caller_who_does_not_sample_is_obeyed(collector: Collector) -> None:
    tracing = open_tracing()
    one_request(tracing, Headers({"traceparent": f"00-{TRACE}-{PARENT}-00"}))
    tracing.close()
    assert collector.spans == []


def test_the_operator_names_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "lidar-eu")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.address}/v1/traces")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    tracing = open_tracing()
    one_request(tracing)
    tracing.close()
    assert collector.resources[0]["service.name"] == "lidar-eu"


@pytest.mark.parametrize(("name", "value"), [("OTEL_BSP_MAX_QUEUE_SIZE", "-1"), ("OTEL_SPAN_LINK_COUNT_LIMIT", "x")])
def test_a_wrong_variable_is_one_error_and_no_traces(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    one_request(open_tracing())
    assert [record.levelname for record in caplog.records if record.name == "fip.service"] == ["ERROR"]


def test_a_collector_of_another_protocol_is_pointed_out(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    open_tracing().close()
    assert ["not as grpc" in record.getMessage() for record in caplog.records] == [True]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def live_spans() -> int:
    from opentelemetry.sdk.trace import ReadableSpan

    gc.collect()
    return sum(
        issubclass(type(thing), ReadableSpan) for thing in gc.get_objects()
    )  # isinstance asks things for their class, which some mind


@pytest.mark.parametrize("broken", ["hangs", "absent", "refuses"])
def test_a_broken_collector_costs_spans_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    with collecting(status=503, hanging=broken == "hangs") as collector:
        address = f"http://127.0.0.1:{free_port()}" if broken == "absent" else collector.address
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        before = live_spans()
        tracing = open_tracing()
        slowest = 0.0
        for _ in range(3000):
            started = time.perf_counter()
            one_request(tracing)
            slowest = max(slowest, time.perf_counter() - started)
        assert slowest < 1.0  # a collector that is waited for takes 10 s
        assert live_spans() - before <= 2048 + 512 + 16  # the queue, the batch on its way, what is being made; of 9,000
        started = time.perf_counter()
        tracing.close()
        assert time.perf_counter() - started < PROMPT_S  # 2 s
        one_request(tracing)  # after the end, too
    assert len([record for record in caplog.records if record.name == "fip.service"]) <= 1


def test_the_log_says_why_no_span_arrives(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with collecting(status=400) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        tracing = open_tracing()
        for _ in range(5):
            asked = collector.requests
            one_request(tracing)
            give_up = time.monotonic() + 10
            while collector.requests == asked and time.monotonic() < give_up:
                time.sleep(0.01)
        tracing.close()
    assert collector.requests >= 5
    [record] = [record for record in caplog.records if record.name == "fip.service"]
    assert "400" in record.__dict__["fields"]["reason"]


def test_a_minute_of_trouble_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    from service.spans import OnceAMinute

    handler = OnceAMinute(quiet_seconds=1.0)
    trouble = logging.LogRecord("opentelemetry.sdk", logging.ERROR, __file__, 1, "lost %s", ("a batch",), None)
    for _ in range(100):
        handler.handle(trouble)
    time.sleep(1.1)
    handler.handle(trouble)
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert fields == [{"reason": "lost a batch", "left_out": 0}, {"reason": "lost a batch", "left_out": 99}]


END = """
import sys, time
from starlette.datastructures import Headers
from service.tracing import open_tracing
tracing = open_tracing()
for _ in range(3000):
    tracing.start("GET", Headers(), {"http.request.method": "GET"}).end(200)
print(time.time(), flush=True)
if "close" in sys.argv:
    tracing.close()
"""


@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_hanging_collector_does_not_hold_up_the_end_of_the_process(how: str) -> None:
    with collecting(hanging=True) as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "NO_PROXY": "127.0.0.1", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", END, how], capture_output=True, text=True, timeout=60, env=variables)
        ended = time.time() - float(done.stdout)
    assert (done.returncode, collector.requests > 0 or how == "forget") == (0, True), done.stderr
    assert ended < 5.0  # an exporter that is waited for takes 10 s a batch


OFF = """
import sys
if "missing" in sys.argv:
    sys.modules["opentelemetry"] = None
import logging
logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
from starlette.datastructures import Headers
from service.tracing import open_tracing
tracing = open_tracing()
request = tracing.start("GET", Headers({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}), {})
request.stage("parse", 0, 1)
request.end(200)
tracing.close()
print(request.trace_id, [name for name in sys.modules if name.startswith("opentelemetry") and sys.modules[name]])
"""


@pytest.mark.parametrize("how", ["off", "missing"])
def test_without_a_collector_or_without_the_extra_nothing_is_imported(how: str) -> None:
    variables = {"PYTHONPATH": ":".join(sys.path)}
    if how == "missing":
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
    done = subprocess.run([sys.executable, "-c", OFF, how], capture_output=True, text=True, timeout=60, env=variables)
    assert done.stdout.split(maxsplit=1) == [TRACE, "[]\n"], done.stderr
    lines = done.stderr.splitlines()
    if how == "off":
        assert lines == []
    else:
        assert [line.startswith("ERROR ") and "pip install 'fip-server[otel]'" in line for line in lines] == [True]
