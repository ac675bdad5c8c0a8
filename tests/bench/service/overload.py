"""`overload_4x_p99_ratio`, `overload_reject_ms_p99`, `overload_rss_growth`: four times as much as the service can do.

The capacity is what a closed loop gets answered. Then an open loop (Poisson) at 0.8 and at 4 times that, in turn, a minute each. Sizes
are mixed and large, so that it is the service that is busy and not the client beside it on the same cores, and the service stands back
behind the client (`nice`), which elsewhere has cores of its own; how many requests were sent late all the same stands with the rows.
Latencies of answers count from the moment a request was due, of refusals from the moment it was sent: they are about how long a client
that was told no has had to wait for that.
"""

import asyncio
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

from service.load.client import load
from service.load.plan import Body, LoadPlan
from service.load.records import Record
from service.load.summary import LATE_S
from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import Service, service
from tests.bench.service.records import keep_series
from tests.bench.service.rows import Row, at_least, at_most, percentile

WEIGHTS = {2_000: 0.3, 5_000: 0.3, 20_000: 0.25, 50_000: 0.1, 100_000: 0.05}  # points -> share of the requests
CLIENTS, CAPACITY_S = 12, 20.0
PATH = "/v1/classify"
STAND_BACK = 5
CONNECTIONS = 1_500  # below what the service keeps open, and never waited for
BELOW, ABOVE = 0.8, 4.0
REPEATS, WARM_UP_S, PHASE_S = 2, 15.0, 60.0
HONEST = 0.95  # of those who come back when they were told to, so many get in
SETTLED_S = 10.0  # memory is the most of so long before a phase ends
REFUSED = 429
RETURNERS = 256
SAMPLE_S = 0.5
PLOTTED = 200

P99_RATIO, REJECT_MS, GROWTH = 2.0, 50.0, 0.10


@dataclass
class Phase:
    """A minute at some rate. memory: largest of all processes towards its end, bytes; client_cpu: cores that the client took;
    logged_refusals_ms: what the service itself says of them.
    """

    rate: float
    records: tuple[Record, ...]
    memory: int
    client_cpu: float
    logged_refusals_ms: list[float]

    @property
    def accepted_ms(self) -> list[float]:
        return [1000 * record.latency_s for record in self.records if record.status == 200]

    @property
    def refused_ms(self) -> list[float]:
        return [1000 * (record.done_s - (record.sent_s or 0.0)) for record in self.records if record.status == REFUSED]

    @property
    def late(self) -> float:
        """Share of requests that were sent more than 10 ms after they were due."""
        sent = [record for record in self.records if record.sent_s is not None]
        return sum((record.sent_s or 0.0) - record.scheduled_s > LATE_S for record in sent) / max(1, len(sent))


@dataclass
class Run:
    capacity: float
    below: list[Phase] = field(default_factory=list)
    above: list[Phase] = field(default_factory=list)


def rows() -> list[Row]:
    bodies = tuple(Body(f"{points}.ply", ply(ball(points)), weight) for points, weight in WEIGHTS.items())
    with service(nice=STAND_BACK) as running:
        run = Run(capacity(running, bodies))
        phase(running, bodies, BELOW * run.capacity, WARM_UP_S, 0)
        for turn in range(REPEATS):
            run.below.append(phase(running, bodies, BELOW * run.capacity, PHASE_S, 1 + turn))
            run.above.append(phase(running, bodies, ABOVE * run.capacity, PHASE_S, 101 + turn))
        first, returned = asyncio.run(returning(running, bodies[0].data))
    series = {
        f"answers at {BELOW:g} x capacity": spread([ms for each in run.below for ms in each.accepted_ms]),
        f"answers at {ABOVE:g} x capacity": spread([ms for each in run.above for ms in each.accepted_ms]),
        f"refusals at {ABOVE:g} x capacity": spread([ms for each in run.above for ms in each.refused_ms]),
    }
    keep_series("overload", series)
    back = sum(status == 200 for status in returned) / len(returned) if returned else float("nan")
    honest = at_least(
        "overload_retry_after_honest", back, HONEST, burst=RETURNERS, refused_first=len(returned), then=dict(Counter(map(str, returned)))
    )
    return [*bars(run), honest | {"answered_first": first}]


def bars(run: Run) -> list[Row]:
    below, above = (statistics.median(percentile(each.accepted_ms, 0.99) for each in phases) for phases in (run.below, run.above))
    refused = [ms for each in run.above for ms in each.refused_ms]
    before, after = run.below[0].memory, max(each.memory for each in run.above)
    others = Counter(
        str(record.status) for each in (*run.below, *run.above) for record in each.records if record.status not in (200, REFUSED)
    )
    silent = sum(record.status == REFUSED and record.retry_after_s is None for each in run.above for record in each.records)
    detail: dict[str, object] = {
        "capacity_per_s": round(run.capacity, 1),
        "accepted_p99_ms": {"below": round(below, 1), "above": round(above, 1)},
        "answered_per_s": {"below": per_second(run.below), "above": per_second(run.above)},
        "refused_share": {"below": share_refused(run.below), "above": share_refused(run.above)},
        "sent_late": {"below": round(max(each.late for each in run.below), 4), "above": round(max(each.late for each in run.above), 4)},
        "client_cores": {"below": cores(run.below), "above": cores(run.above)},
        "other_statuses": dict(others),
    }
    logged = percentile([ms for each in run.above for ms in each.logged_refusals_ms], 0.99)
    told_of = {"refused": len(refused), "without_retry_after": silent, "p99_ms_in_its_log": round(logged, 2)}
    reject = at_most("overload_reject_ms_p99", percentile(refused, 0.99), REJECT_MS, "ms", **told_of)
    if silent:
        reject["holds"] = False
    ratio = at_most("overload_4x_p99_ratio", above / below, P99_RATIO, "x", **detail)
    if others:
        ratio["holds"] = False  # a request was neither answered nor politely refused
    growth = at_most(
        "overload_rss_growth", after / before - 1, GROWTH, "", before_mb=round(before / 1e6, 1), after_mb=round(after / 1e6, 1)
    )
    return [ratio, reject, growth]


def capacity(running: Service, bodies: tuple[Body, ...]) -> float:
    """Answers a second to clients that each wait for theirs; refusals, if there are any, do not count."""
    load(LoadPlan(running.url, bodies, PATH, clients=CLIENTS, duration_s=CAPACITY_S / 4))
    result = load(LoadPlan(running.url, bodies, PATH, clients=CLIENTS, duration_s=CAPACITY_S, seed=1))
    return sum(record.status == 200 for record in result.records) / result.elapsed_s


def phase(running: Service, bodies: tuple[Body, ...], rate: float, seconds: float, seed: int) -> Phase:
    since, cpu_s = running.log_size(), time.process_time()
    with sampled(running) as samples:
        result = load(LoadPlan(running.url, bodies, PATH, rate=rate, duration_s=seconds, seed=seed, connections=CONNECTIONS))
        ended = time.monotonic()
    client_cpu = (time.process_time() - cpu_s) / result.elapsed_s
    towards_end = [memory for moment, memory in samples if ended - SETTLED_S <= moment <= ended]
    logged = [float(str(each["ms"])) for each in running.events("request", since) if each["status"] == REFUSED]
    return Phase(rate, result.records, max(towards_end or [running.memory_bytes()]), client_cpu, logged)


@contextmanager
def sampled(running: Service) -> Iterator[list[tuple[float, int]]]:
    """Memory of the service every half second, as (moment, bytes), while the context lasts."""
    samples: list[tuple[float, int]] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            samples.append((time.monotonic(), running.memory_bytes()))

    watching = threading.Thread(target=sample)
    watching.start()
    try:
        yield samples
    finally:
        done.set()
        watching.join()


async def returning(running: Service, body: bytes) -> tuple[int, list[int]]:
    """A burst of clients, of whom those that are refused come back when they were told to: how many were answered at once, and the
    statuses of those that came back.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(running.url, connector=connector) as session:

        async def post() -> tuple[int, float]:
            async with session.post("/v1/classify", data=body) as response:
                await response.read()
                return response.status, float(response.headers.get("Retry-After", "0"))

        async def client() -> tuple[int, int | None]:
            status, wait_s = await post()
            if status != REFUSED:
                return status, None
            await asyncio.sleep(wait_s)
            return status, (await post())[0]

        found = await asyncio.gather(*(client() for _ in range(RETURNERS)))
    return sum(status == 200 for status, _ in found), [again for _, again in found if again is not None]


def cores(phases: list[Phase]) -> float:
    return round(statistics.median(each.client_cpu for each in phases), 2)


def per_second(phases: list[Phase]) -> float:
    return round(sum(len(each.accepted_ms) for each in phases) / (PHASE_S * len(phases)), 1)


def share_refused(phases: list[Phase]) -> float:
    return round(sum(len(each.refused_ms) for each in phases) / sum(len(each.records) for each in phases), 4)


def spread(values: list[float]) -> list[list[float]]:
    """Points of their distribution: (value, share of them that is no larger)."""
    shares = [(number + 1) / PLOTTED for number in range(PLOTTED)] if values else []
    return [[percentile(values, share), share] for share in shares]
