"""`models_100_*`: a hundred models of 3 MB (in memory) under a budget of 60 MB, asked for at random, and one asked for all the time.

The warm model is asked at a steady rate by itself, and then in turns while requests for other models come that are all in memory, and while
as many come for any of the hundred, most of which have to be loaded. What loading does to it is the ratio of the last two, over all rounds.
"""

import asyncio
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx

from models.artefact import WEIGHTS
from models.registry import publish_as
from models.registry.catalogue import BUNDLED
from models.registry.local import LocalRegistry
from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import Service, service
from tests.bench.service.rows import Row, at_least, at_most, exactly, percentile, told
from tests.published import Answer, ask, shifted, steadily

MODELS, BUDGET = 100, 60_000_000
WARM_RATE, OTHER_RATE, POINTS = 20.0, 5.0, 1024
SECONDS, ROUNDS = 20.0, 3
HOT = 8  # others that fit into memory beside the warm one
BAR = 1.25
CLOSE = 0.01  # steps: answers in other company differ by rounding


@dataclass(frozen=True)
class Phase:
    warm: list[Answer]
    others: list[Answer]

    def __add__(self, other: "Phase") -> "Phase":
        return Phase(self.warm + other.warm, self.others + other.others)


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        registry = LocalRegistry(Path(folder) / "registry")
        registry.root.mkdir()
        for number in range(MODELS):
            publish_as(registry, shifted(BUNDLED / "modelnet40" / "1", Path(folder) / str(number), number), name(number), "champion")
        size = (registry.root / name(0) / "1" / WEIGHTS).stat().st_size
        environment = {"FIP_REGISTRY": registry.address, "FIP_MODEL": name(0), "FIP_MODEL_MEMORY_BYTES": str(BUDGET)}
        with service(**environment) as running:
            first, second = (asyncio.run(one(running, number)).logit for number in (0, 1))
            alone, resident, churned = asyncio.run(phase(running, (), 0)), Phase([], []), Phase([], [])
            for turn in range(ROUNDS):
                resident += asyncio.run(phase(running, range(1, HOT + 1), turn))
                churned += asyncio.run(phase(running, range(1, MODELS), turn))
            peak, held = running.metric("fip_model_memory_peak_bytes"), running.metric("fip_model_memory_bytes")
            loads, evictions = running.metric("fip_model_loads_total"), running.metric("fip_model_evictions_total")
    asked = [*resident.warm, *resident.others, *churned.warm, *churned.others, *alone.warm]
    wrong = [answer for answer in asked if not is_right(answer, first, second - first)]
    statuses = sorted({answer.status for answer in wrong})
    p99 = {kind: p99_ms(each.warm) for kind, each in (("alone", alone), ("resident", resident), ("churned", churned))}
    return [
        exactly("models_100_wrong_answers", len(wrong), 0, requests=len(asked), statuses=statuses, weights_bytes=size),
        at_most("models_100_peak_share_of_budget", peak / BUDGET, 1, held_bytes=held, loads=loads, evictions=evictions),
        at_most(
            "models_100_warm_p99_ratio", p99["churned"] / p99["resident"], BAR, "x", **{f"{kind}_ms": each for kind, each in p99.items()}
        ),
        told("models_100_cold_p50_ms", p50_ms(churned.others), "ms", p99_ms=p99_ms(churned.others)),
        at_least("models_100_loads", loads, MODELS),
    ]


async def phase(running: Service, others: range | tuple[()], seed: int) -> Phase:
    """The warm model steadily, and others at random."""
    stop, body = asyncio.Event(), ply(ball(POINTS))
    warm = asyncio.create_task(steadily(running.url, body, name(0), WARM_RATE, stop))
    found = await at_random(running.url, body, others, seed) if others else await asyncio.sleep(SECONDS, [])
    stop.set()
    return Phase(await warm, found)


async def at_random(url: str, body: bytes, numbers: range, seed: int) -> list[Answer]:
    rng, began, asked = random.Random(seed), monotonic(), list[asyncio.Task[Answer]]()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while monotonic() < began + SECONDS:
            asked.append(asyncio.create_task(ask(client, body, name(rng.choice(numbers)))))
            await asyncio.sleep(rng.expovariate(OTHER_RATE))
        return list(await asyncio.gather(*asked))


async def one(running: Service, number: int) -> Answer:
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        return await ask(client, ply(ball(POINTS)), name(number))


def name(number: int) -> str:
    return f"model-{number}"


def is_right(answer: Answer, first: float, step: float) -> bool:
    """Whether the model that was asked for answered, and with its own logit: each model's is larger by the same step."""
    if answer.status != 200 or answer.model != f"{answer.asked}:1":
        return False
    number = int(str(answer.asked).removeprefix("model-"))
    return abs(answer.logit - first - number * step) < CLOSE * step


def p50_ms(answers: list[Answer]) -> float:
    return round(1000 * percentile([answer.ended_s - answer.began_s for answer in answers], 0.5), 2)


def p99_ms(answers: list[Answer]) -> float:
    return round(1000 * percentile([answer.ended_s - answer.began_s for answer in answers], 0.99), 2)
