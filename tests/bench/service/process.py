"""`fip serve` as a user starts it, watched from outside: its log, its metrics, and the memory and descriptors of all its processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
READY_S = 60.0
STOP_S = 40.0

Event = dict[str, object]


@dataclass(frozen=True)
class Service:
    """A running service. log: the JSON lines that it has written so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def log_size(self) -> int:
        """Where the log ends now, for `events`."""
        return self.log.stat().st_size

    def events(self, name: str | None = None, since: int = 0) -> list[Event]:
        """Whole lines of the log from a place on, those of one event or all."""
        with self.log.open("rb") as log:
            log.seek(since)
            lines = log.read().split(b"\n")[:-1]
        found: list[Event] = []
        for line in lines:
            with suppress(ValueError):  # a traceback of the interpreter itself
                found.append(json.loads(line))
        return [each for each in found if name is None or each.get("event") == name]

    def await_events(self, name: str, count: int, since: int = 0, seconds: float = READY_S) -> list[Event]:
        """As `events`, once there are so many. Raises: TimeoutError."""
        deadline = time.monotonic() + seconds
        while len(found := self.events(name, since)) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(found)} of {count} events {name!r} after {seconds} s")
            time.sleep(0.02)
        return found

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels; 0 while it has none."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$"
        return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))

    def pids(self) -> list[int]:
        """All processes of the service."""
        return family(self.process.pid)

    def memory_bytes(self) -> int:
        """Proportional set size of all processes (resident set size where that cannot be read): pages that they share count once."""
        return sum(map(_memory, self.pids()))

    def descriptors(self) -> int:
        """Open files and sockets of all processes."""
        count = 0
        for pid in self.pids():
            with suppress(OSError):
                count += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # a count; no paths wanted
        return count

    def worker_pid(self) -> int:
        """The process in which nets run now, from the log."""
        return int(str(self.await_events("worker ready", 1)[-1]["pid"]))


def family(pid: int) -> list[int]:
    """A process that was started in a session of its own, and all that have descended from it or belong to that session."""
    parents, mine = {}, {pid}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (stat := _stat(int(folder.name))):
            parents[int(folder.name)] = stat
    grown = True
    while grown:
        found = {each for each, (parent, session) in parents.items() if parent in mine or session == pid}
        grown, mine = not found <= mine, mine | found
    return sorted(mine & set(parents))


def _running() -> set[int]:
    return {int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()}


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Hold a family of processes still, so that it takes nothing from what is measured beside it."""
    held = family(pid)
    _signal(held, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(held, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stat(pid: int) -> tuple[int, int] | None:
    """Parent and session; None of a process that has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        if fields[0] != "Z":
            return int(fields[1]), int(fields[3])
    return None


def _memory(pid: int) -> int:
    for file, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
    return 0


@contextmanager
def service(*, wait: bool = True, nice: int = 0, port: int | None = None, **environment: str) -> Iterator[Service]:
    """`fip serve` on a free port or that one, with default settings but for `environment`; stopped on leaving. wait: until it is ready.

    nice: how far it stands back behind the clients on the same cores, which would elsewhere have cores of their own.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FIP_", "OMP_", "MKL_"))}
    command = [str(Path(sys.executable).with_name("fip")), "serve", "--port", str(port or free_port())]
    command = ["nice", "-n", str(nice), *command] if nice else command  # it becomes the program: the same process
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as lines:
            process = subprocess.Popen(
                command, cwd=ROOT, env=clean | environment, stdout=subprocess.DEVNULL, stderr=lines, start_new_session=True
            )
        running = Service(f"http://127.0.0.1:{command[-1]}", process, log)
        try:
            if wait:
                wait_ready(running.url, process)
            yield running
        except BaseException:
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace")[-2000:])
            raise
        finally:
            stop(process)


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """As `service`: its address."""
    with service(**environment) as running:
        yield running.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_ready(url: str, process: subprocess.Popen[bytes], path: str = "/health/ready", pause_s: float = 0.02) -> None:
    """Raises: RuntimeError (it ended, or took more than a minute)."""
    deadline = time.monotonic() + READY_S
    with httpx.Client(base_url=url) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(httpx.TransportError):
                if client.get(path).status_code == 200:
                    return
            time.sleep(pause_s)
    raise RuntimeError(f"the service did not become ready (exit status {process.poll()})")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; then end whatever is left of its family."""
    known = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_S)
    _signal(sorted({*known, *family(process.pid)} & _running()), signal.SIGKILL)
    process.wait(timeout=STOP_S)


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
