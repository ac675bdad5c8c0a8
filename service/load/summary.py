"""The numbers of a run. Percentiles are numpy's (linear between neighbours), latencies are from the moment a request was due."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from service.load.plan import LoadPlan
    from service.load.records import LoadResult, Record

LATE_S = 0.010  # a timer of the event loop alone is up to 1 ms late
BUSY = (429, 503)
EXPIRED = 504
STAGE = re.compile(r"([A-Za-z0-9_-]+);dur=([0-9.]+)")
GROUPS = ("accepted", "rejected", "expired", "refused")

Quantiles = dict[str, float | None]  # count, p50, ..., max; of nothing None, and count 0


class Requests(TypedDict):
    due: int
    sent: int
    answered: int


class Late(TypedDict):
    """How much later than due requests were sent, ms; late: how many by more than over_ms."""

    over_ms: float
    late: int
    p50: float | None
    p99: float | None
    max: float | None


class Goodput(TypedDict):
    limit_ms: float | None
    count: int
    share: float | None
    rate: float | None


class MalformedCounts(TypedDict):
    """statuses: by kind of damage, then by status."""

    count: int
    accepted: int
    statuses: dict[str, dict[str, int]]


class DisconnectedCounts(TypedDict):
    """left: before the answer; the others were answered first, or failed."""

    count: int
    left: int
    answered: int


class Summary(TypedDict):
    """Ready for JSON. Rates are per second; latency_ms is by GROUPS, stages_ms by stage of Server-Timing."""

    plan: dict[str, object]
    interrupted: bool
    sending_s: float
    elapsed_s: float
    requests: Requests
    offered_rate: float | None
    sent_rate: float | None
    answered_rate: float | None
    late: Late
    peak_connections: int
    goodput: Goodput
    statuses: dict[str, int]
    codes: dict[str, int]
    latency_ms: dict[str, Quantiles]
    stages_ms: dict[str, Quantiles]
    retry_after_s: Quantiles
    malformed: MalformedCounts
    disconnected: DisconnectedCounts
    connection_errors: dict[str, int]
    interrupted_requests: int
    unexpected_5xx: int
    unreadable_2xx: int


def summarize(result: "LoadResult", goodput_ms: float | None = None) -> Summary:
    """The numbers of a run; those of nothing are None.

    latency_ms has four groups of answers to clients that stayed: accepted (2xx), rejected (429, 503: too busy), expired (504) and
    refused (other 4xx: the file cannot be used). Good are 2xx to whole files and refusals of damaged ones, within `goodput_ms`;
    their share is of all whose client stayed.
    """
    records, plan = result.records, result.plan
    sent = [record for record in records if record.sent_s is not None]
    answered = [record for record in records if record.status]
    stayed = [record for record in records if record.kind != "disconnected"]
    good = [record for record in stayed if is_right(record) and (goodput_ms is None or record.latency_s * 1000 <= goodput_ms)]
    return {
        "plan": describe(plan),
        "interrupted": result.interrupted,
        "sending_s": round(result.sending_s, 3),
        "elapsed_s": round(result.elapsed_s, 3),
        "requests": {"due": len(records), "sent": len(sent), "answered": len(answered)},
        "offered_rate": None if plan.clients else _rate(len(records), result.sending_s if result.interrupted else plan.duration_s),
        "sent_rate": _rate(len(sent), max([result.sending_s, *(record.sent_s or 0.0 for record in sent)])),
        "answered_rate": _rate(len(answered), result.elapsed_s),
        "late": _late(sent),
        "peak_connections": result.peak_connections,
        "goodput": {
            "limit_ms": goodput_ms,
            "count": len(good),
            "share": _share(len(good), len(stayed)),
            "rate": _rate(len(good), result.elapsed_s),
        },
        "statuses": _counts(str(record.status) for record in answered),
        "codes": _counts(record.code for record in answered if record.code),
        "latency_ms": {name: quantiles(latencies_ms(stayed, name), (50, 90, 99)) for name in GROUPS},
        "stages_ms": stages_ms(record for record in stayed if 200 <= record.status < 300),
        "retry_after_s": quantiles([record.retry_after_s for record in answered if record.retry_after_s is not None], (50,)),
        "malformed": _malformed([record for record in records if record.kind == "malformed"]),
        "disconnected": _disconnected([record for record in records if record.kind == "disconnected"]),
        "connection_errors": _counts(record.error for record in records if record.error and record.error != "interrupted"),
        "interrupted_requests": sum(record.error == "interrupted" for record in records),
        "unexpected_5xx": sum(is_unexpected(record) for record in answered),
        "unreadable_2xx": sum(not record.readable for record in answered),
    }


def describe(plan: "LoadPlan") -> dict[str, object]:
    """A plan without the contents of its bodies."""
    pace = {"clients": plan.clients} if plan.clients else {"arrivals": plan.arrivals, "rate": plan.rate, "ramp": plan.ramp}
    bodies = [{"name": body.name, "bytes": len(body.data), "weight": body.weight} for body in plan.bodies]
    names = ("duration_s", "seed", "disconnect", "malformed", "timeout_s", "connections", "patience_s")
    rest = {name: getattr(plan, name) for name in names}
    return {"url": plan.url, "path": plan.path, "query": dict(plan.query), "bodies": bodies, **pace, **rest}


def group_of(record: "Record") -> str | None:
    """One of GROUPS; None without an answer, and for 5xx that are none of them."""
    return group_of_status(record.status)


def group_of_status(status: int) -> str | None:
    if status in BUSY:
        return "rejected"
    if status == EXPIRED:
        return "expired"
    return {2: "accepted", 4: "refused"}.get(status // 100)


def is_right(record: "Record") -> bool:
    """A 2xx for a whole file, with an answer that can be read, a refusal for a damaged one."""
    return group_of(record) == "refused" if record.kind == "malformed" else record.accepted


def is_unexpected(record: "Record") -> bool:
    """A 5xx other than a problem document that says to come back later or that time is up."""
    return record.status >= 500 and not (record.status in (*BUSY, EXPIRED) and record.code)


def latencies_ms(records: Iterable["Record"], group: str) -> list[float]:
    return [record.latency_s * 1000 for record in records if group_of(record) == group]


def quantiles(values: Sequence[float], percents: Sequence[int]) -> Quantiles:
    """count, p50 and so on, max."""
    names = [*(f"p{percent}" for percent in percents), "max"]
    found = np.percentile(values, [*percents, 100]).tolist() if values else [None] * len(names)
    rounded = (None if value is None else round(value, 3) for value in found)
    return {"count": len(values), **dict(zip(names, rounded, strict=True))}


def stages_ms(records: Iterable["Record"]) -> dict[str, Quantiles]:
    """By stage of Server-Timing."""
    stages: defaultdict[str, list[float]] = defaultdict(list)
    for record in records:
        for stage, milliseconds in STAGE.findall(record.server_timing or ""):
            stages[stage].append(float(milliseconds))
    return {stage: quantiles(values, (50, 99)) for stage, values in stages.items()}


def _late(sent: Sequence["Record"]) -> Late:
    late_ms = [((record.sent_s or 0.0) - record.scheduled_s) * 1000 for record in sent]
    found = quantiles(late_ms, (50, 99))
    over_ms = LATE_S * 1000
    return {
        "over_ms": over_ms,
        "late": sum(each > over_ms for each in late_ms),
        "p50": found["p50"],
        "p99": found["p99"],
        "max": found["max"],
    }


def _malformed(records: Sequence["Record"]) -> MalformedCounts:
    by_damage: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        by_damage[record.damage or ""][str(record.status)] += 1
    accepted = sum(group_of(record) == "accepted" for record in records)
    return {"count": len(records), "accepted": accepted, "statuses": {damage: dict(counts) for damage, counts in sorted(by_damage.items())}}


def _disconnected(records: Sequence["Record"]) -> DisconnectedCounts:
    left = sum(record.status == 0 and record.sent_s is not None and record.error is None for record in records)
    return {"count": len(records), "left": left, "answered": sum(record.status > 0 for record in records)}


def _counts(values: Iterable[str | None]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items(), key=lambda each: str(each[0]))}


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if seconds > 0 else None


def _share(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None
