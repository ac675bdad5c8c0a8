"""A request as a collector and the log see it, through the real app and the real program."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.collector import Collector, collecting, only_ours, plain
from tests.fire import PROMPT_S, paused, request_lines, waiting

FIP = Path(sys.executable).parent / "fip"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FROM_CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"}
STAGES = ["read", "read", "parse", "voxelize", "queue", "forward", "encode"]  # the body, then the file that it makes

Ball = Callable[[int], bytes]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    only_ours(monkeypatch)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        yield collector


@pytest.fixture
def traced(collector: Collector, tiny_settings: Settings, serve: Callable[..., Any]) -> Iterator[httpx.Client]:
    with serve(create_app(tiny_settings)) as client:
        yield client


def server_span(collector: Collector, trace: str) -> Any:
    def ours(spans: list[Any]) -> list[Any]:
        return [span for span in spans if span.trace_id.hex() == trace and span.kind == span.SPAN_KIND_SERVER]

    [span] = ours(collector.await_spans(lambda spans: bool(ours(spans))))
    return span


def test_a_request_is_one_span_and_its_stages_lie_within(
    traced: httpx.Client, collector: Collector, ball: Ball, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fip.service")
    before = time.time_ns()
    answer = traced.post("/v1/classify", content=ball(1000), headers=FROM_CALLER).json()
    server = server_span(collector, TRACE)
    assert (server.name, server.parent_span_id.hex(), server.trace_state) == ("POST /v1/classify", PARENT, "vendor=opaque")
    said = plain(server.attributes)
    assert {name: said.get(name) for name in said if name.startswith(("http.", "fip.")) or name == "url.path"} == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "url.path": "/v1/classify",
        "http.response.status_code": 200,
        "fip.model": "tiny:1",
        "fip.num_points": 1000,
        "fip.num_voxels": answer["num_voxels"],
        "fip.batch_requests": 1,
    }
    children = [span for span in collector.spans if span.parent_span_id == server.span_id]
    children.sort(key=lambda span: span.end_time_unix_nano)
    assert [span.name for span in children] == STAGES
    assert before <= server.start_time_unix_nano
    assert server.end_time_unix_nano <= time.time_ns()
    for child in children:
        assert server.start_time_unix_nano <= child.start_time_unix_nano <= child.end_time_unix_nano <= server.end_time_unix_nano
    # the spans tell the times that the answer tells; encode is still going on when the answer is written
    for child in children[:-1]:
        milliseconds = (child.end_time_unix_nano - child.start_time_unix_nano) / 1e6
        assert milliseconds == pytest.approx(
            answer["timings_ms"][child.name], rel=0.5, abs=5.0
        )  # the clock is read twice, and a machine is shared
    [line] = request_lines(caplog)
    assert (line["trace_id"], line["status"]) == (TRACE, 200)


def test_a_request_without_a_caller_begins_a_trace_that_the_log_names(
    traced: httpx.Client, collector: Collector, ball: Ball, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fip.service")
    traced.post("/v1/classify", content=ball(100)).raise_for_status()
    [line] = request_lines(caplog)
    server = server_span(collector, line["trace_id"])
    assert server.parent_span_id == b""


def test_requests_that_are_refused_are_spans_too(traced: httpx.Client, collector: Collector) -> None:
    assert traced.post("/v1/classify", content=b"nonsense", headers=FROM_CALLER).status_code >= 400
    server = server_span(collector, TRACE)
    said = plain(server.attributes)
    assert (server.name, 400 <= said["http.response.status_code"] < 500) == ("POST /v1/classify", True)
    assert isinstance(said["fip.code"], str)
    assert server.status.code == server.status.STATUS_CODE_UNSET  # the caller's error, not the server's


def test_what_is_cut_short_shows_where_the_time_went(
    collector: Collector, tiny_settings: Settings, serve: Callable[..., Any], ball: Ball
) -> None:
    app = create_app(tiny_settings)
    with serve(app) as client, paused(app):
        answer = client.post("/v1/classify", content=ball(100), headers={**FROM_CALLER, "X-Request-Timeout": "0.4"})
    assert answer.status_code == 504
    server = server_span(collector, TRACE)
    children = {span.name: span for span in collector.spans if span.parent_span_id == server.span_id}
    assert list(children)[-1] == "forward"
    assert (children["forward"].end_time_unix_nano - children["forward"].start_time_unix_nano) / 1e9 > 0.2
    assert plain(server.attributes)["fip.code"] == "deadline_exceeded"


def test_refused_at_the_door_is_a_span_too(
    collector: Collector, tiny_settings: Settings, serve: Callable[..., Any], ball: Ball, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fip.service")
    app = create_app(tiny_settings.model_copy(update={"max_waiting": 1}))
    with serve(app) as client, ThreadPoolExecutor(1) as threads:
        with paused(app):
            inside = threads.submit(client.post, "/v1/classify", content=ball(100))
            waiting(client, 1)
            assert client.post("/v1/classify", content=ball(100), headers=FROM_CALLER).status_code == 429
        assert inside.result().status_code == 200
    server = server_span(collector, TRACE)
    said = plain(server.attributes)
    assert (server.name, said["http.response.status_code"], said["fip.code"]) == ("POST /v1/classify", 429, "overloaded")
    [line] = [line for line in request_lines(caplog, many=2) if line["status"] == 429]
    assert (line["trace_id"], line["code"], line["path"]) == (TRACE, "overloaded", "/v1/classify")


def test_a_path_that_nobody_serves_names_no_span(traced: httpx.Client, collector: Collector) -> None:
    assert traced.get("/no/such/place/4711", headers=FROM_CALLER).status_code == 404
    server = server_span(collector, TRACE)
    assert "4711" not in server.name  # names are few
    assert plain(server.attributes)["url.path"] == "/no/such/place/4711"


def test_without_a_collector_the_log_still_names_the_callers_trace(
    app: FastAPI, serve: Callable[..., Any], ball: Ball, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fip.service")
    with serve(app) as client:
        client.post("/v1/classify", content=ball(100), headers=FROM_CALLER).raise_for_status()
        client.post("/v1/classify", content=ball(100), headers={"traceparent": "00-nonsense"}).raise_for_status()
    assert [line.get("trace_id") for line in request_lines(caplog, many=2)] == [TRACE, None]


def test_a_hanging_collector_delays_neither_answers_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, tiny_settings: Settings, serve: Callable[..., Any], ball: Ball, caplog: pytest.LogCaptureFixture
) -> None:
    with collecting(hanging=True) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        with serve(create_app(tiny_settings)) as client:
            client.post("/v1/classify", content=ball(100)).raise_for_status()
            give_up = time.monotonic() + 15
            while not collector.requests and time.monotonic() < give_up:
                time.sleep(0.01)
            slowest = 0.0
            for _ in range(20):
                began = time.monotonic()
                client.post("/v1/classify", content=ball(100)).raise_for_status()
                slowest = max(slowest, time.monotonic() - began)
            ended = time.monotonic()
        assert time.monotonic() - ended < PROMPT_S  # 2 s for the traces
    assert collector.requests >= 1
    assert slowest < 5.0  # the exporter waits 10 s for an answer
    assert sum(record.getMessage() == "trouble with traces" for record in caplog.records) <= 1


@pytest.mark.e2e
def test_the_program_sends_its_traces_before_it_ends(collector: Collector, tiny_registry: Path, ball: Ball) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}
    variables["OTEL_BSP_SCHEDULE_DELAY"] = "60000"  # by itself it would send them after a minute
    command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), "--model", "tiny"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "answers with tiny" in line, process.communicate()
        httpx.post(f"{line.split()[2]}/v1/classify", content=ball(1000), headers=FROM_CALLER, timeout=30).raise_for_status()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert sorted(span.name for span in collector.spans if span.trace_id.hex() == TRACE) == sorted(["POST /v1/classify", *STAGES])
    [event] = [event for event in map(json.loads, err.splitlines()) if event["event"] == "request"]
    assert (event["trace_id"], event["status"]) == (TRACE, 200)
