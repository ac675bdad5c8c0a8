"""Files of a run directory that only training itself reads: complete state, best weights. Plain tensors and numbers, no code."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

import torch

STATE, BEST = "state.pt", "best.pt"


class RunState(TypedDict):
    """Everything that going on after `epoch` finished epochs needs. schedule: JSON."""

    epoch: int
    best: float
    net: dict[str, torch.Tensor]
    optimiser: dict[str, object]
    schedule: str


def write(path: Path, content: Mapping[str, object]) -> None:
    """Written beside and moved into place, so that a stop in the middle leaves the old file."""
    part = path.with_suffix(".part")
    torch.save(dict(content), part)
    part.replace(path)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a net."""
    return cast("dict[str, torch.Tensor]", _read(path))


def read_state(path: Path) -> RunState:
    return cast("RunState", _read(path))


def _read(path: Path) -> object:
    content: object = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (weights_only, our own file)
    return content
