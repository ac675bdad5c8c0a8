"""The engines: which there are, and which one runs here.

`FIP_ENGINE`, or the argument that `--engine` becomes, decides; else the first that runs on the device and was found right.
"""

import functools
import os

import torch

from models.errors import BadOption, nearest
from models.sparse.backends.protocol import Engine
from models.sparse.backends.reference import ReferenceEngine
from models.sparse.backends.torch_engine import TorchEngine

ENGINES: dict[str, Engine] = {"torch": TorchEngine(), "reference": ReferenceEngine()}
AUTO = "auto"


def engine_named(name: str) -> Engine:
    """Raises: BadOption (lists the known)."""
    if name not in ENGINES:
        raise BadOption(f"unknown engine {name!r}{nearest(name, ENGINES)}", where="engine", known=(AUTO, *ENGINES))
    return ENGINES[name]


def engine_for(device: torch.device | str, name: str | None = None) -> Engine:
    """The engine of this name; without one (or `auto`) the one of FIP_ENGINE, else the one chosen for the device."""
    wanted = name if name not in (None, AUTO) else os.environ.get("FIP_ENGINE") or AUTO
    return _chosen(torch.device(device).type) if wanted == AUTO else engine_named(wanted)


@functools.cache
def _chosen(device_type: str) -> Engine:
    return ENGINES["torch"]
