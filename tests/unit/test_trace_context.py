"""W3C traceparent and tracestate, against the wording of the standard."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.trace_context import TraceParent, format_traceparent, join_tracestate, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def hex_digits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=count, max_size=count)


ids = st.tuples(hex_digits(32), hex_digits(16)).filter(lambda pair: pair[0].strip("0") and pair[1].strip("0"))
parents = st.builds(lambda pair, flags: TraceParent(pair[0], pair[1], flags), ids, st.integers(0, 3))


@given(parents)
def test_what_is_written_is_read_back(parent: TraceParent) -> None:
    assert parse_traceparent(format_traceparent(parent)) == parent


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    assert parse_traceparent(text) is None


@given(parents, st.integers(0, 54), st.characters(codec="latin-1").filter(lambda character: character not in "0123456789abcdef-"))
def test_a_wrong_character_anywhere_is_refused(parent: TraceParent, place: int, wrong: str) -> None:
    header = format_traceparent(parent)
    damaged = header[:place] + wrong + header[place + 1 :]
    assert parse_traceparent(damaged) is None


@given(parents, st.integers(0, 54))
def test_a_header_cut_short_is_refused(parent: TraceParent, length: int) -> None:
    assert parse_traceparent(format_traceparent(parent)[:length]) is None


@given(parents, st.integers(1, 0xFE), st.text(string.printable))
def test_future_versions_are_read_as_the_first(parent: TraceParent, version: int, appended: str) -> None:
    header = f"{version:02x}{format_traceparent(parent)[2:]}"
    assert parse_traceparent(header) == parent
    assert parse_traceparent(f"{header}-{appended}") == parent
    assert parse_traceparent(f"{header}.{appended}") is None


@given(parents, st.integers(0, 0xFF))
def test_flags_that_nobody_knows_are_not_passed_on(parent: TraceParent, flags: int) -> None:
    read = parse_traceparent(f"00-{parent.trace_id}-{parent.span_id}-{flags:02x}")
    assert read is not None
    assert (read.sampled, read.flags) == (bool(flags & 1), flags & 3)


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE[:-1]}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"٠٠-{TRACE}-{SPAN}-01",
    ],
)
def test_headers_to_ignore(header: str) -> None:
    assert parse_traceparent(header) is None


def test_blanks_around_it_do_not_matter() -> None:
    assert parse_traceparent(f"\t 00-{TRACE}-{SPAN}-01 ") == TraceParent(TRACE, SPAN, 1)


@given(st.lists(st.text(string.ascii_letters + string.digits + "=@_/*- ", min_size=1), min_size=1))
def test_tracestate_is_passed_on_unchanged_or_not_at_all(headers: list[str]) -> None:
    joined = ",".join(headers)
    assert join_tracestate(headers) == (joined if len(joined) <= 512 else None)


@pytest.mark.parametrize("headers", [[], [""], ["a=\n"], ["a=é"], ["a=" + "b" * 511]])
def test_tracestate_to_ignore(headers: list[str]) -> None:
    assert join_tracestate(headers) is None


def test_the_longest_tracestate() -> None:
    assert join_tracestate(["a=" + "b" * 510]) == "a=" + "b" * 510
