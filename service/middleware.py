"""Around every request: its id, how many are in flight, how long it took, one line in the log, and a last net under it."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import unexpected
from service.telemetry import Telemetry

LOG = logging.getLogger("fip.service")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_LEFT = 499  # nginx's number for it; only in metrics and the log, nobody is there to read an answer


class RequestMiddleware:
    """Plain ASGI: a body streams through it untouched."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        answered, status = started, 0
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal answered, status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)
            if message["type"] == "http.response.start" or message.get("body"):  # the empty end may come much later, see Lingering
                answered = time.perf_counter()

        with self._telemetry.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                answered, status = time.perf_counter(), CLIENT_LEFT
                self._telemetry.cancelled.labels("read").inc()
            except Exception:
                LOG.exception("failed", extra={"fields": {"request_id": request_id, "path": scope["path"]}})
                if not status:
                    await unexpected()(scope, receive, send_with_id)
        self._finish(scope, status, answered - started)

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "unmatched")
        name, version = state.get("model_used", ("", ""))
        self._telemetry.request_duration.labels(route, name, version, str(status)).observe(seconds)
        code = state.get("problem_code")
        if code:
            self._telemetry.rejected.labels(code).inc()
        fields = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "code": code,
            "model": f"{name}:{version}" if name else None,
            "ms": round(seconds * 1000, 3),
        }
        quiet = route.startswith("/health") or route == "/metrics"
        LOG.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})


def _request_id(given: str | None) -> str:
    """The caller's id if it is harmless in a header and a log line, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
