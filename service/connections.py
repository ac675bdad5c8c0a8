"""The open connections of one server: how many there may be, and which of them have been slow for too long.

Sockets cost a slow client nothing and the service a descriptor and memory, so that a thousand of them would keep others out.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.settings import Settings

LOG = logging.getLogger("fip.service")
FILES = 256  # descriptors for what is not a connection: spools, answers, models, pipes
SWEEP_S = 1.0
AT_ONCE = 32  # connections accepted before those accepted earlier get their turn
LEAVING = 128  # refused connections that are read on for a moment, so that the refusal arrives
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

Reason = Literal["head", "body", "send", "evicted", "refused"]
REASONS: tuple[Reason, ...] = ("head", "body", "send", "evicted", "refused")


class Connection(Protocol):
    """What is asked of a connection here."""

    def check(self, now: float) -> None:
        """End it if it has been slow for too long; `now` is the time of the loop."""

    def abort(self) -> None:
        """End it without waiting for anything."""


class Connections:
    """Shared by the protocols of one server; belongs to its event loop.

    most: connections that may be open. draining: answers are the last of their connection. Both may be set from outside.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.most = settings.max_connections
        self.draining = False
        self._open: dict[Connection, None] = {}
        self._unasked: dict[Connection, None] = {}  # without a request so far, in order of arrival
        self._leaving: set[Connection] = set()
        shortest = min(settings.head_seconds, settings.keep_alive_seconds, settings.body_pause_seconds, settings.send_seconds)
        self._interval = min(SWEEP_S, shortest / 4)
        self._sweeping = False
        Gauge("fip_connections", "Open connections", registry=registry).set_function(lambda: len(self._open))
        self._slow = Counter("fip_slow_clients", "Connections ended from this side, by what was slow", ("reason",), registry=registry)
        for reason in REASONS:
            self._slow.labels(reason)

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Connection) -> bool:
        """Whether there is room for it. The oldest connection that has asked nothing makes room."""
        self._sweep_on()
        if len(self._open) >= self.most:
            if not self._unasked:
                return False
            oldest = next(iter(self._unasked))
            self.closed(oldest)
            self.count("evicted")
            oldest.abort()
        self._open[connection] = None
        self._unasked[connection] = None
        return True

    def asked(self, connection: Connection) -> None:
        """The head of a request has arrived."""
        self._unasked.pop(connection, None)

    def leaves(self, connection: Connection) -> bool:
        """Whether a refused connection may stay open for a moment."""
        self.closed(connection)
        if len(self._leaving) >= LEAVING:
            return False
        self._leaving.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        self._unasked.pop(connection, None)
        self._leaving.discard(connection)

    def count(self, reason: Reason) -> None:
        self._slow.labels(reason).inc()

    def cut(self) -> int:
        """End all of them; how many there were."""
        left = [*self._open, *self._leaving]
        for connection in left:
            connection.abort()
        return len(left)

    def _sweep_on(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(self._interval, self._sweep)

    def _sweep(self) -> None:
        """One timer for all: a timer for each would be set and cancelled with every piece that arrives."""
        self._sweeping = False
        now = asyncio.get_running_loop().time()
        for connection in [*self._open, *self._leaving]:
            connection.check(now)
        if self._open or self._leaving:
            self._sweep_on()


def room_for(connections: int) -> int:
    """How many connections the limit on open files leaves room for, at most those asked for; the limit is raised as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    room = max(1, soft - FILES)
    LOG.warning("fewer connections", extra={"fields": {"max_connections": room, "asked": connections, "open_files": soft}})
    return room


class Listener(socket.socket):
    """A listening socket that a lack of descriptors does not stop.

    asyncio would try as many times as the backlog is long, log each failure, and then not listen for a second; unless there is a
    descriptor, a connection cannot even be closed. Hence one is kept in reserve: what comes when there is none is accepted with that
    and closed.
    """

    _reserve = -1
    _accepted = 0

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """Raises: BlockingIOError when none waits, when one had to be closed, and from time to time to let others have their turn."""
        self._accepted += 1
        if self._accepted % (AT_ONCE + 1) == 0:
            raise BlockingIOError
        return self._take()

    def waiting(self) -> list[socket.socket]:
        """All who are connected and not accepted yet."""
        accepted = []
        with contextlib.suppress(OSError):
            while True:
                accepted.append(self._take()[0])
                accepted[-1].setblocking(False)
        return accepted

    def _take(self) -> tuple[socket.socket, tuple[str, int]]:
        if self._reserve < 0:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR or self._reserve < 0:
                raise
        os.close(self._reserve)
        self._reserve = -1
        with contextlib.suppress(OSError):
            super().accept()[0].close()
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        raise BlockingIOError

    def close(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        super().close()


def listen(host: str, port: int) -> list[Listener]:
    """Bound sockets, one for each address of the host, which do not listen yet. Raises: OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[Listener] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = Listener(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners
