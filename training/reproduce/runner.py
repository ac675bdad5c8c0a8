"""Trials in processes of one thread each, until none is missing or the time is over. What is stopped is saved, and gone on with."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import click
import torch

from models.errors import BadWeights, FipError
from training.data import Data
from training.datasets import read_scenes, read_split
from training.datasets.kinds import SCENE_KINDS
from training.image_weights import OWN, load_image_weights
from training.reproduce.records import Records
from training.reproduce.search import Known
from training.reproduce.train import train_trial
from training.reproduce.trial import Inputs, Record, Trial, Up, write_record
from training.runstate import Busy, held

MODELNET = "modelnet40"
BUSY, BUSY_S = "busy", 5.0  # what a worker says of a trial that another command trains, and how soon to look again
STOP_S = 60.0  # for a worker that was asked to save
WEIGHTS = {  # by network: the names that its 2D weights go by
    "resnet18": ("imagenet1k_resnet18_pq_small.npz", "resnet18-f37072fd.pth"),
    "resnet50": ("imagenet1k_resnet50_pq_large.npz", "resnet50-0676ba61.pth"),
    "cifar_resnet20": ("cifar10_resnet20.safetensors", "resnet20-12fca82f.th"),
    "cifar_resnet32": ("cifar10_resnet32.safetensors", "resnet32-d509ac18.th"),
    "cifar_resnet44": ("cifar10_resnet44.safetensors", "resnet44-014dd654.th"),
    "cifar_resnet56": ("cifar10_resnet56.safetensors", "resnet56-4bfd9763.th"),
}


@dataclass(frozen=True)
class Places:
    """Folders: the data set, 2D weights, records, training state; which axis is up in its files; the device that trains; its kind."""

    data: Path
    weights: Path
    records: Path
    runs: Path
    up: Up = "z"
    device: str = "cpu"
    kind: str = MODELNET

    def inputs(self) -> Inputs:
        """Raises: BadDataset, BadWeights."""
        train, test = (self._split(split) for split in ("train", "test"))
        found = {network: path for network, names in WEIGHTS.items() if (path := self._first(names))}
        if not found:
            raise BadWeights("none of the 2D weights is here", where=str(self.weights), known=[names[0] for names in WEIGHTS.values()])
        found |= OWN
        digests = {network: load_image_weights(str(path)).sha256 for network, path in found.items()}
        digests |= {"train": train.digest, "test": test.digest}
        return Inputs(self.kind, train, test, found, digests, self.runs / "cache", self.up)

    def run_dir(self, trial: Trial, inputs: Inputs) -> Path:
        """Of its own for every recipe, weights and data."""
        digest = hashlib.sha256(json.dumps(inputs.of(trial), sort_keys=True).encode()).hexdigest()
        return self.runs / f"{trial.name}-{digest[:8]}"

    def _split(self, split: str) -> Data:
        return read_scenes(self.kind, self.data, split) if self.kind in SCENE_KINDS else read_split(self.kind, self.data, split)

    def _first(self, names: tuple[str, ...]) -> Path | None:
        return next((path for name in names if (path := self.weights / name).is_file()), None)


@dataclass
class Outcome:
    """How a call of `run` ended. failed: what went wrong, by trial; untrained: trials whose 2D weights are not here."""

    whole: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    untrained: int = 0


def run(missing: Callable[[Known], list[Trial]], places: Places, jobs: int, until: float | None = None) -> Outcome:
    """Train what is missing, `jobs` trials at once, until nothing is, or the clock (time.monotonic) says `until`.

    Trials that another command trains at the moment are left to it. Raises: BadDataset, BadWeights, BadOption (records of other
    data), KeyboardInterrupt (Ctrl-C or SIGTERM; once what runs is saved).
    """
    inputs = places.inputs()
    records = Records(places.records, inputs)
    outcome = Outcome()
    if not _todo(missing, records, outcome):
        outcome.whole = not outcome.untrained
        return outcome
    asked = [trial.recipe(places.up) for trial in missing(records.known) if not trial.search]
    for recipe in {each.input: each for each in asked}.values():
        inputs.test_samples(recipe).close()
    workers = [_Worker(places) for _ in range(jobs)]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the workers save
    try:
        _train(missing, records, outcome, workers, until)
    finally:
        signal.signal(signal.SIGTERM, before)
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
    return outcome


def _todo(missing: Callable[[Known], list[Trial]], records: Records, outcome: Outcome) -> list[Trial]:
    found = missing(records.known)
    able = [trial for trial in found if records.trainable(trial)]
    outcome.untrained = len(found) - len(able)
    return [trial for trial in able if trial.name not in outcome.failed]


def _train(
    missing: Callable[[Known], list[Trial]], records: Records, outcome: Outcome, workers: list["_Worker"], until: float | None
) -> None:
    done, began = 0, time.monotonic()
    elsewhere: set[str] = set()  # what another command trains at the moment
    while True:
        going = {worker.trial.name for worker in workers if worker.trial} | elsewhere
        todo = [trial for trial in _todo(missing, records, outcome) if trial.name not in going]
        for worker, trial in zip([worker for worker in workers if not worker.trial], todo, strict=False):
            worker.begin(trial)
        busy = [worker for worker in workers if worker.trial]
        if not busy and elsewhere and (until is None or time.monotonic() < until):
            time.sleep(BUSY_S)
            elsewhere.clear()
            continue
        if not busy:
            outcome.whole = not todo and not outcome.failed and not outcome.untrained
            return
        ready = wait([worker.line for worker in busy], timeout=1.0 if until is None else max(0.0, min(1.0, until - time.monotonic())))
        for worker in (worker for worker in busy if worker.line in ready):
            trial, said = worker.finished()
            if said == BUSY:
                elsewhere.add(trial.name)
                continue
            done += 1
            found = records.known(trial)
            if said or found is None:
                outcome.failed[trial.name] = said or "no record was written"
            left = (time.monotonic() - began) / done * max(0, len(todo) - 1)
            click.echo(f"{trial.name}: {_told(found) if found else outcome.failed[trial.name]}; {_ahead(len(todo), left)}")
        if until is not None and time.monotonic() >= until:
            click.echo("the time is over; what runs is saved")
            return


def _ahead(trials: int, seconds: float) -> str:
    return f"{trials} more known of, about {seconds / 3600:.1f} h"


def _told(record: Record) -> str:
    test = "" if record.test is None else f", test {record.test:.2%}"
    return f"{'diverged, ' * record.diverged}held-out {record.held_out:.2%}{test}, {record.seconds:.0f} s"


class _Worker:
    """A process that trains one trial after the other; a new one where it dies."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.trial: Trial | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, self._places), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, trial: Trial) -> None:
        self.trial = trial
        try:
            self.line.send(trial)
        except BrokenPipeError:
            self._start()
            self.line.send(trial)

    def finished(self) -> tuple[Trial, str | None]:
        """The trial, and what went wrong with it."""
        assert self.trial is not None
        trial, self.trial = self.trial, None
        try:
            said: str | None = self.line.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            said = f"its process died, exit code {self._process.exitcode}"
            self._start()
        return trial, said

    def stop(self) -> None:
        if self._process.is_alive():
            self._process.terminate()

    def join(self) -> None:
        self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()


def _work(line: Connection, places: Places) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # `fit` saves first, while it runs
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    inputs = places.inputs()
    while True:
        trial: Trial = line.recv()
        try:
            said = _one(trial, inputs, places)
        except KeyboardInterrupt:
            return
        except Busy:
            said = BUSY
        except FipError as error:
            said = str(error)
        except Exception as error:  # whatever it is, it is this trial's
            said = f"{type(error).__name__}: {error}"
        line.send(said)


def _end_with_parent() -> None:
    """A parent that was killed says nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _one(trial: Trial, inputs: Inputs, places: Places) -> str | None:
    """None, or what went wrong. Once there is a record, nothing else is kept of the trial. Raises: Busy, KeyboardInterrupt, FipError."""
    run_dir = places.run_dir(trial, inputs)
    with held(run_dir):
        if Records(places.records, inputs).known(trial):  # of another command, which has just left
            return None
        with (run_dir / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
            try:
                record = train_trial(trial, inputs, run_dir, places.device)
            except FipError:
                raise
            except Exception as error:
                traceback.print_exc()
                return f"{type(error).__name__}: {error} ({run_dir / 'log.txt'})"
        write_record(places.records, trial, record)
        shutil.rmtree(run_dir)
    return None
