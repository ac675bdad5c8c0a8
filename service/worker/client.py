"""The service's side of one worker process: calls that block, for threads. Whatever ends the worker ends them with `WorkerLost`."""

import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from models import errors
from models.errors import FipError
from models.tiling import Reach
from models.voxelize import Voxels
from service.errors import OutOfMemory, WorkerFailed
from service.worker.messages import Array, Head, PeerGone, receive, send
from service.worker.nursery import Nursery
from service.worker.place import Place

START_S = 60.0  # a process that says nothing for so long will not
Lane = Literal["usual", "long", "express"]
LOAD_S = 120.0  # nor will a net that takes so long to load ...
LOAD_ON_DEVICE_S = 600.0  # ... but on a device the first one has its kernels compiled and measured


class WorkerLost(Exception):
    """The process ended, or was ended because it did not answer in time. What it was asked can be asked of another."""


@dataclass(frozen=True)
class Source:
    """Where a model is loaded from and how it runs. key: what it is called between the service and the worker."""

    key: str
    folder: Path
    digest: str
    engine: str
    precision: str


@dataclass(frozen=True)
class Net:
    """What the service has to know of a loaded net. bytes: that its weights take on the device."""

    reach: Reach | None
    engine: str
    bytes: int


class Worker:
    """Thread-safe: a forward pass, one that is `express` and a load may be under way together; two of a kind wait for each other."""

    def __init__(self, nursery: Nursery, setup: dict[str, object], forward_seconds: float) -> None:
        """Have the process started. Raises: WorkerLost."""
        self._busy, self._managing, self._beside = threading.Lock(), threading.Lock(), threading.Lock()
        self.pid: int | None = None
        self.why = "it ended by itself, by a signal or for want of memory"  # as far as is known on this side
        try:
            self._compute, self._express, self._control, self._lifeline = nursery.worker(setup)
        except PeerGone as error:
            raise WorkerLost(str(error)) from error
        self._compute.settimeout(forward_seconds)
        self._express.settimeout(forward_seconds)
        self._control.settimeout(LOAD_S if setup["device"] == "cpu" else LOAD_ON_DEVICE_S)

    def begin(self) -> Place:
        """Wait until it is there; where its nets will run. Raises: WorkerLost."""
        try:
            self._lifeline.settimeout(START_S)
            self.pid = int(str(receive(self._lifeline)[0]["pid"]))
            place = Place.told(receive(self._lifeline)[0])
            self._lifeline.settimeout(None)
        except (PeerGone, OSError) as error:
            raise WorkerLost(str(error) or "it did not start") from error
        return place

    def wait_for_end(self) -> str:
        """Return when the process is no more, with its last words."""
        said = ""
        with suppress(PeerGone, OSError):
            while True:
                said = str(receive(self._lifeline)[0].get("said", ""))
        return said

    def load(self, source: Source) -> Net:
        """Raises: WorkerLost, BadCheckpoint, BadOption (engine), OutOfMemory."""
        head = {"do": "load", "model": source.key, "folder": str(source.folder), "digest": source.digest}
        with self._managing:
            found, _ = self._ask(self._control, {**head, "engine": source.engine, "precision": source.precision}, [])
        reach = found["reach"]
        return Net(Reach(*reach) if isinstance(reach, list) else None, str(found["engine"]), int(str(found["bytes"])))

    def drop(self, key: str) -> None:
        """Raises: WorkerLost."""
        with self._managing:
            self._ask(self._control, {"do": "drop", "model": key}, [])

    def forward(self, key: str, batch: Sequence[Voxels], lane: Lane = "usual") -> npt.NDArray[np.float32]:
        """As Predictor.forward: (B, L) or (S, L). One after the other, but that one that is `express` goes beside another.

        Raises: WorkerLost, OutOfMemory, WorkerFailed, BadCheckpoint (the net is not there).
        """
        arrays: list[Array] = [array for voxels in batch for array in (voxels.coords, voxels.feats)]
        lock, channel = (self._beside, self._express) if lane == "express" else (self._busy, self._compute)
        with lock:
            _, [logits] = self._ask(channel, {"model": key, "variants": [voxels.variants for voxels in batch]}, arrays)
        return logits.view(np.float32)

    def _ask(self, channel: socket.socket, head: Head, arrays: list[Array]) -> tuple[Head, list[Array]]:
        try:
            send(channel, head, arrays)
            found, answers = receive(channel)
        except PeerGone as error:
            raise WorkerLost(str(error)) from error
        except (TimeoutError, OSError) as error:
            self.kill()  # it may answer later, and then to another question
            self.why = f"killed: no answer within {channel.gettimeout():g} s" if isinstance(error, TimeoutError) else str(error)
            raise WorkerLost(self.why) from error
        except BaseException:
            self.kill()  # a part of its answer is still on the way
            raise
        if "error" in found:
            raise raised(found)
        return found, answers

    def kill(self) -> None:
        """End the process whatever it does."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def hang_up(self) -> None:
        """Let the process end itself, and wake whoever waits for it. From any thread."""
        for channel in (self._compute, self._express, self._control, self._lifeline):
            with suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up, and give the channels back once nobody uses them any more: a descriptor that is closed under a thread that waits on
        it may be that of the next worker when the thread wakes. For the thread that waits for the end.
        """
        self.hang_up()
        with self._busy, self._beside, self._managing:
            for channel in (self._compute, self._express, self._control, self._lifeline):
                channel.close()


def raised(found: Head) -> FipError:
    """The error that a worker tells of."""
    kinds: dict[str, type[FipError]] = {each.code: each for each in (OutOfMemory, WorkerFailed, errors.BadCheckpoint, errors.BadOption)}
    where, known = found.get("where"), found.get("known")
    kind = kinds.get(str(found["error"]), WorkerFailed)
    return kind(str(found["detail"]), where=None if where is None else str(where), known=known if isinstance(known, list) else ())
