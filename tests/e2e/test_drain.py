"""The end of `fip serve`, and what it does when descriptors run out: processes as a user starts them, over real sockets."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.contract.test_slow_clients import PATIENCE, answer, comes_true, connected, ends, metric
from tests.fire import PROMPT_S

pytestmark = pytest.mark.e2e
FIP = Path(sys.executable).parent / "fip"
CLOUD = np.random.default_rng(0).normal(size=(2000, 4)).astype("<f4").tobytes()
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/classify?input_format=bin HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(CLOUD)


@dataclass
class Service:
    process: "subprocess.Popen[str]"
    client: httpx.Client

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self, within: float = PATIENCE) -> list[dict[str, object]]:
        """The lines of its log, after a clean end."""
        out, log = self.process.communicate(timeout=within)
        assert (self.process.returncode, out) == (0, ""), log
        events = [json.loads(line) for line in log.splitlines()]
        assert not [event for event in events if "traceback" in event]
        return events

    def connect(self) -> socket.socket:
        return connected(self.client)


Start = Callable[..., Service]


@pytest.fixture
def start(tiny_registry: Path) -> Iterator[Start]:
    """Start `fip serve` with the test model and these settings on a free port."""
    with contextlib.ExitStack() as held:

        def run(**settings: str) -> Service:
            command = [str(FIP), "serve", "--port", "0", "--registry", str(tiny_registry), "--model", "tiny"]
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("FIP_")}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=inherited | settings)
            held.callback(process.communicate)
            held.callback(process.kill)
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "answers with tiny" in line, process.communicate()
            return Service(process, held.enter_context(httpx.Client(base_url=line.split()[2], timeout=PATIENCE)))

        yield run


def test_a_body_on_its_way_is_answered(start: Start) -> None:
    service = start()
    with service.connect() as arriving, service.connect() as beginning, service.connect() as idle:
        idle.sendall(GET)
        assert answer(idle)[0] == 200
        arriving.sendall(POST + CLOUD[:1000])
        beginning.sendall(POST[:20])
        assert comes_true(lambda: metric(service.client, "fip_requests_in_flight ") == 2)
        service.stop()
        assert ends(idle) == b""
        for part in range(1000, len(CLOUD), 5000):
            time.sleep(0.1)
            arriving.sendall(CLOUD[part : part + 5000])
        beginning.sendall(POST[20:] + CLOUD)
        for connection in (arriving, beginning):
            status, _, response = answer(connection)
            assert (status, response.headers["Connection"]) == (200, "close")
            assert ends(connection) == b""
    service.ended()


def test_who_never_finishes_is_cut_off(start: Start) -> None:
    service = start(FIP_DRAIN_SECONDS="1")
    with service.connect() as body, service.connect() as head:
        body.sendall(POST + CLOUD[:1000])
        head.sendall(POST[:20])
        assert comes_true(lambda: metric(service.client, "fip_requests_in_flight ") == 2)
        service.stop()
        began = time.monotonic()
        events = service.ended()
        assert 0.8 < time.monotonic() - began < PROMPT_S
        assert ends(body) == b""
        assert ends(head) == b""
    [cut] = [event for event in events if event["event"] == "connections cut"]
    assert cut["connections"] == 2


def test_who_never_reads_is_cut_off(start: Start) -> None:
    service = start(FIP_DRAIN_SECONDS="1")
    with contextlib.ExitStack() as held:
        for _ in range(5):
            connection = held.enter_context(service.connect())
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000)
        service.client.get("/health/live")
        service.stop()
        service.ended()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_told_twice_it_ends_at_once(start: Start, second: signal.Signals) -> None:
    service = start()
    with service.connect() as connection:
        connection.sendall(POST + CLOUD[:1000])
        assert comes_true(lambda: metric(service.client, "fip_requests_in_flight ") == 2)
        service.stop()
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(1)
        service.process.send_signal(second)
        began = time.monotonic()
        service.ended()
        assert time.monotonic() - began < PROMPT_S
        assert ends(connection) == b""


def test_a_lame_duck_still_answers(start: Start) -> None:
    service = start(FIP_LAME_DUCK_SECONDS="2")
    with service.connect() as kept:
        kept.sendall(GET)
        status, _, response = answer(kept)
        assert (status, response.headers["Connection"]) == (200, None)
        service.stop()
        stopped = time.monotonic()
        assert comes_true(lambda: httpx.get(service.client.base_url.join("/health/ready")).status_code == 503)
        late = httpx.post(service.client.base_url.join("/v1/classify?input_format=bin"), content=CLOUD)
        assert (late.status_code, late.headers["Connection"]) == (200, "close")
        kept.sendall(GET)
        status, _, response = answer(kept)
        assert (status, response.headers["Connection"]) == (200, "close")
        assert time.monotonic() - stopped < 2, "too slow a machine to see the lame duck"
    service.ended()
    assert time.monotonic() - stopped >= 2


def test_nobody_who_was_connected_is_reset(start: Start) -> None:
    """Clients come one after the other while the service is told to stop: each is answered, or was not let in at all."""
    service = start()
    outcomes: list[str] = []

    def come() -> None:
        while not outcomes or outcomes[-1] == "answered":
            try:
                connection = service.connect()
            except ConnectionRefusedError:
                outcomes.append("refused")
                return
            with connection:
                try:
                    connection.sendall(GET)
                    outcomes.append("answered" if connection.recv(1 << 16) else "closed")
                except ConnectionError:
                    outcomes.append("reset")

    coming = [threading.Thread(target=come) for _ in range(4)]
    for each in coming:
        each.start()
    time.sleep(0.3)
    service.stop()
    for each in coming:
        each.join()
    service.ended()
    assert set(outcomes) == {"answered", "refused"}


def test_who_waits_to_be_accepted_is_answered(start: Start) -> None:
    """The service stands still while they connect and ask, and the first that it learns is that it has to stop."""
    service = start()
    with contextlib.ExitStack() as held:
        service.process.send_signal(signal.SIGSTOP)
        waiting = [held.enter_context(service.connect()) for _ in range(100)]
        for connection in waiting:
            connection.sendall(GET)
        service.stop()
        time.sleep(0.3)  # longer than it takes to look for signals
        service.process.send_signal(signal.SIGCONT)
        assert [answer(connection)[0] for connection in waiting] == [200] * 100
    service.ended()


def test_a_lack_of_descriptors_ends_nothing(start: Start) -> None:
    service = start()
    assert service.client.get("/health/live").status_code == 200
    pid = service.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, limits[1]))
    with contextlib.ExitStack() as held:
        crowd = [held.enter_context(service.connect()) for _ in range(40)]
        assert ends(crowd[-1]) == b""
        before = cpu_seconds(pid)
        time.sleep(1)
        assert cpu_seconds(pid) - before < 0.5
        assert service.client.get("/health/live").status_code == 200
    assert comes_true(lambda: lives(service))
    service.stop()
    service.ended()


def lives(service: Service) -> bool:
    """Whether a new connection is answered."""
    try:
        return httpx.get(service.client.base_url.join("/health/live"), timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
