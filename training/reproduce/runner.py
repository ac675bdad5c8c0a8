"""Trials in processes of one thread each, until none is missing or the time is over. What is stopped is saved, and gone on with."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import click
import torch

from models.errors import BadWeights, Diverged, FipError
from training.datasets import read_split
from training.image_weights import load_image_weights
from training.reproduce.search import Known
from training.reproduce.trial import Inputs, Record, Trial, read_record, train_trial, write_record

STOP_S = 60.0  # for a worker that was asked to save
WEIGHTS = {  # by network: the names that its 2D weights go by
    "resnet18": ("imagenet1k_resnet18_pq_small.npz", "resnet18-f37072fd.pth"),
    "resnet50": ("imagenet1k_resnet50_pq_large.npz", "resnet50-0676ba61.pth"),
    "resnet152": ("resnet152-394f9c45.pth",),
    "cifar_resnet20": ("cifar10_resnet20.safetensors", "resnet20-12fca82f.th"),
    "cifar_resnet32": ("cifar10_resnet32.safetensors", "resnet32-d509ac18.th"),
    "cifar_resnet44": ("cifar10_resnet44.safetensors", "resnet44-014dd654.th"),
    "cifar_resnet56": ("cifar10_resnet56.safetensors", "resnet56-4bfd9763.th"),
}


@dataclass(frozen=True)
class Places:
    """Folders: ModelNet40's HDF5 files, 2D weights, records, training state; and the device that trains."""

    data: Path
    weights: Path
    records: Path
    runs: Path
    device: str = "cpu"

    def inputs(self) -> Inputs:
        """Raises: BadDataset, BadWeights."""
        train, test = (read_split("modelnet40", self.data, split) for split in ("train", "test"))
        found = {network: path for network, names in WEIGHTS.items() if (path := self._first(names))}
        if not found:
            raise BadWeights("none of the 2D weights is here", where=str(self.weights), known=[names[0] for names in WEIGHTS.values()])
        digests = {network: load_image_weights(str(path)).sha256 for network, path in found.items()}
        return Inputs(train, test, found, digests | {"train": train.digest, "test": test.digest}, self.runs / "cache")

    def _first(self, names: tuple[str, ...]) -> Path | None:
        return next((path for name in names if (path := self.weights / name).is_file()), None)


class Records:
    """What is on disk of finished trials, if it is of the same recipe, weights and data. Read once."""

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        self._folder = folder
        self._inputs = inputs
        self._found: dict[str, Record] = {}

    def known(self, trial: Trial) -> Record | None:
        if trial.name not in self._found:
            found = read_record(self._folder, trial)
            if found is None or found.inputs != self._inputs.of(trial):
                return None
            self._found[trial.name] = found
        return self._found[trial.name]

    def trainable(self, trial: Trial) -> bool:
        """Whether the 2D weights of its network are here; without them no arm of it is trained."""
        return trial.network in self._inputs.weights


def run(missing: Callable[[Known], list[Trial]], places: Places, jobs: int, until: float | None = None) -> bool:
    """Train what is missing, `jobs` trials at once, until nothing is, or the clock (time.monotonic) says `until`.

    Returns whether nothing is missing. Raises: BadDataset, BadWeights, KeyboardInterrupt (once what runs is saved).
    """
    inputs = places.inputs()
    if lacking := [names[0] for network, names in WEIGHTS.items() if network not in inputs.weights]:
        click.echo(f"not trained, because their 2D weights are not in {places.weights}: networks of {', '.join(lacking)}")
    records = Records(places.records, inputs)
    workers = [_Worker(places) for _ in range(jobs)]
    failed: set[str] = set()
    done, began = 0, time.monotonic()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the workers save
    try:
        while True:
            going = {worker.trial.name for worker in workers if worker.trial}
            todo = [trial for trial in missing(records.known) if trial.name not in going | failed and records.trainable(trial)]
            for worker, trial in zip([worker for worker in workers if not worker.trial], todo, strict=False):
                worker.begin(trial)
            busy = [worker for worker in workers if worker.trial]
            if not busy:
                return not todo and not failed
            ready = wait([worker.line for worker in busy], timeout=1.0 if until is None else max(0.0, min(1.0, until - time.monotonic())))
            for worker in busy:
                if worker.line not in ready:
                    continue
                trial, said = worker.finished()
                done += 1
                if said:
                    failed.add(trial.name)
                left = (time.monotonic() - began) / done * max(0, len(todo) + len(busy) - 1)
                click.echo(f"{trial.name}: {said or _told(records.known(trial))}; {len(todo)} more known of, about {left / 3600:.1f} h")
            if until is not None and time.monotonic() >= until:
                click.echo("the time is over; what runs is saved")
                return False
    finally:
        signal.signal(signal.SIGTERM, before)
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()


def _told(record: Record | None) -> str:
    if record is None:
        return "no record was written"
    test = "" if record.test is None else f", test {record.test:.2%}"
    return f"held-out {record.held_out:.2%}{test}, {record.seconds:.0f} s"


class _Worker:
    """A process that trains one trial after the other."""

    def __init__(self, places: Places) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, places), daemon=True)
        self.process.start()
        theirs.close()
        self.trial: Trial | None = None

    def begin(self, trial: Trial) -> None:
        self.trial = trial
        self.line.send(trial)

    def finished(self) -> tuple[Trial, str | None]:
        """The trial, and what went wrong with it. Raises: RuntimeError (the process died)."""
        assert self.trial is not None
        try:
            said: str | None = self.line.recv()
        except EOFError as error:
            raise RuntimeError(f"the process that trained {self.trial.name} died; its log is in its run directory") from error
        trial, self.trial = self.trial, None
        return trial, said

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.terminate()

    def join(self) -> None:
        self.process.join(STOP_S)
        if self.process.is_alive():
            self.process.kill()


def _work(line: Connection, places: Places) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # `fit` saves first, while it runs
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    inputs = places.inputs()
    while True:
        trial: Trial = line.recv()
        run_dir = places.runs / trial.name
        run_dir.mkdir(parents=True, exist_ok=True)
        with (run_dir / "log.txt").open("a", encoding="utf-8", buffering=1) as log:
            sys.stdout = sys.stderr = log
            try:
                line.send(_one(trial, inputs, places, run_dir))
            except KeyboardInterrupt:
                return
            finally:
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _end_with_parent() -> None:
    """A parent that was killed says nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _one(trial: Trial, inputs: Inputs, places: Places, run_dir: Path) -> str | None:
    """None, or what went wrong."""
    try:
        record = train_trial(trial, inputs, run_dir, places.device)
    except Diverged as error:
        if not trial.search:
            return str(error)
        record = Record.diverged(trial, inputs)
    except FipError as error:
        return str(error)
    write_record(places.records, trial, record)
    for path in run_dir.glob("state.pt"):
        path.unlink()
    return None
