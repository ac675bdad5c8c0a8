"""The numbers of a run, from records written by hand, against numpy."""

import json

import numpy as np
import pytest

from service.load.plan import Body, LoadPlan
from service.load.plot import picture
from service.load.records import LoadResult, Record
from service.load.summary import Summary
from service.load.tables import sections

PLAN = LoadPlan("http://localhost", (Body("a.ply", b"ply"),), rate=10, duration_s=10)


def record(due: float = 0.0, latency: float = 0.1, status: int = 200, **rest: object) -> Record:
    """One that was sent 1 ms after it was due."""
    values: dict[str, object] = {
        "request_id": "x-1",
        "scheduled_s": due,
        "sent_s": due + 0.001,
        "first_byte_s": due + latency / 2,
        "done_s": due + latency,
        "status": status,
        "code": None,
        "body": "a.ply",
        "kind": "whole",
    }
    return Record(**(values | rest))


def summary(*records: Record, plan: LoadPlan = PLAN, goodput_ms: float | None = None) -> Summary:
    return LoadResult(plan, records, elapsed_s=10.0, sending_s=10.0).summary(goodput_ms)


def test_latencies_of_each_group_are_numpys_percentiles() -> None:
    rng = np.random.default_rng(0)
    latencies = {"accepted": rng.exponential(0.2, 101), "rejected": rng.exponential(0.01, 50), "refused": rng.exponential(0.02, 7)}
    statuses = {"accepted": [200], "rejected": [429, 503], "refused": [400, 413, 422]}
    made = [record(i, each, statuses[group][i % len(statuses[group])]) for group, all in latencies.items() for i, each in enumerate(all)]
    made.append(record(0, 99.0, kind="disconnected", sent_s=0.0))  # its latency says nothing: only the fast ones are answered
    found = summary(*made)["latency_ms"]
    for group, values in latencies.items():
        expected = np.percentile(values * 1000, [50, 90, 99, 100])
        assert found[group]["count"] == len(values)
        np.testing.assert_allclose([found[group][name] for name in ("p50", "p90", "p99", "max")], expected, atol=0.001)
    assert found["expired"] == {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}


def test_latency_is_counted_from_the_moment_a_request_was_due() -> None:
    held_up = record(due=1.0, latency=3.0, sent_s=3.9)  # the answer itself took 0.1 s
    found = summary(held_up)
    assert found["latency_ms"]["accepted"]["p50"] == 3000
    assert (found["late"]["late"], found["late"]["max"]) == (1, 2900)


def test_goodput_asks_for_the_right_answer_in_time() -> None:
    found = summary(
        record(latency=0.1),
        record(latency=0.6),  # too late
        record(latency=0.1, status=429, code="overloaded"),
        record(latency=0.1, status=0, error="ServerDisconnectedError"),
        record(latency=0.1, status=400, kind="malformed", damage="cut", code="truncated_file"),
        record(latency=0.1, status=200, kind="malformed", damage="random"),  # wrong
        record(latency=0.1, status=429, kind="malformed", damage="cut", code="overloaded"),
        record(latency=0.1, status=400, code="bad_header"),  # wrong: the file was whole
        record(latency=0.1, status=0, kind="disconnected"),  # does not count
        goodput_ms=500,
    )
    assert found["goodput"] == {"limit_ms": 500, "count": 2, "share": 0.25, "rate": 0.2}
    assert found["malformed"] == {"count": 3, "accepted": 1, "statuses": {"cut": {"400": 1, "429": 1}, "random": {"200": 1}}}
    assert found["disconnected"] == {"count": 1, "left": 1, "answered": 0}
    assert found["connection_errors"] == {"ServerDisconnectedError": 1}
    assert found["statuses"] == {"200": 3, "400": 2, "429": 2}
    assert found["codes"] == {"bad_header": 1, "overloaded": 2, "truncated_file": 1}


def test_without_a_limit_every_right_answer_is_good() -> None:
    assert summary(record(latency=50.0))["goodput"]["share"] == 1.0


@pytest.mark.parametrize(
    ("status", "code", "unexpected"),
    [
        (500, "internal_error", 1),
        (502, None, 1),
        (507, "spool_full", 1),
        (503, None, 1),
        (503, "not_ready", 0),
        (504, "deadline_exceeded", 0),
    ],
)
def test_a_5xx_is_unexpected_unless_it_says_to_come_back_or_that_time_is_up(status: int, code: str | None, unexpected: int) -> None:
    assert summary(record(status=status, code=code))["unexpected_5xx"] == unexpected


def test_rates() -> None:
    found = summary(*(record(due=i / 10) for i in range(79)), record(due=7.9, status=0, sent_s=None, error="interrupted"))
    assert (found["offered_rate"], found["sent_rate"], found["answered_rate"]) == (8.0, 7.9, 7.9)
    assert found["requests"] == {"due": 80, "sent": 79, "answered": 79}
    assert found["interrupted_requests"] == 1


def test_rates_of_a_run_that_fell_behind_or_was_ended() -> None:
    records = tuple(record(due=i / 10) for i in range(100))
    behind = LoadResult(PLAN, records, elapsed_s=25.0, sending_s=20.0).summary()
    assert (behind["offered_rate"], behind["sent_rate"], behind["answered_rate"]) == (10.0, 5.0, 4.0)
    ended = LoadResult(PLAN, records[:50], elapsed_s=5.0, sending_s=5.0, interrupted=True).summary()
    assert (ended["offered_rate"], ended["sent_rate"], ended["answered_rate"]) == (10.0, 10.0, 10.0)


def test_stages_are_read_from_server_timing() -> None:
    told = [record(server_timing=f"read;dur={i}.5, forward;dur={10 * i}") for i in range(5)]
    refused = record(status=400, server_timing="read;dur=1000")
    assert summary(*told, refused)["stages_ms"] == {
        "read": {"count": 5, "p50": 2.5, "p99": 4.46, "max": 4.5},
        "forward": {"count": 5, "p50": 20.0, "p99": 39.6, "max": 40.0},
    }


def test_retry_after() -> None:
    found = summary(record(status=429, retry_after_s=1.0), record(status=429, retry_after_s=3.0), record())
    assert found["retry_after_s"] == {"count": 2, "p50": 2.0, "max": 3.0}


def test_an_empty_run_has_a_summary() -> None:
    found = LoadResult(PLAN, (), elapsed_s=0.0, sending_s=0.0, interrupted=True).summary(500)
    assert found["requests"] == {"due": 0, "sent": 0, "answered": 0}
    assert (found["offered_rate"], found["goodput"]["share"], found["latency_ms"]["accepted"]["p99"]) == (None, None, None)
    lines = [line for section in sections(found) for line in section.lines()]
    assert "requests: interrupted: after 0 s, 0 in flight" in lines


def test_the_summary_is_json_and_holds_no_contents() -> None:
    text = json.dumps(summary(record(), plan=LoadPlan("http://localhost", (Body("a.ply", b"SECRET"),), clients=3)))
    assert json.loads(text)["plan"]["bodies"] == [{"name": "a.ply", "bytes": 6, "weight": 1.0}]
    assert "SECRET" not in text


def test_plain_lines_say_what_they_are() -> None:
    lines = [
        line for section in sections(summary(record(), record(status=429, code="overloaded"), goodput_ms=500)) for line in section.lines()
    ]
    assert "latency, ms: accepted: count 1, p50 100, p90 100, p99 100, max 100" in lines
    assert "requests: goodput: 50.0 % right within 500 ms, 0.1/s" in lines
    assert "answers: overloaded: 1" in lines
    assert not any(line.startswith("no answer") for line in lines)


def test_a_2xx_that_is_no_answer_of_ours_is_not_right() -> None:
    found = summary(record(), record(readable=False))
    assert (found["goodput"]["share"], found["unreadable_2xx"]) == (0.5, 1)
    assert "requests: 2xx that are no answers of ours: 1" in [line for section in sections(found) for line in section.lines()]


@pytest.mark.parametrize(
    ("records", "right"),
    [
        ([record(), record(status=404)], True),
        ([record(status=404), record(status=429)], False),
        ([record(readable=False)], False),
        ([record(status=404), record(status=404, kind="malformed")], False),  # nobody looked at the damaged one
        ([record(status=400, kind="malformed")], True),  # nothing else was sent
        ([record(status=0, kind="disconnected")], False),
        ([], False),
    ],
)
def test_a_run_succeeds_with_one_right_answer_to_a_whole_file(records: list[Record], right: bool) -> None:
    assert LoadResult(PLAN, tuple(records), elapsed_s=1.0, sending_s=1.0).any_right is right


def test_legends_cover_no_data() -> None:
    statuses = (200, 400, 404, 415, 422, 429, 500, 503, 504, 0)
    figure = picture(
        LoadResult(PLAN, tuple(record(i, 0.1 + i, status) for i, status in enumerate(statuses)), elapsed_s=20.0, sending_s=10.0)
    )
    figure.draw_without_rendering()
    legends = [(axes.bbox, legend.get_window_extent()) for axes in figure.axes if (legend := axes.get_legend())]
    assert len(legends) == 2
    for inside, box in legends:
        assert box.y0 >= inside.y1 - 1
        assert box.x0 >= 0
    assert not any(box.overlaps(other.bbox) for _, box in legends for other in figure.axes)
