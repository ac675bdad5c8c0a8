"""The worker: a device and the nets on it. Forward passes in one thread, those of small clouds beside a long one in another, loading in a
third; an end when the service closes its side.
"""

import gc
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch

from models.artefact import MANIFEST, read_manifest
from models.device import CPU
from models.errors import BadCheckpoint, FipError
from models.manifest import NetworkSpec, Precision
from models.memory_errors import is_out_of_memory
from models.predictor import Predictor
from models.sparse.backends import choose
from models.sparse.backends.arena import ARENA
from models.sparse.backends.turns import waited_for
from models.voxelize import Voxels
from service.memory import EVERY_S, give_back
from service.worker.messages import Array, Head, PeerGone, receive, send
from service.worker.place import SMALL_VOXELS, place_of
from service.worker.warm_up import warm_up

FATAL_EXIT = 70
SWITCH_S = 0.0002  # how long a pass waits for a model that is being loaded, whenever it comes back from a convolution; Python's 5 ms add up
IDLE_S = 30.0  # after so long without work, memory that was kept for the next pass goes back to the system
FATAL = re.compile(
    r"CUDA error|Triton Error \[CUDA\]|CUDNN_STATUS|CUBLAS_STATUS|device-side assert|driver shutting down|illegal memory access|"
    r"misaligned address|launch failure",
    re.IGNORECASE,
)
NO_VOXEL = np.empty(0, np.int64)

Answer = tuple[Head, list[Array]]


def prepare(setup: Mapping[str, object]) -> None:
    """What every worker of this kind would find out anew: which engine is the fastest on this processor. Runs before the fork."""
    if setup["device"] == CPU and setup["threads"] == 1 and setup["engine"] == "auto" and not os.environ.get("FIP_ENGINE"):
        choose(CPU)


def work(
    setup: Mapping[str, object], compute: socket.socket, express: socket.socket, control: socket.socket, lifeline: socket.socket
) -> None:
    """Until the service closes its ends. setup: threads, memory_bytes, device, batch_voxels, tile_voxels."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # compilers are waited for
    torch.set_num_threads(int(str(setup["threads"])))
    send(lifeline, {"pid": os.getpid()})  # first, so that it can be killed where a driver hangs
    place = place_of(str(setup["device"]))  # before anything asks for a device, and before the limit, which no driver would fit into
    if setup["memory_bytes"] is not None and place.device == CPU:
        limit = int(str(setup["memory_bytes"]))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.setswitchinterval(SWITCH_S)
    send(lifeline, asdict(place))
    threading.excepthook = lambda _: os._exit(FATAL_EXIT)  # a worker without one of its threads is none
    worker = Worker(lifeline, place.device, max(int(str(setup[name] or SMALL_VOXELS)) for name in ("batch_voxels", "tile_voxels")))
    threading.Thread(target=worker.serve_control, args=(control,), daemon=True).start()
    threading.Thread(target=worker.serve_express, args=(express,), daemon=True).start()
    with suppress(PeerGone):
        worker.serve_passes(compute)


class Worker:
    """The nets. Passes share them, and nothing else."""

    def __init__(self, lifeline: socket.socket, device: str, largest: int) -> None:
        """largest: voxels of a pass, of many clouds or of one."""
        self._lifeline, self._device, self._largest = lifeline, device, largest
        self._nets: dict[str, Predictor] = {}
        self._warm = set[NetworkSpec]()  # whose next weights need no large passes, which would crowd out those of requests

    def serve_passes(self, compute: socket.socket) -> None:
        """Raises: PeerGone."""
        given_back_s = time.monotonic()
        while True:
            if not select.select([compute], [], [], IDLE_S)[0]:
                _free()
                continue
            self._answer(compute, self._forward)
            if time.monotonic() > given_back_s + EVERY_S:
                give_back()
                given_back_s = time.monotonic()

    def serve_express(self, express: socket.socket) -> None:
        """Passes beside a long one, for they are short."""
        with suppress(PeerGone):
            while True:
                self._answer(express, self._forward)

    def serve_control(self, control: socket.socket) -> None:
        with suppress(PeerGone):
            while True:
                self._answer(control, self._manage)

    def _answer(self, channel: socket.socket, answer: Callable[[Head, list[Array]], Answer]) -> None:
        found, arrays = _guarded(lambda: answer(*receive(channel)), self._lifeline)
        send(channel, found, arrays)

    def _forward(self, head: Head, arrays: list[Array]) -> Answer:
        """arrays: coords and feats of each cloud; variants: rows of those of each that vote, None where there are none."""
        said = cast(list[list[int] | None], head["variants"])
        batch = [
            Voxels(coords, feats, NO_VOXEL, variants=tuple(variants) if variants else None)  # type: ignore[arg-type]
            for coords, feats, variants in zip(arrays[::2], arrays[1::2], said, strict=True)
        ]
        net = self._nets.get(str(head["model"]))
        if net is None:
            raise BadCheckpoint("the model could not be loaded again after its worker died", where=str(head["model"]))
        with waited_for():
            return {}, [net.forward(batch).cpu().numpy()]

    def _manage(self, head: Head, _: list[Array]) -> Answer:
        key = str(head["model"])
        if head["do"] == "drop":
            self._nets.pop(key, None)
            return {}, []
        folder = Path(str(head["folder"]))
        if read_manifest(folder)[1] != head["digest"]:
            raise BadCheckpoint("the manifest was replaced while the model was loaded", where=MANIFEST)
        net = Predictor.load(folder, self._device, str(head["engine"]), cast(Precision, head["precision"]))
        known = net.manifest.network in self._warm
        warm_up(net, 0 if known else self._largest)
        self._warm.add(net.manifest.network)
        size = net.settle()
        self._nets[key] = net
        reach = tuple(net.reach) if net.manifest.task == "segment" else None
        return {"reach": reach, "engine": net.engine.name, "bytes": size}, []


def _guarded(answer: Callable[[], Answer], lifeline: socket.socket) -> Answer:
    """The answer, or what went wrong, in the words of an error that the service can raise. Raises: PeerGone."""
    try:
        return answer()
    except PeerGone:
        raise
    except FipError as error:
        return {"error": error.code, "detail": error.detail, "where": error.where, "known": error.known}, []
    except Exception as error:
        wrong = _what_went_wrong(error, lifeline)
    _free()  # here, where the error no longer holds what it was computing with
    return wrong, []


def _what_went_wrong(error: Exception, lifeline: socket.socket) -> Head:
    said = str(error)
    if is_out_of_memory(error):
        return {"error": "out_of_memory", "detail": said[:500]}
    if isinstance(error, torch.AcceleratorError) or FATAL.search(said):
        send(lifeline, {"said": f"the device failed: {said[:2000]}"})
        os._exit(FATAL_EXIT)  # whatever comes after such an error on this device is wrong, in this process
    return {"error": "worker_failed", "detail": traceback.format_exc()[-4000:]}


def _free() -> None:
    """Give back what was kept for the next pass."""
    gc.collect()
    ARENA.release()
    give_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
