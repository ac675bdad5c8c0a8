"""Around every request: its id, its time limit, an end to its work when its client leaves, one line in the log, and a last net under it."""

import asyncio
import logging
import math
import re
import time

from anyio import CancelScope
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import BadOption
from service.announced import announced_bytes
from service.auth.headers import secure
from service.errors import DeadlineExceeded
from service.problems import from_error, unexpected
from service.request_log import QUIET, UNMATCHED, Outcome, request_id_of, tell
from service.telemetry import Telemetry, Timings
from service.tracing import RequestTrace, Tracing
from service.upload_routes import UploadRoutes

LOG = logging.getLogger("fip.service")
SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
CLIENT_LEFT = 499  # nginx's number for it; only in metrics and the log, nobody is there to read an answer
LONGEST_S = 86_400.0
TIMEOUT_HEADER = "X-Request-Timeout"


class RequestMiddleware:
    """Plain ASGI: a body streams through it untouched."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, tracing: Tracing, longest_s: float | None, uploads: UploadRoutes) -> None:
        """longest_s: for a request. uploads: the addresses that files are posted to."""
        self._app = app
        self._uploads = uploads
        self._telemetry = telemetry
        self._tracing = tracing
        self._longest_s = longest_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        timings = Timings(self._telemetry)
        scope.setdefault("state", {}).update(request_id=request_id, timings=timings)
        exchange = Exchange(scope, receive, send, request_id)
        scope["state"]["limit"] = exchange.limit
        tracing = Tracing() if scope["path"] in QUIET else self._tracing
        trace = tracing.start(scope["method"], headers, {"http.request.method": scope["method"], "url.path": scope["path"]})
        try:
            with self._telemetry.in_flight.track_inprogress():
                await self._answer(scope, exchange, headers)
        finally:  # also when the server is stopped and waits no longer
            timings.close()
            self._finish(scope, exchange, timings, trace)

    async def _answer(self, scope: Scope, exchange: "Exchange", headers: Headers) -> None:
        limit_s = self._longest_s
        try:
            if scope["method"] == "POST" and self._uploads.pattern_of(scope["path"]):
                limit_s = time_limit(headers.get(TIMEOUT_HEADER), self._longest_s)
            exchange.limit(limit_s)
            await exchange.run(self._app, scope)
        except BadOption as error:
            scope["state"]["problem_code"] = error.code
            await from_error(error, scope["path"])(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.left = True
        except Exception:
            LOG.exception("failed", extra={"fields": {"request_id": exchange.request_id, "path": scope["path"]}})
            if not exchange.status:
                await unexpected(scope["path"])(scope, exchange.receive, exchange.send)
        if exchange.expired:
            scope["state"]["problem_code"] = DeadlineExceeded.code

    def _finish(self, scope: Scope, exchange: "Exchange", timings: Timings, trace: RequestTrace) -> None:
        state, status = scope["state"], exchange.status
        stage = timings.now if exchange.expired else None
        if exchange.left:
            stage = "send" if status else timings.now
            status = CLIENT_LEFT
            self._telemetry.cancelled.labels(stage).inc()
        for span in (*timings.spans, timings.unfinished):
            if span is not None:
                trace.stage(*span)
        route = str(getattr(scope.get("route"), "path", self._uploads.pattern_of(scope["path"]) or UNMATCHED))
        outcome = Outcome(
            exchange.request_id,
            scope["method"],
            scope["path"],
            route,
            status,
            exchange.seconds,
            state.get("problem_code"),
            state.get("model_used", ("", "")),
            stage,
            timings.facts,
            state.get("key_id") or None,
        )
        tell(outcome, self._telemetry, trace)


class Exchange:
    """One request and its answer. left: the client went before it had all; expired: its time was over before it had any."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._asgi_scope, self._receive, self._send = scope, receive, send
        self.request_id = request_id
        self.status = 0
        self.left = self.expired = False
        self._began_s = self._last_s = time.perf_counter()
        self._answered = self._received = False
        self._left_to_send: int | None = None  # bytes of the answer, where it says how many it has
        self._cancelled = CancelScope()
        self._watcher: asyncio.Task[None] | None = None
        self._limit_s = math.inf
        self._expiry: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """From the first of the request to the last of the answer."""
        return (self._last_s if self.status else time.perf_counter()) - self._began_s

    def limit(self, limit_s: float | None, where: str = TIMEOUT_HEADER) -> None:
        """Its time is over so long after it began, unless it was to be over sooner. where: what says so."""
        if limit_s is None or limit_s >= self._limit_s or self.expired:
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._limit_s = limit_s
        self._expiry = asyncio.create_task(self._expire(limit_s, where))

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the app answer; its work ends when the client leaves, or when the time is over."""
        try:
            with self._cancelled:
                await app(scope, self.receive, self.send)
        finally:
            if self._watcher is not None:
                self._watcher.cancel()
            if self._expiry is not None:
                if self.expired:
                    await self._expiry
                else:
                    self._expiry.cancel()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False) and not self._received:
            self._received = True
            self._watcher = asyncio.create_task(self._watch())
        return message

    async def send(self, message: Message) -> None:
        if not self.expired:
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            secure(message["headers"], self._asgi_scope["path"])
            self._left_to_send = announced_bytes(headers)
        await self._send(message)
        if message["type"] == "http.response.start" or message.get("body"):  # the empty end may come much later, see Lingering
            self._last_s = time.perf_counter()
        if message["type"] == "http.response.body":
            if self._left_to_send is not None:
                self._left_to_send -= len(message.get("body", b""))
            self._answered |= not message.get("more_body", False) or self._left_to_send == 0

    async def _watch(self) -> None:
        """After the body, nothing comes from the client but its leaving."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answered:
            self.left = True
            self._cancelled.cancel()

    async def _expire(self, limit_s: float, where: str) -> None:
        """Answer at once: what runs in a thread cannot be stopped, and the client should not wait for it."""
        await asyncio.sleep(self._began_s + limit_s - time.perf_counter())
        if self.status or self.left:
            return
        self.expired = True
        self._cancelled.cancel()
        error = DeadlineExceeded(f"not answered within {limit_s:g} s", where=where)
        path = self._asgi_scope["path"]
        await from_error(error, path, sending=not self._received)(self._asgi_scope, self._receive, self._pass_on)


def time_limit(given: str | None, longest_s: float | None) -> float | None:
    """Seconds that a request may take, None for any time. Raises: BadOption."""
    if given is None:
        return longest_s
    seconds = float(given) if SECONDS.fullmatch(given) else math.nan
    if not 0 < seconds <= LONGEST_S:
        raise BadOption(f"a number of seconds above 0, at most {LONGEST_S:g}, not {given[:40]!r}", where=TIMEOUT_HEADER)
    return seconds if longest_s is None else min(seconds, longest_s)
