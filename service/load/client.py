"""The clients: `run_load` sends what a plan says, when it says so, and writes down what came back."""

import asyncio
import gc
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from service.load.damage import Damaged, damaged
from service.load.plan import LoadPlan
from service.load.records import DISCONNECTED, MALFORMED, WHOLE, LoadResult, Record
from service.load.schedule import Draw, arrival_times, draws

KEEP_ALIVE_S = 4.0  # below what servers have (5 s and more): a connection is not used just when it is closed on the other side
FIRST_GUESS_S = 0.01  # of how long an answer takes, until there was one
MEMORY = 0.1  # weight of the newest answer in that guess
PIECE_BYTES = 1 << 18  # of a body that is written to its connection; then others get their turn
PROGRESS_S = 0.5
CLASSIFY = "/v1/classify"
NOT_SENT = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


@dataclass(frozen=True)
class Progress:
    """A run so far. statuses: answers by status."""

    elapsed_s: float
    duration_s: float
    sent: int
    in_flight: int
    statuses: Mapping[int, int]


def load(plan: LoadPlan, progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """`run_load` for callers without an event loop."""
    gc.collect()
    gc.freeze()  # a full collection in the middle would be measured as latency
    try:
        return asyncio.run(run_load(plan, progress))
    finally:
        gc.unfreeze()


async def run_load(plan: LoadPlan, progress: Callable[[Progress], None] | None = None, *, stop: asyncio.Event | None = None) -> LoadResult:
    """Carry the plan out. Never raises for what the service does: that is in the records. `stop` ends the run early; requests in flight
    are then given up. `progress` is called twice a second, in the loop.
    """
    variants = await asyncio.to_thread(_damaged_bodies, plan) if plan.malformed else {}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)  # its limit is our own, so that waiting for it is seen
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=NOT_SENT, auto_decompress=False
    ) as session:
        clients = Clients(plan, variants, session)
        sending = asyncio.create_task(clients.run())
        watching = asyncio.create_task(clients.watch(progress or (lambda _: None)))
        stopping = asyncio.create_task((stop or asyncio.Event()).wait())
        try:
            await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            interrupted = not sending.done()
            ended_s = clients.now()
        finally:
            for task in (sending, watching, stopping):
                task.cancel()
            await asyncio.wait({sending, watching, stopping})
        if not sending.cancelled() and (error := sending.exception()):
            raise error
    return LoadResult(plan, tuple(clients.records), max(ended_s, clients.sending_s), clients.sending_s, interrupted, clients.peak)


def _damaged_bodies(plan: LoadPlan) -> dict[int, tuple[Damaged, ...]]:
    return {index: damaged(body, (plan.seed, index), plan.query.get("input_format")) for index, body in enumerate(plan.bodies)}


class Pieces(aiohttp.Payload):
    """Bytes as a body. aiohttp itself writes them as a whole, or 64 kB of a file at a time, which takes longer."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, content_type="application/octet-stream")
        self._size = len(data)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a point cloud is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, len(self._value), PIECE_BYTES):
            await writer.write(memoryview(self._value)[start : start + PIECE_BYTES])


class Clients:
    """All clients of one run: one task a request in an open loop, one a client in a closed one."""

    def __init__(self, plan: LoadPlan, variants: Mapping[int, tuple[Damaged, ...]], session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._variants = variants
        self._session = session
        self._url = plan.url.rstrip("/") + plan.path + (f"?{urlencode(plan.query)}" if plan.query else "")
        self._slots = asyncio.Semaphore(plan.connections)
        self._run_id = secrets.token_hex(4)
        self._headers = {"X-Request-Timeout": f"{plan.timeout_s:g}"} if plan.timeout_s else {}
        self._headers |= {"Authorization": f"Bearer {plan.key}"} if plan.key else {}
        self._names = tuple(header_name(body.name) for body in plan.bodies)
        self._expected_s = [FIRST_GUESS_S] * len(plan.bodies)
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._count = 0
        self._sent = 0
        self._in_flight = 0
        self.peak = 0
        self._statuses: Counter[int] = Counter()
        self.records: list[Record] = []
        self.sending_s = 0.0

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    async def run(self) -> None:
        """Until every request has ended."""
        drawn = draws(self._plan)
        times = arrival_times(self._plan) if self._plan.clients is None else ()
        self._started = self._clock()
        async with asyncio.TaskGroup() as tasks:
            if self._plan.clients is not None:
                for _ in range(self._plan.clients):
                    tasks.create_task(self._one_after_another(drawn))
                return
            for due, draw in zip(times, drawn, strict=False):
                await asyncio.sleep(max(0.0, due - self.now()))  # also when late: answers are taken in between
                tasks.create_task(self._request(draw, float(due)))
                self.sending_s = self.now()
            self.sending_s = max(self.sending_s, self._plan.duration_s)

    async def watch(self, progress: Callable[[Progress], None]) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            progress(Progress(self.now(), self._plan.duration_s, self._sent, self._in_flight, dict(self._statuses)))

    async def _one_after_another(self, drawn: Iterator[Draw]) -> None:
        while (due := self.now()) < self._plan.duration_s:
            await self._request(next(drawn), due)
            self.sending_s = max(self.sending_s, due)

    async def _request(self, draw: Draw, due: float) -> None:
        """One request, whatever becomes of it, and its record."""
        body, damage = self._body(draw)
        self._count += 1
        exchange = Exchange(f"{self._run_id}-{self._count}", self._plan.bodies[draw.body].name, draw, due, damage)
        headers = {**self._headers, "X-Filename": self._names[draw.body], "X-Request-ID": exchange.request_id}
        error: str | None = None
        try:
            async with asyncio.timeout(due + self._plan.patience_s - self.now()) as patience, self._slots:
                exchange.sent_s = self.now()
                self._sent += 1
                self._in_flight += 1
                self.peak = max(self.peak, self._in_flight)
                if draw.kind == DISCONNECTED:
                    patience.reschedule(self._clock() + draw.spare * self._expected_s[draw.body])
                async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                    exchange.first_byte_s = self.now()
                    exchange.take(response, await response.read(), predictions=self._plan.path.endswith(CLASSIFY))
        except TimeoutError:
            error = None if draw.kind == DISCONNECTED and exchange.sent_s is not None else "timeout"
            exchange.status = 0
        except asyncio.CancelledError:
            error = "interrupted"
            raise
        except (aiohttp.ClientError, OSError) as failed:
            error = type(failed).__name__
        finally:
            self._finish(exchange, error)

    def _body(self, draw: Draw) -> tuple[aiohttp.Payload, str | None]:
        """What is sent, and the name of its damage."""
        data, damage = self._plan.bodies[draw.body].data, None
        if draw.kind == MALFORMED:
            variants = self._variants[draw.body]
            chosen = variants[int(draw.spare * len(variants))]
            data, damage = chosen.data, chosen.name
        return Pieces(data), damage

    def _finish(self, exchange: "Exchange", error: str | None) -> None:
        record = exchange.record(self.now(), error)
        self._in_flight -= record.sent_s is not None
        self.records.append(record)
        self._statuses[record.status] += 1
        if record.kind == WHOLE and record.status == 200 and record.sent_s is not None:
            guess = self._expected_s[exchange.draw.body]
            self._expected_s[exchange.draw.body] = guess + MEMORY * (record.done_s - record.sent_s - guess)


@dataclass(slots=True)
class Exchange:
    """A request under way; becomes a Record."""

    request_id: str
    name: str
    draw: Draw
    due: float
    damage: str | None
    sent_s: float | None = None
    first_byte_s: float | None = None
    status: int = 0
    code: str | None = None
    retry_after_s: float | None = None
    server_timing: str | None = None
    readable: bool = True

    def take(self, response: aiohttp.ClientResponse, content: bytes, *, predictions: bool) -> None:
        """An answer that has come whole. predictions: whether a 200 has some."""
        self.status = response.status
        self.server_timing = response.headers.get("Server-Timing")
        if self.status >= 400:
            self.code = problem_code(content)
            with suppress(ValueError):  # it may be a date, which no service of ours sends
                self.retry_after_s = float(response.headers.get("Retry-After", ""))
        elif predictions:
            self.readable = has_predictions(content)

    def record(self, done_s: float, error: str | None) -> Record:
        return Record(
            request_id=self.request_id,
            scheduled_s=self.due,
            sent_s=self.sent_s,
            first_byte_s=self.first_byte_s,
            done_s=done_s,
            status=self.status,
            code=self.code,
            body=self.name,
            kind=self.draw.kind,
            damage=self.damage,
            retry_after_s=self.retry_after_s,
            server_timing=self.server_timing,
            error=error,
            readable=self.readable,
        )


def problem_code(content: bytes) -> str | None:
    """`code` of a problem document; None of anything else."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, str) else None


def has_predictions(content: bytes) -> bool:
    """Whether this is what /v1/classify answers with, and not the page of whoever else listens there."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and bool(document.get("predictions"))


def header_name(name: str) -> str:
    """A file name as X-Filename may say it: the ending stays, what is not ASCII becomes `_`."""
    return "".join(character if " " <= character <= "~" else "_" for character in name)
