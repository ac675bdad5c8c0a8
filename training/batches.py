"""From labelled clouds to the batches of an epoch: which clouds, in which order, on which process, as voxels.

B clouds of a batch, W processes. What an epoch sees depends on (seed, epoch) alone, and a cloud's augmentation on its place
in the epoch too, so neither stops nor the number of processes or workers change it.
"""

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from models.errors import FipError
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.sparse.backends import engine_for
from models.sparse.backends.protocol import Engine
from models.sparse.tensor import SparseTensor, collate, sparse_tensor
from models.voxelize import Voxels, prepare, voxelize
from training.augment import AugmentSpec, augment
from training.datasets import Clouds
from training.pack import Array, Pack, has_pack, write_pack
from training.progress import progress

Balance = Literal["none", "loss", "sampler"]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]


@dataclass(frozen=True)
class TrainBatch:
    """inputs: voxels of B clouds; targets (B,) int64."""

    inputs: SparseTensor
    targets: torch.Tensor


@dataclass(frozen=True)
class MicroBatch:
    """The clouds that one process puts through the net at once: their rows, and their places in the epoch, both (B,).

    share: the weight of their summed loss, such that the mean over processes of all that belongs to an optimiser step is the
    mean over its clouds.
    """

    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    share: float


@dataclass(frozen=True)
class Samples:
    """Clouds as voxels: prepared, augmented where `augmentation` is given, voxelized by the function that serves.

    pack: what does not change from epoch to epoch, on disk: voxels where nothing is augmented, else prepared clouds.
    """

    clouds: Clouds
    spec: InputSpec
    augmentation: AugmentSpec | None = None
    pack: Pack | None = None

    def __len__(self) -> int:
        return len(self.clouds)

    def voxels(self, row: int, rng: np.random.Generator | None = None) -> Voxels:
        """One cloud; `rng` draws its augmentation. Raises: InputError."""
        if self.pack is not None and self.augmentation is None:
            return _unpacked_voxels(self.pack[row])
        cloud = prepare(self.clouds.cloud(row), self.spec) if self.pack is None else _unpacked_cloud(self.pack[row])
        if self.augmentation is not None and rng is not None:
            cloud = augment(cloud, self.augmentation, rng, self.spec.up)
        return voxelize(cloud, self.spec)

    def cached(self, folder: Path) -> "Samples":
        """The same, with everything that can be computed once on disk in `folder`. Raises: InputError, BadRunDir."""
        what = "voxels" if self.augmentation is None else "prepared"
        key = hashlib.sha256(f"{self.clouds.digest} {self.spec.model_dump_json()} {what}".encode()).hexdigest()
        path = folder / f"{what}-{key[:16]}.bin"
        if not has_pack(path):
            rows = progress(range(len(self)), "preparing clouds", len(self))
            write_pack(path, (self._packed(row) for row in rows))
        return Samples(self.clouds, self.spec, self.augmentation, Pack(path))

    def close(self) -> None:
        """Close what is open on disk."""
        if self.pack is not None:
            self.pack.close()

    def _packed(self, row: int) -> tuple[Array | None, ...]:
        cloud = prepare(self.clouds.cloud(row), self.spec)
        if self.augmentation is not None:
            return cloud.xyz, cloud.rgb, cloud.intensity
        voxels = voxelize(cloud, self.spec)
        return voxels.coords, voxels.feats, voxels.inverse


def plan_epoch(
    targets: npt.NDArray[np.int64],
    *,
    batch_size: int,
    accumulate: int,
    balance: Balance,
    seed: int,
    epoch: int,
    rank: int = 0,
    ranks: int = 1,
) -> list[list[MicroBatch]]:
    """The optimiser steps of an epoch for process `rank` of `ranks`, each a list of micro-batches.

    batch_size counts the clouds of all processes. A last batch that would leave a process fewer than two clouds is left out:
    batch norm needs two.
    """
    order = _order(targets, balance, np.random.default_rng((seed, epoch)))
    starts = [start for start in range(0, len(order), batch_size) if min(batch_size, len(order) - start) >= 2 * ranks]
    steps = []
    for first in range(0, len(starts), accumulate):
        group = [np.arange(start, min(start + batch_size, len(order))) for start in starts[first : first + accumulate]]
        clouds = sum(len(places) for places in group)
        mine = [places[rank::ranks] for places in group]
        steps.append([MicroBatch(order[places], places, ranks / clouds) for places in mine])
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
    for made in loader:
        if isinstance(made, FipError):
            raise made
        coords, feats, targets, count = made
        inputs = sparse_tensor(coords.to(device, non_blocking=True), feats.to(device, non_blocking=True), count, engine)
        yield TrainBatch(inputs, targets.to(device, non_blocking=True))


def class_weights(targets: npt.NDArray[np.int64], classes: int) -> torch.Tensor:
    """Loss weights (L,) inverse to how often a class occurs; their mean over the clouds is 1. A class that is absent gets 0."""
    counts = np.bincount(targets, minlength=classes)
    present = np.maximum(counts, 1)
    weights = np.where(counts > 0, len(targets) / (present * np.count_nonzero(counts)), 0)
    return torch.from_numpy(weights.astype(np.float32))


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
            voxels = [self._samples.voxels(int(row), rng) for row, rng in zip(micro.rows, draws, strict=True)]
        except FipError as error:
            return error  # raised in a worker, it would arrive as the text of a traceback
        inputs = collate(voxels, engine=self._engine)
        return inputs.coords, inputs.feats, torch.from_numpy(self._samples.clouds.targets[micro.rows]), len(voxels)


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


def _unpacked_voxels(arrays: tuple[Array | None, ...]) -> Voxels:
    coords, feats, inverse = arrays
    return Voxels(cast("npt.NDArray[np.int32]", coords), cast("npt.NDArray[np.float32]", feats), cast("npt.NDArray[np.int64]", inverse))


def _unpacked_cloud(arrays: tuple[Array | None, ...]) -> PointCloud:
    xyz, rgb, intensity = arrays
    return PointCloud(
        cast("npt.NDArray[np.floating]", xyz),
        rgb=cast("npt.NDArray[np.uint8] | None", rgb),
        intensity=cast("npt.NDArray[np.float32] | None", intensity),
    )
