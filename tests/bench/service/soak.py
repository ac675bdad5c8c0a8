"""`soak_rss_mb_per_1e4`, `soak_descriptor_growth`, `soak_unexpected_5xx`: 100,000 mixed requests, and what they leave behind.

A fifth of the bodies is damaged, a tenth of the clients leaves before its answer; both tasks, several formats and sizes. After each
thousand requests, when all have ended and what was freed has gone back to the system, memory and descriptors of all processes of the
service are read.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from service import memory
from service.load.client import run_load
from service.load.plan import Body, LoadPlan
from service.load.records import LoadResult
from service.load.summary import is_unexpected
from tests.bench.service import clouds
from tests.bench.service.process import Service, service
from tests.bench.service.records import FOLDER, keep, keep_series
from tests.bench.service.rows import Row, at_most, exactly

REQUESTS, EVERY = 100_000, 1_000
MALFORMED, DISCONNECT = 0.2, 0.1
SETTLED = 0.2  # share of the requests after which the slope begins
CLASSIFYING, SEGMENTING = 6, 2  # clients
FIRST_STEP_S, MOST_STEP_S = 5.0, 60.0
POLL_S = 0.15
GIVEN_BACK_S = memory.EVERY_S + 0.5
KEPT_EVERY = 2_000
BAR_MB = 1.0
SIZES = {256: 0.3, 1_024: 0.4, 4_096: 0.2, 20_000: 0.08, 60_000: 0.02}  # points -> share
TEXTS = ("xyz", "off")  # not of the largest sizes: slow to read

Pairs = list[list[float]]


@dataclass
class Samples:
    """memory: (requests so far, bytes); descriptors: the same with their number."""

    memory: list[tuple[int, int]] = field(default_factory=list)
    descriptors: list[tuple[int, int]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: int = 0
    requests: int = 0

    def take(self, result: LoadResult) -> None:
        self.requests += len(result.records)
        self.statuses.update(str(record.status) for record in result.records if record.status)
        self.errors.update(record.error for record in result.records if record.error)
        self.unexpected += sum(is_unexpected(record) for record in result.records)


def rows(requests: int = REQUESTS) -> list[Row]:
    samples = Samples()
    began = time.monotonic()
    with service() as running:
        asyncio.run(soak(running, requests, samples))
    settled = [pair for pair in samples.memory if pair[0] >= SETTLED * samples.requests]
    slope, start = np.polyfit([count for count, _ in settled], [size / 1e6 for _, size in settled], 1)
    if requests == REQUESTS:
        keep_series("soak", {"measured": in_mb(samples.memory), "slope": [[n, start + slope * n] for n in (settled[0][0], settled[-1][0])]})
    before = next(count for number, count in samples.descriptors if number >= SETTLED * samples.requests)
    detail = {"requests": samples.requests, "seconds": round(time.monotonic() - began), "statuses": dict(samples.statuses)}
    detail |= {"first_mb": samples.memory[0][1] / 1e6, "last_mb": samples.memory[-1][1] / 1e6, "samples": len(samples.memory)}
    after = samples.descriptors[-1][1]
    return [
        at_most("soak_rss_mb_per_1e4", slope * 1e4, BAR_MB, "MB", **detail),
        exactly("soak_descriptor_growth", after - before, 0, before=before, after=after),
        exactly("soak_unexpected_5xx", samples.unexpected, 0, connection_errors=dict(samples.errors)),
    ]


async def soak(running: Service, requests: int, samples: Samples) -> None:
    """Load in steps of about EVERY requests, and a sample after each."""
    to_classify, to_segment = bodies(clouds.ball, 0), bodies(clouds.street, 1)
    seconds, kept, seed = FIRST_STEP_S, 0, 0
    while samples.requests < requests:
        before, began, seed = samples.requests, time.monotonic(), seed + 1
        common = {"duration_s": seconds, "malformed": MALFORMED, "disconnect": DISCONNECT, "seed": seed}
        queries: tuple[Mapping[str, str], ...] = ({}, {"format": "npz"}, {"format": "raw"}, {"format": "ply"})
        both = (
            LoadPlan(running.url, to_classify, "/v1/classify", clients=CLASSIFYING, **common),
            LoadPlan(running.url, to_segment, "/v1/segment", queries[seed % len(queries)], clients=SEGMENTING, **common),
        )
        for result in await asyncio.gather(*map(run_load, both)):
            samples.take(result)
        rate = (samples.requests - before) / (time.monotonic() - began)
        seconds = min(MOST_STEP_S, EVERY / rate)
        samples.descriptors.append((samples.requests, await quietest(running.descriptors)))
        await asyncio.sleep(GIVEN_BACK_S)
        samples.memory.append((samples.requests, running.memory_bytes()))
        if samples.requests - kept >= KEPT_EVERY:
            kept = samples.requests
            keep(FOLDER / "soak-samples.json", {"requests": kept, "memory": samples.memory, "descriptors": samples.descriptors})


async def quietest(count: Callable[[], int], looks: int = 2) -> int:
    """The least of a few looks: what was being closed is not a leak."""
    found = []
    for _ in range(looks):
        await asyncio.sleep(POLL_S)
        found.append(count())
    return min(found)


def bodies(make: Callable[[int, int], clouds.Cloud], seed: int) -> tuple[Body, ...]:
    """A file of each size in each format; those of text up to 4,096 points."""
    found = []
    for points, share in SIZES.items():
        formats = [name for name in clouds.FORMATS if points <= 4096 or name not in TEXTS]
        found += [Body(f"{points}.{name}", clouds.FORMATS[name](make(points, seed)), share / len(formats)) for name in formats]
    return tuple(found)


def in_mb(pairs: list[tuple[int, int]]) -> Pairs:
    return [[count, round(size / 1e6, 2)] for count, size in pairs]
