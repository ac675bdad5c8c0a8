"""`slow_1000_sockets_live_p99_ms`: how fast /health/live answers while a thousand clients are slow in three ways; and who else is answered.

A third sends the head of a request, a third the body of one, a byte a second each; a third asks for a megabyte and reads nothing. Those
that the service cuts off come back within a second.
"""

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.connections import room_for
from tests.bench.service.clouds import ball, ply
from tests.bench.service.process import service
from tests.bench.service.rows import Row, at_least, at_most, percentile

SOCKETS = 1000
GETS, PER_SECOND, POSTS_PER_SECOND = 300, 10.0, 4.0
BAR_MS, BAR_ANSWERED = 100.0, 1.0
ROUND_S, SLICES = 1.0, 10  # everybody sends a byte a round, a slice of them at a time
UNREAD_S = 31.0  # a client that does not read is given up after 30 s, and cannot notice
SEGMENT = 1460  # of a network; on a loopback the kernel would take megabytes for each client that does not read
HEAD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY = b"POST /v1/classify?input_format=bin HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
UNREAD = (
    b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"  # the largest file that it gives without a model
)
BEGINNINGS = (HEAD, BODY, UNREAD)

Address = tuple[str, int]


def rows() -> list[Row]:
    room_for(SOCKETS)  # raises this process's own limit on open files
    with service() as running:
        before = live_ms(running.address)
        with crowd(running.address) as come_back:
            time.sleep(2 * ROUND_S)
            statuses = Counter[int]()
            with meanwhile(lambda: statuses.update([post(running.address)]), POSTS_PER_SECOND):
                ms = live_ms(running.address)
            detail = {
                "p50_ms": round(percentile(ms, 0.5), 2),
                "p99_ms_without_them": round(percentile(before, 0.99), 2),
                "connections_open": running.metric("fip_connections"),
                "came_back": come_back(),
                "ended_by_service": running.metric("fip_slow_clients_total"),
            }
    posts = statuses.total()
    return [
        at_most("slow_1000_sockets_live_p99_ms", percentile(ms, 0.99), BAR_MS, "ms", **detail),
        at_least("slow_1000_sockets_posts_answered", statuses[200] / posts, BAR_ANSWERED, posts=posts, statuses=dict(statuses)),
    ]


def live_ms(address: Address) -> list[float]:
    """Milliseconds of each GET /health/live, a new connection every time, started at a steady rate or as fast as they are answered."""
    times = []
    started = time.monotonic()
    for number in range(GETS):
        time.sleep(max(0.0, started + number / PER_SECOND - time.monotonic()))
        began = time.perf_counter()
        connection = http.client.HTTPConnection(*address, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/health/live")
            answer = connection.getresponse()
            answer.read()
        times.append(1000 * (time.perf_counter() - began) if answer.status == 200 else float("inf"))
    return times


def post(address: Address) -> int:
    """The status of a classified cloud; 0 of an answer without a class."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/classify", ply(ball(1024)), {"X-Filename": "ball.ply"})
        answer = connection.getresponse()
        body = json.loads(answer.read())
    return 0 if answer.status == 200 and not body["predictions"] else answer.status


@contextmanager
def meanwhile(work: Callable[[], object], per_second: float) -> Iterator[None]:
    """Do it again and again in a thread."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(1 / per_second):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def crowd(address: Address) -> Iterator[Callable[[], int]]:
    """The slow clients, all connected at first; how many of them have come back so far."""
    clients = [SlowClient(address, BEGINNINGS[number % len(BEGINNINGS)]) for number in range(SOCKETS)]
    turns = iter(range(1 << 30))

    def slice_of_them() -> None:
        for client in clients[next(turns) % SLICES :: SLICES]:
            client.go_on()

    try:
        with meanwhile(slice_of_them, SLICES / ROUND_S):
            yield lambda: sum(client.came_back for client in clients)
    finally:
        for client in clients:
            client.socket.close()


class SlowClient:
    """Begins a request and goes on with a byte at a time, if there is any more to send."""

    def __init__(self, address: Address, beginning: bytes) -> None:
        self._address, self._beginning = address, beginning
        self._reads = beginning is not UNREAD
        self.came_back = 0
        self._come()

    def go_on(self) -> None:
        if self._is_over():
            self.socket.close()
            self.came_back += 1
            self._come()
        elif self._reads:
            with contextlib.suppress(OSError):
                self.socket.send(b"x")

    def _come(self) -> None:
        self._came = time.monotonic()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        self.socket.settimeout(10)
        self.socket.connect(self._address)
        self.socket.setblocking(False)
        with contextlib.suppress(OSError):
            self.socket.send(self._beginning)

    def _is_over(self) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN if self._reads else 0)
        (_, events) = next(iter(poll.poll(0)), (0, 0))
        if events & select.POLLIN:  # an answer: what matters is whether it was the last
            with contextlib.suppress(BlockingIOError):
                try:
                    while piece := self.socket.recv(1 << 16):
                        del piece
                except ConnectionError:
                    return True
                return True
        given_up = not self._reads and time.monotonic() - self._came > UNREAD_S
        return given_up or bool(events & (select.POLLHUP | select.POLLERR))


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
