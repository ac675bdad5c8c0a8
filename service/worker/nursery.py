"""A process that has PyTorch imported and does nothing but fork: a worker then starts without importing anything.

It never computes with more than one thread and never touches a GPU, so that its children may do both.
"""

import atexit
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading

from service.worker.messages import PeerGone

REQUEST_BYTES = 1 << 12
CHANNELS = 4  # of a worker: compute, express, control, lifeline
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from service.worker.nursery import main; main(int(sys.argv[2]))"


class Nursery:
    """The door to the process. Thread-safe. It holds nothing of an app, so one serves all apps of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def start(self) -> None:
        """Start the process, without waiting for it, unless it runs already."""
        with self._lock:
            self._running()

    def worker(self, setup: dict[str, object]) -> tuple[socket.socket, ...]:
        """Our ends of the channels of a new worker, which may still be starting. Raises: PeerGone (no process can be started)."""
        ours: list[socket.socket] = []
        theirs: list[socket.socket] = []
        try:
            for _ in range(CHANNELS):
                pair = socket.socketpair()
                ours.append(pair[0])
                theirs.append(pair[1])
            with self._lock:
                try:
                    self._order(setup, theirs)
                except OSError:  # it was killed: another one
                    self._forget()
                    self._order(setup, theirs)
        except OSError as error:
            for channel in ours:
                channel.close()
            raise PeerGone(f"no process for workers: {error}") from error
        finally:
            for channel in theirs:
                channel.close()
        return tuple(ours)

    def _order(self, setup: dict[str, object], channels: list[socket.socket]) -> None:
        socket.send_fds(self._running(), [json.dumps(setup).encode()], [channel.fileno() for channel in channels])

    def _running(self) -> socket.socket:
        if self._orders is None or self._process is None or self._process.poll() is not None:
            self._forget()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                # -P: the path of this process, and not the folder it was started in; a session of its own: Ctrl-C is for the service
                command = [sys.executable, "-P", "-c", START, json.dumps(sys.path), str(theirs.fileno())]
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
                )
            self._orders = ours
            atexit.register(self._forget)
        return self._orders

    def _forget(self) -> None:
        if self._orders is not None:
            self._orders.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._orders = self._process = None
        atexit.unregister(self._forget)


@functools.cache
def nursery() -> Nursery:
    """The one of this process. It ends with it."""
    return Nursery()


def main(fd: int) -> None:
    """The process itself: until the service closes its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever wants an end tells the service, which then closes the channels
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children: their lifelines tell of them
    import torch

    torch.set_num_threads(1)
    from models.orphan import end_with
    from service.worker.process import prepare, work

    keeper = os.getpid()
    gc.collect()
    gc.freeze()  # what was imported stays: a full collection, which loading a model can bring on, would stop passes for a tenth of a second
    orders = socket.socket(fileno=fd)
    while True:
        message, fds, _, _ = socket.recv_fds(orders, REQUEST_BYTES, CHANNELS)
        if not message:
            os._exit(0)
        setup = json.loads(message)
        prepare(setup)
        if os.fork() == 0:
            try:
                end_with(keeper)  # which ends with the service
                orders.close()
                work(setup, *(socket.socket(fileno=each) for each in fds))
            finally:  # whatever it was: no thread keeps the process
                os._exit(0)
        for each in fds:
            os.close(each)
