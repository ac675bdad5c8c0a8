"""Which engine a run computes on: one for the whole run, and the same in all its processes.

Engines agree to rounding, not in bits, and `auto` is decided by a measurement: chosen anew at every start, a run that was stopped
could end with other weights than one that was not.
"""

import os
from pathlib import Path

import torch

from models.errors import BadRunDir
from models.sparse.backends import AUTO, ENGINES, engine_for, engine_named
from models.sparse.backends.probe import FULL, Precisions, probe_engine
from models.sparse.backends.protocol import Engine
from training.distributed import World
from training.recipe import Recipe


def engine_of_run(
    run_dir: Path, begun_on: str | None, wanted: str | None, device: torch.device, world: World, precisions: Precisions = FULL
) -> Engine:
    """The engine that the run in `run_dir` began on; for a new one (`begun_on` None), what `engine_for` gives the first process.

    wanted: a name that the user gave; without one that of FIP_ENGINE. precisions: those that the run multiplies in: how an engine does
    in others is nothing to it. Raises: BadOption (unknown, or not to be had, in a new run),
    BadRunDir (another than the run began on is wanted; the run's is not to be had here, or not right; says how to go on).
    """
    decided: Engine | None = None
    with world.first_goes_first():
        if world.first:
            if begun_on is None:
                decided = engine_for(device, wanted, precisions)
            else:
                decided = _engine_again(run_dir, begun_on, wanted, device, precisions)
    name = world.first_says(decided.name if decided else "")
    if decided is not None:
        return decided
    reason = _why_not(name, device, precisions)
    if reason is not None:
        raise BadRunDir(f"the first process computes on engine {name!r}, which process {world.rank} cannot: {reason}", where=str(run_dir))
    return engine_named(name)


def precisions_of(recipe: Recipe) -> Precisions:
    """What a run multiplies in; validation is in float32, whatever its steps are in."""
    return FULL if recipe.precision == "fp32" else (*FULL, recipe.precision)


def _engine_again(run_dir: Path, begun_on: str, wanted: str | None, device: torch.device, precisions: Precisions) -> Engine:
    named = wanted or os.environ.get("FIP_ENGINE") or AUTO
    anew = "start anew in another --run-dir"
    if named not in (AUTO, begun_on):
        raise BadRunDir(
            f"the run began on engine {begun_on!r}, not {named!r}: go on with --engine {begun_on}, or {anew}", where=str(run_dir)
        )
    reason = _why_not(begun_on, device, precisions)
    if reason is not None:
        raise BadRunDir(
            f"the run began on engine {begun_on!r}, which cannot go on here: {reason}; mend that, or {anew}", where=str(run_dir)
        )
    return engine_named(begun_on)


def _why_not(name: str, device: torch.device, precisions: Precisions) -> str | None:
    """None where the engine runs and is right here."""
    if name not in ENGINES:
        return f"this version has no such engine (known: {', '.join(ENGINES)})"
    report = probe_engine(ENGINES[name], device, precisions)
    return None if report.works else report.reason
