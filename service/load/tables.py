"""The summary of a run as tables of text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Numbers = Mapping[str, object]
QUANTILES = ("count", "p50", "p90", "p99", "max")


@dataclass(frozen=True)
class Section:
    """A small table; columns may be empty, rows are not."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> Iterator[str]:
        """As plain text: one line a row, each of which says what it is, so that `grep` finds it."""
        for name, *values in self.rows:
            told = [
                f"{column} {value}" if column else value
                for column, value in zip(self.columns[1:] or [""] * len(values), values, strict=True)
            ]
            yield f"{self.title}: {name}: {', '.join(told)}"


def sections(summary: Numbers) -> list[Section]:
    """What there is to say; tables without rows are left out."""
    latency, stages = _part(summary, "latency_ms"), _part(summary, "stages_ms")
    found = [
        Section("requests", (), tuple(_requests(summary))),
        Section("latency, ms", ("", *QUANTILES), _quantile_rows(latency, QUANTILES)),
        Section("stages, ms", ("", "count", "p50", "p99", "max"), _quantile_rows(stages, ("count", "p50", "p99", "max"))),
        Section("answers", (), _counts(summary, "statuses") + _counts(summary, "codes")),
        Section("no answer", (), _counts(summary, "connection_errors")),
    ]
    return [section for section in found if section.rows]


def _requests(summary: Numbers) -> Iterator[tuple[str, ...]]:
    requests, goodput, late = _part(summary, "requests"), _part(summary, "goodput"), _part(summary, "late")
    malformed, left, again = _part(summary, "malformed"), _part(summary, "disconnected"), _part(summary, "retry_after_s")
    if summary["interrupted"]:
        yield "interrupted", f"after {_text(summary['sending_s'])} s, {summary['interrupted_requests']} in flight"
    if summary["offered_rate"] is not None:
        yield "offered", f"{requests['due']} in {_text(summary['sending_s'])} s, {_text(summary['offered_rate'])}/s"
    yield "sent", f"{requests['sent']}, {_text(summary['sent_rate'])}/s"
    yield "sent late", f"{late['late']} by over {_text(late['over_ms'])} ms, at most {_text(late['max'])} ms"
    yield "answered", f"{requests['answered']}, {_text(summary['answered_rate'])}/s"
    share = goodput["share"]
    within = f" within {_text(goodput['limit_ms'])} ms" if goodput["limit_ms"] is not None else ""
    yield "goodput", f"{'–' if share is None else f'{100 * float(str(share)):.1f} %'} right{within}, {_text(goodput['rate'])}/s"
    if malformed["count"]:
        yield "damaged bodies", f"{malformed['count']}, of which {malformed['accepted']} were accepted"
    if left["count"]:
        yield "departing clients", f"{left['count']}, of which {left['left']} left before the answer"
    if again["count"]:
        yield "Retry-After", f"{again['count']}, p50 {_text(again['p50'])} s, at most {_text(again['max'])} s"
    yield "unexpected 5xx", str(summary["unexpected_5xx"])


def _quantile_rows(groups: Numbers, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    parts = ((group, _part(groups, group)) for group in groups)
    return tuple((group, *(_text(part[name]) for name in names)) for group, part in parts if part["count"])


def _counts(summary: Numbers, name: str) -> tuple[tuple[str, ...], ...]:
    return tuple((key, _text(count)) for key, count in _part(summary, name).items())


def _part(summary: Numbers, name: str) -> Numbers:
    part = summary[name]
    assert isinstance(part, Mapping)
    return part


def _text(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if isinstance(value, float) and value >= 10 else f"{value:.3g}" if isinstance(value, float) else str(value)
