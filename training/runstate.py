"""Files of a run directory that only training itself reads: whose run it is, complete state, best weights. No code in any of them."""

import fcntl
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import torch

from models.durable import sync
from models.errors import BadRunDir

CLAIM, STATE, BEST, LOCK = "run.json", "state.pt", "best.pt", ".lock"


class Busy(BadRunDir):
    """Another process trains in the directory."""

    code = "run_dir_in_use"


class RunState(TypedDict):
    """Everything that going on needs after `epoch` finished epochs and `step` optimiser steps of the next.

    losses: of those steps; best: highest validation accuracy so far, last reached after best_epoch; improved: the epoch that last
    beat the one before it that did so, whose accuracy is mark, by what early stop asks for; schedule: JSON. engine: the name of
    what the run computes on; not in states from before the record. soup: where several runs are averaged, the tensors of that.
    """

    engine: NotRequired[str | None]
    soup: NotRequired[dict[str, dict[str, torch.Tensor]]]
    epoch: int
    step: int
    losses: list[float]
    best: float
    best_epoch: int
    improved: int
    mark: float
    net: dict[str, torch.Tensor]
    optimiser: dict[str, object]
    schedule: str


@dataclass
class Position:
    """How far a run is: finished epochs, steps of the next one and their losses, and what validation said (see RunState).

    engine: the name of what the steps so far were computed on; None before the first, and where an earlier version did not say.
    saved: when this process last saved, or began (time.monotonic).
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = 0
    improved: int = 0
    mark: float = -math.inf
    engine: str | None = None
    saved: float = field(default_factory=time.monotonic)


def claim(run_dir: Path, facts: Mapping[str, str | None]) -> None:
    """Make the directory, or check that the run in it is the same: recipe, 2D weights, clouds.

    `facts` are names and digests. Raises: BadRunDir (another run's, damaged, or not to be written).
    """
    path = run_dir / CLAIM
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise BadRunDir(f"cannot be used: {error}", where=str(run_dir)) from error
    if found is not None and found != dict(facts):
        differ = sorted(name for name in facts if not isinstance(found, dict) or found.get(name) != facts[name])
        raise BadRunDir(f"holds a run with another {' and '.join(differ)}; for a new one choose another --run-dir", where=str(run_dir))
    write_text(path, json.dumps(dict(facts), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Written beside and moved into place. Raises: BadRunDir."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            sync(file)
        part.replace(path)
    except OSError as error:
        raise BadRunDir(f"cannot be written: {error}", where=str(path)) from error


def write(path: Path, content: Mapping[str, object]) -> None:
    """Tensors, numbers and containers of them; written beside and moved into place, so that a stop leaves the old file.

    Raises: BadRunDir.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(dict(content), file)
            sync(file)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise BadRunDir(f"cannot be written: {error}", where=str(path)) from error


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Make the directory and keep other processes out of it. Raises: Busy (one is in it), BadRunDir (cannot be made)."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / LOCK).open("ab")
    except OSError as error:
        raise BadRunDir(f"cannot be used: {error.strerror}", where=str(run_dir)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Busy("another process trains here; wait for it, or choose another --run-dir", where=str(run_dir)) from error
        yield


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a net. Raises: BadRunDir (missing or damaged)."""
    return cast("dict[str, torch.Tensor]", _read(path))


def read_state(path: Path) -> RunState:
    """What `write` put there last. Raises: BadRunDir (missing or damaged)."""
    return cast("RunState", _read(path))


def _read(path: Path) -> object:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (weights_only, our own file)
    except Exception as error:  # a damaged file fails in many ways, and every one of them means this
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadRunDir(f"missing or damaged: {reason}; remove the run directory to start again", where=str(path)) from error
    return content
