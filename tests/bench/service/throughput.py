"""`throughput_vs_plain_fastapi`, `throughput_vs_litserve`: answers a second next to the same model behind each, at no worse p99.

Closed loop, 8 clients, both servers up, rounds in turn, the one that has no turn held still (LitServe takes a core when idle); the peer
with the settings that were best for it, found just before.
"""

import itertools
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx

from service.load.client import load
from service.load.plan import Body, LoadPlan
from tests.bench.service.clouds import objects, ply
from tests.bench.service.peers import peer
from tests.bench.service.process import paused, service
from tests.bench.service.records import keep_series
from tests.bench.service.rows import Row, at_least, at_most, percentile

CLIENTS = 8
ROUNDS, ROUND_S = 7, 8.0
TRIAL_S, WARM_UP_S = 4.0, 1.5
BODIES = 64
SMALL, MIXED = (1024, 4096), (1_000, 50_000)
OURS = "/v1/classify"
THEIRS = "/classify"
P99_RATIO = 1.0

Options = dict[str, float]
FASTAPI: list[Options] = [{"threads": threads, "pool": pool} for threads in (1, 2) for pool in (1, 2, 8)]
LITSERVE: list[Options] = [
    {"batch": batch, "delay": delay, "workers": workers}
    for batch, delay, workers in itertools.product((4, 8, 16), (0.0, 0.002, 0.01), (1, 2))
]
LITSERVE_MORE: list[Options] = [{"threads": 2}, {"fast_queue": True}]  # tried with the best of those


@dataclass
class Side:
    """One of two servers. pid: its first process; rates: answers a second, p99s: milliseconds, of each round."""

    url: str
    path: str
    pid: int
    rates: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)


def rows() -> list[Row]:
    small, mixed = bodies(SMALL), bodies(MIXED)
    found, series = list[Row](), dict[str, list[tuple[int, float]]]()
    for name, kind, tried, more, sent, bar in (
        ("plain_fastapi", "fastapi", FASTAPI, [], small, 1.5),
        ("litserve", "litserve", LITSERVE, LITSERVE_MORE, mixed, 1.1),
    ):
        options, trials = best(kind, tried, more, sent)
        with ExitStack() as up:
            running = up.enter_context(service())
            ours = Side(running.url, OURS, running.process.pid)
            url, pid = up.enter_context(peer(kind, **options))
            theirs = Side(url, THEIRS, pid)
            same = same_labels(ours, theirs, sent)
            alternate(ours, theirs, sent)
        found += compared(name, ours, theirs, bar, same, {"peer_options": options, "peer_trials": trials})
        series |= {f"fip serve ({name})": list(enumerate(ours.rates)), name: list(enumerate(theirs.rates))}
    keep_series("throughput", series)
    return found


def bodies(points: tuple[int, int]) -> tuple[Body, ...]:
    """Binary PLY of clouds of objects, of any size between the two."""
    clouds = objects(BODIES, points)
    return tuple(Body(f"{number}.ply", ply(cloud)) for number, cloud in enumerate(clouds))


def best(kind: str, tried: Sequence[Options], more: Sequence[Options], sent: tuple[Body, ...]) -> tuple[Options, dict[str, float]]:
    """The options with which a peer answers most, and what it did with each."""
    trials: dict[str, float] = {}

    def rate(options: Options) -> float:
        with peer(kind, **options) as (url, pid):
            side = Side(url, THEIRS, pid)
            one_round(side, sent, WARM_UP_S)
            one_round(side, sent, TRIAL_S)
        trials[" ".join(f"{name}={value:g}" for name, value in options.items())] = round(side.rates[-1], 1)
        return side.rates[-1]

    rates = [rate(options) for options in tried]
    chosen, most = tried[rates.index(max(rates))], max(rates)
    for extra in more:
        if (found := rate(chosen | extra)) > most:
            chosen, most = chosen | extra, found
    return chosen, trials


def one_round(side: Side, sent: tuple[Body, ...], seconds: float) -> None:
    """Raises: RuntimeError (anything but answers)."""
    result = load(LoadPlan(side.url, sent, side.path, clients=CLIENTS, duration_s=seconds, seed=len(side.rates)))
    wrong = [record for record in result.records if record.status != 200]
    if wrong:
        raise RuntimeError(f"{side.url}: {len(wrong)} of {len(result.records)} not answered: {wrong[0]}")
    side.rates.append(len(result.records) / result.elapsed_s)
    side.p99s.append(1000 * percentile([record.latency_s for record in result.records], 0.99))


def alternate(ours: Side, theirs: Side, sent: tuple[Body, ...]) -> None:
    """A B A B ...; a first round of each is not counted."""
    for turn in range(1 + ROUNDS):
        for side, other in ((ours, theirs), (theirs, ours)):
            with paused(other.pid):
                one_round(side, sent, ROUND_S if turn else WARM_UP_S)
            if not turn:
                side.rates.clear()
                side.p99s.clear()


def same_labels(ours: Side, theirs: Side, sent: Sequence[Body]) -> int:
    """How many clouds get the same class from both."""
    with httpx.Client(timeout=60) as client:
        found = [[best_class(client, side, body) for body in sent] for side in (ours, theirs)]
    return sum(a == b for a, b in zip(*found, strict=True))


def best_class(client: httpx.Client, side: Side, body: Body) -> int:
    response = client.post(f"{side.url}{side.path}", content=body.data)
    response.raise_for_status()
    return int(response.json()["predictions"][0]["index"])


def compared(name: str, ours: Side, theirs: Side, bar: float, same: int, detail: dict[str, object]) -> list[Row]:
    ratio = statistics.median(ours.rates) / statistics.median(theirs.rates)
    p99 = statistics.median(ours.p99s) / statistics.median(theirs.p99s)
    rounds = {
        "ours_per_s": [round(each, 1) for each in ours.rates],
        "peer_per_s": [round(each, 1) for each in theirs.rates],
    }
    p99s = {"ours_p99_ms": [round(each, 1) for each in ours.p99s], "peer_p99_ms": [round(each, 1) for each in theirs.p99s]}
    row = at_least(f"throughput_vs_{name}", ratio, bar, "x", same_labels=f"{same} of {BODIES}", **rounds, **detail)
    if same != BODIES:
        row["holds"] = False  # a comparison of two different things
    return [row, at_most(f"throughput_vs_{name}_p99_ratio", p99, P99_RATIO, "x", **p99s)]
