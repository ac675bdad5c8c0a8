"""`alias_*_local`, `alias_*_mlflow`: an alias that moves to a new version and back, at 50 requests a second, on either kind of registry.

A version is told by its logits: an answer is mixed if its model, its digest and its logits are not all of the same version. How long a
move takes is from the end of the call that made it to the end of the last answer by the version before.
"""

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic

import httpx

from models.registry import ModelVersion, Registry, publish_as
from models.registry.catalogue import BUNDLED
from models.registry.local import LocalRegistry
from models.registry.mlflow import MlflowRegistry
from models.registry.publish import rollback
from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import service
from tests.bench.service.rows import Row, at_most, exactly
from tests.mlflow_running import mlflow_running
from tests.published import Answer, ask, shifted, steadily

NAME, RATE, POINTS = "parts", 50.0, 1024
MOVES, BETWEEN_S = 5, 4.0
NEW_S, BACK_S = 10.0, 5.0
CLOSE = 0.1  # logits of the same version in other company differ by rounding, those of the two versions by more than 1
Move = tuple[float, str]  # when it was made, and the version that answers from then on


def rows() -> list[Row]:
    found: list[Row] = []
    for kind in ("local", "mlflow"):
        with tempfile.TemporaryDirectory() as folder, registry_of(kind, Path(folder)) as registry:
            found += rows_of(kind, registry, Path(folder))
    return found


@contextmanager
def registry_of(kind: str, folder: Path) -> Iterator[Registry]:
    if kind == "local":
        (folder / "registry").mkdir()
        yield LocalRegistry(folder / "registry")
        return
    (folder / "server").mkdir()
    with mlflow_running(folder / "server") as server:
        yield MlflowRegistry(server.address, folder / "publisher")


def rows_of(kind: str, registry: Registry, folder: Path) -> list[Row]:
    source = BUNDLED / "modelnet40" / "1"
    publish_as(registry, shifted(source, folder / "1", 0), NAME, "champion")
    registry.publish(shifted(source, folder / "2", 1), NAME)
    with service(FIP_REGISTRY=registry.address, FIP_MODEL=NAME, FIP_CACHE=str(folder / "cache")) as running:
        logits = asyncio.run(alone(running.url))
        answers, moves, backs = asyncio.run(drive(running.url, registry))
    digests = {f"{NAME}:{number}": registry.digest(ModelVersion(NAME, number)) for number in (1, 2)}
    failed = [answer.status for answer in answers if answer.status != 200]
    mixed = [answer for answer in answers if answer.status == 200 and not is_of_one(answer, digests, logits)]
    there, back = took(answers, moves), took(answers, backs)
    return [
        exactly(
            f"alias_move_failures_{kind}", len(failed), 0, statuses=sorted(set(failed)), requests=len(answers), moves=len(moves + backs)
        ),
        exactly(
            f"alias_move_mixed_{kind}",
            len(mixed) if len({a.model for a in answers}) == 2 else math.nan,
            0,
            answers_by_version=dict(Counter(answer.model for answer in answers)),
        ),
        at_most(f"alias_move_new_s_{kind}", max(there), NEW_S, "s", each=there),
        at_most(f"alias_rollback_s_{kind}", max(back), BACK_S, "s", each=back),
    ]


def is_of_one(answer: Answer, digests: dict[str, str], logits: dict[str, float]) -> bool:
    """Whether model, digest and logits are of the same version."""
    return answer.digest == digests.get(answer.model) and abs(answer.logit - logits[answer.model]) < CLOSE


async def alone(url: str) -> dict[str, float]:
    """The logit of each version, by its name."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        asked = [await ask(client, ply(ball(POINTS)), f"{NAME}:{number}") for number in (1, 2)]
    return {answer.model: answer.logit for answer in asked}


async def drive(url: str, registry: Registry) -> tuple[list[Answer], list[Move], list[Move]]:
    """Requests all the time; what answered, the moves to the new version and the ones back."""
    stop, moves, backs = asyncio.Event(), list[Move](), list[Move]()
    asking = asyncio.create_task(steadily(url, ply(ball(POINTS)), None, RATE, stop))
    await asyncio.sleep(BETWEEN_S)
    for _ in range(MOVES):
        moves.append(await made(partial(registry.move_alias, NAME, "champion", 2, expected=1), "2"))
        await asyncio.sleep(BETWEEN_S)
        backs.append(await made(partial(rollback, registry, NAME, "champion"), "1"))
        await asyncio.sleep(BETWEEN_S)
    stop.set()
    return await asking, moves, backs


async def made(move: Callable[[], object], version: str) -> Move:
    await asyncio.get_running_loop().run_in_executor(None, move)
    return monotonic(), f"{NAME}:{version}"


def took(answers: list[Answer], moves: list[Move]) -> list[float]:
    """Seconds from each move to the end of the last answer by another version; infinite if that went on until the next one."""
    late = []
    for at, model in moves:
        window = [answer for answer in answers if at < answer.ended_s < at + BETWEEN_S - 0.5 and answer.status == 200]
        others = [answer.ended_s - at for answer in window if answer.model != model]
        arrived = [answer.ended_s - at for answer in window if answer.model == model]
        last = max(others, default=0.0)
        late.append(round(last, 3) if arrived and max(arrived) > last else math.inf)
    return late
