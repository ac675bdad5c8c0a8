"""The engines: which there are, and which one runs here.

`FIP_ENGINE`, or the argument that `--engine` becomes, decides; else the first of PREFERRED for the kind of device that was found right
on this machine: on a CPU unless another is much faster, on CUDA in any case, because whoever installed torchsparse wants it used.
"""

import functools
import os
from dataclasses import dataclass

import torch

from models.errors import BadOption, nearest
from models.sparse.backends.native import native_engine
from models.sparse.backends.probe import FULL, EngineReport, Precisions, fastest, first_right, judged, probe_engines
from models.sparse.backends.protocol import Engine
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.backends.torch_engine import TorchEngine
from models.sparse.backends.torchsparse_backend import TorchsparseEngine
from models.sparse.backends.triton_engine import TritonEngine

ENGINES: dict[str, Engine] = {
    "native": native_engine(),
    "torchsparse": TorchsparseEngine(),
    "triton": TritonEngine(),
    "torch": TorchEngine(),
    "reference": ReferenceEngine(),
}
PREFERRED = {"cpu": ("native", "torch"), "cuda": ("torchsparse", "triton", "torch")}
AUTO = "auto"


@dataclass(frozen=True)
class Choice:
    """The engine of a device, why it was chosen, and what was found of each that came into question."""

    name: str
    reason: str
    reports: dict[str, EngineReport]


def engine_named(name: str) -> Engine:
    """The engine of this name. Raises: BadOption (unknown: lists the known; or it cannot run here: says why)."""
    if name not in ENGINES:
        raise BadOption(f"unknown engine {name!r}{nearest(name, ENGINES)}", where="engine", known=(AUTO, *ENGINES))
    reason = ENGINES[name].unavailable()
    if reason is not None:
        raise BadOption(
            f"engine {name!r} cannot be used here: {reason}", where="engine", known=(AUTO, *(each for each in ENGINES if each != name))
        )
    return ENGINES[name]


def engine_for(device: torch.device | str, name: str | None = None, precisions: Precisions = FULL) -> Engine:
    """The engine of this name; without one that of FIP_ENGINE; where neither says more than `auto`, the one chosen for the device.

    precisions: what the factors of its products will be rounded to. Raises: BadOption.
    """
    wanted = name or os.environ.get("FIP_ENGINE") or AUTO
    return engine_named(choose(device, precisions).name if wanted == AUTO else wanted)


def choose(device: torch.device | str, precisions: Precisions = FULL) -> Choice:
    """Probe the engines, each device's once a process: a few tenths of a second, and some seconds where kernels are compiled first."""
    place = torch.device(device)
    if place.type == "cuda" and place.index is None and torch.cuda.is_available():
        place = torch.device("cuda", torch.cuda.current_device())
    return _chosen(place, judged(place, precisions))


@functools.cache
def _chosen(device: torch.device, precisions: Precisions) -> Choice:
    preferred = PREFERRED.get(device.type, ("torch",))
    reports = probe_engines({name: ENGINES[name] for name in preferred}, device, precisions)
    return Choice(*(fastest if device.type == "cpu" else first_right)(reports, preferred), reports)
