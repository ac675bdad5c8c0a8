"""HTTP/1.1 on a connection: uvicorn's protocol on httptools, with the bounds on size and time that it does not have."""

import asyncio
import contextlib
import fcntl
import logging
import struct
import termios
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Literal, cast

from fastapi import Response
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.auth.headers import ANSWER
from service.connections import Connections
from service.discard import Discard, discard
from service.doorman import Doorman
from service.errors import SlowBody
from service.problems import LINGER_S, RETRY_AFTER_S

LOG = logging.getLogger("fip.service")
HEAD_BYTES = 64 << 10
AT_ONCE_OF_A_HEAD, AT_ONCE_OF_A_BODY = 64 << 10, 1 << 20  # bytes read: what comes with the head of who is refused is read for nothing
FRESH_S = 0.5  # a connection this young may have its first request on the way


class Answered:
    """In the place of uvicorn's cycle, for a request that was answered before one was made of it."""

    response_complete = True
    body = b""

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection whose client makes the service wait, or keep what it sends, for too long.

    - An address, headers or trailers are kept in memory until they end: what has come since the last event that is not one of those
      is counted, and a read may take it past the bound by its own length.
    - A head has `head_seconds` from its first byte, the first one from the connection on; an idle connection has `keep_alive_seconds`;
      a body that comes after its answer has the pace of any other (see `Uploads` for one that is waited for).
    - An answer of which nothing is taken for `send_seconds` is given up.
    """

    def __init__(
        self,
        connections: Connections,
        doorman: Doorman,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections, self._doorman = connections, doorman
        self._settings = connections.settings
        self._pending = 0  # bytes of a head or of trailers
        self._awaits: Literal["head", "body", "next"] = "head"  # "next": the first byte of a head
        self._since = 0.0  # when that began, or when the answer before it ended
        self._received = 0  # bytes since then
        self._refused = False
        self._turned_away = False  # somebody, since the last read
        self._discarding: Discard | None = None
        self._running: RequestResponseCycle | None = None  # `cycle` is the last of those that are pipelined
        self._untaken = (0, 0)
        self._taken_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._since = self.loop.time()
        self._read_at_once(AT_ONCE_OF_A_HEAD)
        if not self._connections.opened(self):
            self._connections.count("refused")
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too_many_connections",
                f"{self._connections.most} connections are open; try again",
                {"Retry-After": str(RETRY_AFTER_S)},
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.closed(self)
        if self._discarding is not None:
            self._discarding.stop()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._awaits == "next":
            self._begin("head")
        self._pending += len(data)
        self._received += len(data)
        self._turned_away = False
        super().data_received(data)
        if self._pending > HEAD_BYTES and self._listens:
            self.send_400_response("the head or the trailers of the request are too large")

    def on_message_begin(self) -> None:
        if self._awaits == "next" and not self._refused:  # pipelined
            self._begin("head")
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._pending = 0
        if self._refused:  # the parser goes on to the end of what was read
            return
        self._begin("body")
        self._connections.asked(self)
        if self._turn_away():
            return
        super().on_headers_complete()
        self.scope["state"].update(discard=partial(discard, self.transport), read_on=partial(self._read_at_once, AT_ONCE_OF_A_BODY))
        if self._connections.draining:
            self.cycle.keep_alive = False

    def _turn_away(self) -> bool:
        """Whether there was no room for the request, and it has been told so. Who has little to send keeps the connection.

        One of a read: what else is pipelined goes the usual way, where it waits until the client takes its answers.
        """
        if self._turned_away or self._answering or self.flow.write_paused or self.parser.should_upgrade():
            return False
        path = self.url.partition(b"?")[0].decode("ascii", "replace")
        answer = self._doorman.refusal(self.parser.get_method().decode("ascii"), path, self.headers)
        if answer is None:
            return False
        self._turned_away = True
        self.cycle = cast(RequestResponseCycle, Answered())
        stays = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive() and not self.expect_100_continue
        if stays and "Connection" not in answer.headers and not self._connections.draining:
            self.transport.write(_as_bytes(answer, self.server_state.default_headers))
            self.on_response_complete()
            return True
        answer.headers["Connection"] = "close"
        self._refused = True
        self.transport.write(_as_bytes(answer, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        try:
            self._discarding = Discard(self.transport, self.transport.close)
        except OSError:  # no descriptors
            self.transport.close()
        return True

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        if self._refused:
            return
        if not self.cycle.body and not self.cycle.response_complete:
            self.cycle.body, body = body, b""  # type: ignore[assignment]  # uvicorn would copy it into an array and out of it
        elif isinstance(self.cycle.body, bytes):  # many small pieces of one read
            self.cycle.body = bytearray(self.cycle.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        if self._refused:
            return
        self._read_at_once(AT_ONCE_OF_A_HEAD)
        self._begin("next")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._begin(self._awaits)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be understood. What was asked before it is answered first."""
        if not self._answering:
            self._refuse(HTTPStatus.BAD_REQUEST, "bad_request", msg, {})
        elif self._awaits != "body":
            self._refused = True
            self.cycle.keep_alive = False
        else:  # within the body of the last request, which can never be whole
            if self._running is self.cycle and not self.cycle.response_started:
                self._write_problem(HTTPStatus.BAD_REQUEST, "bad_request", msg, {})
            self.transport.close()

    @property
    def _listens(self) -> bool:
        return not self._refused and not self.transport.is_closing()

    @property
    def _answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)  # there is no cycle before the first request

    def _read_at_once(self, size: int) -> None:
        """The most that asyncio reads before anybody else has their turn."""
        if hasattr(self.transport, "max_size"):
            self.transport.max_size = size

    def _begin(self, what: Literal["head", "body", "next"]) -> None:
        self._awaits = what
        self._since = self.loop.time()
        self._received = 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def run(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:  # the end of the process; uvicorn would answer 500 and log a traceback
                LOG.warning("request cancelled", extra={"fields": {"path": cycle.scope["path"]}})
                cycle.disconnected = True
                self.transport.abort()
            if cycle.scope["state"].get("problem_code") == SlowBody.code:
                self._connections.count("body")

        self._running = cycle
        super()._start_asgi_task(cycle, run)

    def shutdown(self) -> None:
        """Close now if nothing is being answered and no request is on its way; else after the answer. Who was refused goes soon anyway."""
        if self._discarding is not None:
            return
        on_its_way = self._awaits == "head" and (self._pending > 0 or self.loop.time() - self._since < FRESH_S)
        if self._answering or not on_its_way:
            super().shutdown()

    def abort(self) -> None:
        self.transport.abort()

    def check(self, now: float) -> None:
        """End the connection if it has been slow for too long."""
        if self._takes_nothing(now):
            self._connections.count("send")
            self.abort()
            return
        if self._answering or self.transport.is_closing():
            return
        waited = now - self._since
        if self._refused:
            if waited > LINGER_S:
                self.abort()
        elif self._awaits == "head":
            self._check_head(waited)
        elif self._awaits == "next":
            if waited > self._settings.keep_alive_seconds:  # uvicorn's own timer ends with whatever bytes come
                self.transport.close()
        elif waited > self._settings.body_pause_seconds:
            if self._received < waited * self._settings.body_bytes_per_second or self._received == 0:
                self._connections.count("body")
                self.transport.close()
            self._begin("body")

    def _check_head(self, waited: float) -> None:
        if self._connections.draining and not self._pending and waited > FRESH_S:
            self.transport.close()
        elif waited > self._settings.head_seconds:
            self._connections.count("head")
            seconds = f"{self._settings.head_seconds:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "slow_request", f"the head of the request was not complete after {seconds}", {})

    def _takes_nothing(self, now: float) -> bool:
        size = self.transport.get_write_buffer_size()
        if not size:
            self._taken_at = now
            return False
        # the kernel takes more only when a good part of its own buffer has become free, which a slow line needs minutes for
        untaken = (size, _bytes_in_kernel(self.transport))
        if untaken != self._untaken:
            self._untaken, self._taken_at = untaken, now
        return now - self._taken_at > self._settings.send_seconds

    def _refuse(self, status: HTTPStatus, code: str, detail: str, headers: Mapping[str, str]) -> None:
        """Say so, and close a moment later: closed while the client sends, the connection is reset, which can overtake the answer."""
        self._refused = True
        self._write_problem(status, code, detail, headers)
        self._since = self.loop.time()
        if self._connections.leaves(self) and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _write_problem(self, status: HTTPStatus, code: str, detail: str, headers: Mapping[str, str]) -> None:
        answer = self._doorman.problem(status, code, detail, self.loop.time() - self._since, headers)
        self.transport.write(_as_bytes(answer, self.server_state.default_headers))


def _as_bytes(answer: Response, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%s: %s\r\n" % header for header in (*headers, *answer.raw_headers, *ANSWER)]
    return b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body)])


def _bytes_in_kernel(transport: asyncio.Transport) -> int:
    """Bytes that the client has not acknowledged; 0 where that cannot be asked."""
    size = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
    return int(struct.unpack("i", size)[0])
