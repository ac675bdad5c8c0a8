"""The worker: a device and the nets on it. Forward passes in one thread, loading in another, an end when the service closes its side."""

import ctypes
import gc
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch

from models.artefact import MANIFEST, read_manifest
from models.errors import BadCheckpoint, FipError
from models.manifest import Precision
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.sparse.backends import choose
from models.sparse.backends.arena import ARENA
from models.voxelize import Voxels
from service.worker.messages import Array, Head, PeerGone, receive, send

FATAL_EXIT = 70
IDLE_S = 30.0  # after so long without work, memory that was kept for the next pass goes back to the system
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory", re.IGNORECASE)
FATAL = re.compile(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS|device-side assert|driver shutting down", re.IGNORECASE)
WARM_UP_POINTS = 1024
NO_VOXEL = np.empty(0, np.int64)

Answer = tuple[Head, list[Array]]


def prepare(setup: Mapping[str, object]) -> None:
    """What every worker of this kind would find out anew: which engine is the fastest on this processor. Runs before the fork."""
    if setup["device"] == "cpu" and setup["threads"] == 1 and setup["engine"] == "auto" and not os.environ.get("FIP_ENGINE"):
        choose("cpu")


def work(setup: Mapping[str, object], compute: socket.socket, control: socket.socket, lifeline: socket.socket) -> None:
    """Until the service closes its ends. setup: threads, memory_bytes."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # compilers are waited for
    torch.set_num_threads(int(str(setup["threads"])))
    if setup["memory_bytes"] is not None:
        limit = int(str(setup["memory_bytes"]))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    nets: dict[str, Predictor] = {}
    send(lifeline, {"pid": os.getpid()})
    threading.excepthook = lambda _: os._exit(FATAL_EXIT)  # a worker without one of its threads is none
    threading.Thread(target=_serve, args=(control, lambda head, _: _manage(nets, head), lifeline), daemon=True).start()
    _serve(compute, lambda head, arrays: _forward(nets, head, arrays), lifeline)


def _serve(channel: socket.socket, answer: Callable[[Head, list[Array]], Answer], lifeline: socket.socket) -> None:
    while True:
        if not select.select([channel], [], [], IDLE_S)[0]:
            _free()
        try:
            found, logits = _guarded(lambda: answer(*receive(channel)), lifeline)
            send(channel, found, logits)
        except PeerGone:
            return


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
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or OUT_OF_MEMORY.search(said):
        return {"error": "out_of_memory", "detail": said[:500]}
    if isinstance(error, torch.AcceleratorError) or FATAL.search(said):
        send(lifeline, {"said": f"the device failed: {said[:2000]}"})
        os._exit(FATAL_EXIT)  # whatever comes after such an error on this device is wrong, in this process
    return {"error": "worker_failed", "detail": traceback.format_exc()[-4000:]}


def _free() -> None:
    """Give back what was kept for the next pass."""
    gc.collect()
    ARENA.release()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _manage(nets: dict[str, Predictor], head: Head) -> Answer:
    key = str(head["model"])
    if head["do"] == "drop":
        nets.pop(key, None)
        return {}, []
    folder = Path(str(head["folder"]))
    if read_manifest(folder)[1] != head["digest"]:
        raise BadCheckpoint("the manifest was replaced while the model was loaded", where=MANIFEST)
    predictor = Predictor.load(folder, str(head["device"]), str(head["engine"]), cast(Precision, head["precision"]))
    predictor.forward([predictor.voxelize(warm_up_cloud())])  # the first pass through a net is several times slower than the next
    nets[key] = predictor
    reach = tuple(predictor.reach) if predictor.manifest.task == "segment" else None
    return {"reach": reach, "engine": predictor.engine.name}, []


def _forward(nets: dict[str, Predictor], head: Head, arrays: list[Array]) -> Answer:
    """arrays: coords and feats of each cloud."""
    batch = [Voxels(coords, feats, NO_VOXEL) for coords, feats in zip(arrays[::2], arrays[1::2], strict=True)]  # type: ignore[arg-type]
    net = nets.get(str(head["model"]))
    if net is None:
        raise BadCheckpoint("the model could not be loaded again after its worker died", where=str(head["model"]))
    logits = net.forward(batch)
    return {}, [logits.cpu().numpy()]


def warm_up_cloud() -> PointCloud:
    """A ball of points with every column a model may ask for."""
    xyz = np.random.default_rng(0).normal(size=(WARM_UP_POINTS, 3)).astype(np.float32)
    rgb = np.full((WARM_UP_POINTS, 3), 128, np.uint8)
    return PointCloud(xyz, rgb=rgb, intensity=np.zeros(WARM_UP_POINTS, np.float32))
