"""From samples to the batches of an epoch: which ones, in which order, on which process.

B samples of a batch, S answers of a net for them, T targets, W processes. What an epoch sees depends on (seed, epoch) alone, and
a sample's augmentation on its place in the epoch too, so neither stops nor the number of processes or workers change it.
"""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from models.errors import FipError
from models.sparse.backends import engine_for
from models.sparse.backends.protocol import Engine
from models.sparse.tensor import Geometry, SparseTensor, collate, sparse_tensor
from training.recipe import Balance
from training.samples import Sample, Samples
from training.streaming import on_device

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, "Facts"]


class Facts(NamedTuple):
    """What is known of a batch without asking a device: its clouds, the different targets (none of shares), ascending, and how many of
    the clouds are the variants of each sample, where they vote.
    """

    clouds: int
    occurring: tuple[int, ...]
    variants: tuple[int, ...] | None


@dataclass(frozen=True)
class TrainBatch:
    """inputs: voxels of B samples; targets (T,) int64 or (T, L) float32; occurring: see Facts; rows (T,) int64: which of the net's answers
    each is for, None where in order.
    """

    inputs: SparseTensor
    targets: torch.Tensor
    occurring: tuple[int, ...]
    rows: torch.Tensor | None = None

    def wanted(self, answers: torch.Tensor) -> torch.Tensor:
        """The net's answers (S, …) that the targets are for: (T, …)."""
        return answers if self.rows is None else answers[self.rows]


@dataclass(frozen=True)
class MicroBatch:
    """The samples that one process puts through the net at once: their rows, and their places in the epoch, both (B,).

    share: the weight of their summed loss, such that the mean over processes of all that belongs to an optimiser step is the
    mean over its samples.
    """

    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    share: float


def plan_epoch(
    strata: npt.NDArray[np.int64],
    *,
    batch_size: int,
    accumulate: int,
    balance: Balance,
    seed: int,
    epoch: int,
    rank: int = 0,
    ranks: int = 1,
    fewest: int = 2,
) -> list[list[MicroBatch]]:
    """The optimiser steps of an epoch for process `rank` of `ranks`, each a list of micro-batches.

    strata (D,): the class of each sample, for `balance`. batch_size counts the samples of all processes. A last batch that would
    leave a process fewer than `fewest` is left out: the batch norm of a classifier's answers needs two.
    """
    order = _order(strata, balance, np.random.default_rng((seed, epoch)))
    starts = [start for start in range(0, len(order), batch_size) if min(batch_size, len(order) - start) >= fewest * ranks]
    steps = []
    for first in range(0, len(starts), accumulate):
        group = [np.arange(start, min(start + batch_size, len(order))) for start in starts[first : first + accumulate]]
        samples = sum(len(places) for places in group)
        mine = [places[rank::ranks] for places in group]
        steps.append([MicroBatch(order[places], places, ranks / samples) for places in mine])
    return steps


def train_batches(
    samples: Samples,
    micros: Sequence[MicroBatch],
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    engine: Engine | None = None,
    workers: int = 0,
) -> Iterator[TrainBatch]:
    """The batches of `micros`, in order; with `workers`, made by that many processes ahead of need.

    engine: None = the one chosen for the device.
    """
    engine = engine or engine_for(device)
    loader = DataLoader(
        _Batches(samples, micros, engine, seed, epoch),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_ignore_interrupts,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a number from it: not from the global one
    )
    facts: deque[Facts] = deque()  # of the batches that are on their way
    wanted = Geometry()  # which maps the net has needed

    def made(tensors: list[torch.Tensor]) -> TrainBatch:
        coords, feats, targets, rows = tensors
        known = facts.popleft()
        inputs = sparse_tensor(coords, feats, known.clouds, engine, known.variants)
        inputs.sites.build(wanted)
        return TrainBatch(inputs, targets, known.occurring, rows if len(rows) else None)

    with closing(on_device(_whole(iter(loader), facts), device, made)) as arrived:  # workers are forked here, not in a thread
        for batch in arrived:
            yield batch
            if device.type == "cuda":  # built ahead of need: their sizes are not waited for behind a step
                wanted = batch.inputs.sites.geometry


def _whole(made: Iterator[Tensors | FipError], facts: deque[Facts]) -> Iterator[list[torch.Tensor]]:
    """The tensors of each batch; what else there is goes to `facts`. Raises: what went wrong with a batch."""
    try:
        for batch in made:
            if isinstance(batch, FipError):
                raise batch
            *tensors, known = batch
            facts.append(known)
            yield tensors
    finally:
        del made  # with its workers, although a traceback may keep this frame


class _Batches(Dataset[Tensors | FipError]):
    """Micro-batches as plain tensors, which travel between processes through shared memory."""

    def __init__(self, samples: Samples, micros: Sequence[MicroBatch], engine: Engine, seed: int, epoch: int) -> None:
        self._samples, self._micros, self._engine, self._seed, self._epoch = samples, micros, engine, seed, epoch

    def __len__(self) -> int:
        return len(self._micros)

    def __getitem__(self, index: int) -> Tensors | FipError:
        micro = self._micros[index]
        draws = [np.random.default_rng((self._seed, self._epoch, int(place))) for place in micro.places]
        try:
            made = [self._samples.sample(int(row), rng) for row, rng in zip(micro.rows, draws, strict=True)]
        except FipError as error:
            return error  # raised in a worker, it would arrive as the text of a traceback
        inputs = collate([sample.voxels for sample in made], engine=self._engine)
        targets = np.concatenate([sample.targets for sample in made])
        occurring = () if targets.dtype.kind == "f" else tuple(np.unique(targets).tolist())
        facts = Facts(inputs.batch_size, occurring, inputs.variants)
        return inputs.coords, inputs.feats, torch.from_numpy(targets), torch.from_numpy(_rows(made)), facts


def _rows(made: list[Sample]) -> npt.NDArray[np.int64]:
    """Rows of a batch's answers that its targets are for: (T,); none where they are in order."""
    if all(sample.rows is None for sample in made):
        return np.empty(0, np.int64)
    rows, first = [], 0
    for sample in made:
        rows.append(first + (np.arange(sample.answers) if sample.rows is None else sample.rows))
        first += sample.answers
    return np.concatenate(rows)


def _order(targets: npt.NDArray[np.int64], balance: Balance, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows in the order of an epoch: each once, or for `sampler` drawn so that every class is equally likely."""
    if balance != "sampler":
        return rng.permutation(len(targets))
    counts = np.bincount(targets)
    odds = 1.0 / counts[targets]
    return rng.choice(len(targets), len(targets), p=odds / odds.sum())


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches workers too; it is the training process that ends the run, once it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
