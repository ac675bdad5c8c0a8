"""The summary of a run as tables of text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.load.summary import Quantiles, Summary

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


def sections(summary: Summary) -> list[Section]:
    """What there is to say; tables without rows are left out."""
    found = [
        Section("requests", (), tuple(_requests(summary))),
        Section("latency, ms", ("", *QUANTILES), _quantile_rows(summary["latency_ms"], QUANTILES)),
        Section("stages, ms", ("", "count", "p50", "p99", "max"), _quantile_rows(summary["stages_ms"], ("count", "p50", "p99", "max"))),
        Section("answers", (), _counts(summary["statuses"]) + _counts(summary["codes"])),
        Section("no answer", (), _counts(summary["connection_errors"])),
    ]
    return [section for section in found if section.rows]


def _requests(summary: Summary) -> Iterator[tuple[str, ...]]:
    requests, goodput, late = summary["requests"], summary["goodput"], summary["late"]
    malformed, left, again = summary["malformed"], summary["disconnected"], summary["retry_after_s"]
    if summary["interrupted"]:
        yield "interrupted", f"after {_text(summary['sending_s'])} s, {summary['interrupted_requests']} in flight"
    if summary["offered_rate"] is not None:
        yield "offered", f"{requests['due']} at {_text(summary['offered_rate'])}/s"
    yield "sent", f"{requests['sent']}, {_text(summary['sent_rate'])}/s"
    yield "sent late", f"{late['late']} by over {_text(late['over_ms'])} ms, at most {_text(late['max'])} ms"
    yield "connections", f"{summary['peak_connections']} at once, of {summary['plan']['connections']}"
    yield "answered", f"{requests['answered']}, {_text(summary['answered_rate'])}/s"
    share = goodput["share"]
    within = f" within {_text(goodput['limit_ms'])} ms" if goodput["limit_ms"] is not None else ""
    yield "goodput", f"{'–' if share is None else f'{100 * share:.1f} %'} right{within}, {_text(goodput['rate'])}/s"
    if malformed["count"]:
        yield "damaged bodies", f"{malformed['count']}, of which {malformed['accepted']} were accepted"
    if left["count"]:
        yield "departing clients", f"{left['count']}, of which {left['left']} left before the answer"
    if again["count"]:
        yield "Retry-After", f"{again['count']}, p50 {_text(again['p50'])} s, at most {_text(again['max'])} s"
    if summary["unreadable_2xx"]:
        yield "2xx that are no answers of ours", str(summary["unreadable_2xx"])
    yield "unexpected 5xx", str(summary["unexpected_5xx"])


def _quantile_rows(groups: Mapping[str, Quantiles], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((group, *(_text(found[name]) for name in names)) for group, found in groups.items() if found["count"])


def _counts(counts: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    return tuple((key, str(count)) for key, count in counts.items())


def _text(value: float | None) -> str:
    """Whole numbers as they are, others with three digits or one after the point."""
    if value is None:
        return "–"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"
