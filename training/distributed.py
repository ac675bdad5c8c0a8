"""Data-parallel training under torchrun: which process this is, what all agree on, and batch norm across processes.

W processes. A run of W processes takes the optimiser steps of a run of one: batches are split, not multiplied.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import click
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import nn

from models.device import CPU, known_device, parse_device
from models.sparse.tensor import SparseTensor
from training.finetune import FreezePolicy

TIMEOUT = timedelta(hours=6)  # the others wait while the first process reads a large data set


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def say(self, text: object) -> None:
        """Print a line, once for all processes."""
        if self.first:
            click.echo(text)

    def mean(self, values: list[float], device: torch.device) -> list[float]:
        """The mean over all processes of each value."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return [float(value) / self.size for value in tensor.cpu()]

    def first_says(self, text: str) -> str:
        """The text of the first process, in every process."""
        if self.size == 1:
            return text
        answer = [text]
        dist.broadcast_object_list(answer)
        return answer[0]

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process runs the block alone, then the others: they find on disk what it left there.

        Where the first one fails, it is the one to say so: the others leave. Raises: SystemExit (there).
        """
        if self.first:
            try:
                yield
            except BaseException:
                self._told(failed=True)
                raise
            self._told(failed=False)
        else:
            if self._told(failed=False):
                raise SystemExit(1)
            yield

    def _told(self, *, failed: bool) -> bool:
        """Whether the first process failed: it says so, the others listen."""
        if self.size == 1:
            return failed
        answer = [failed]
        dist.broadcast_object_list(answer)
        return answer[0]


ALONE = World()


@contextmanager
def world(device: str) -> Iterator[tuple[World, str]]:
    """This process among those that torchrun started (alone without it), and the device that it should use, of those that there are.

    `cuda` becomes the device of the process's own number on its machine. Raises: BadOption (there is no such device).
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield ALONE, parse_device(device)
        return
    device = known_device(device)  # not tried out: all processes would do so on the first one
    on_cuda = device != CPU
    if on_cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


@contextmanager
def parallel(net: nn.Module, policy: FreezePolicy, world: World, device: torch.device) -> Iterator[nn.Module]:
    """The module whose backward pass averages gradients over all processes; `net` itself where there is only one.

    Batch norms that use the statistics of the batch take them from all processes on CUDA, and in mode `io`, where only those
    of stem and head do; on the CPU each process otherwise normalises its own clouds, and the running statistics are those of
    the first.
    """
    if world.size == 1:
        yield net
        return
    if device.type == "cuda" or policy.frozen_norms:
        synchronise_norms(net, policy.frozen_norms)
    ids = [device.index] if device.type == "cuda" else None
    model = nn.parallel.DistributedDataParallel(net, device_ids=ids)
    try:
        yield model
    finally:
        # A traceback may keep the module alive past the process group. Its reducer must not be what ends the group then: that
        # joins a thread of gloo's that itself waits for Python's lock.
        del model.reducer, model.logger


class CudaSyncedBatchNorm(nn.SyncBatchNorm):
    """PyTorch's batch normalisation over the rows of all processes: (S, C) -> (S, C), dense or sparse. For CUDA alone."""

    def forward(self, x: torch.Tensor | SparseTensor) -> torch.Tensor | SparseTensor:  # type: ignore[override]
        return x.with_feats(super().forward(x.feats)) if isinstance(x, SparseTensor) else super().forward(x)


class CpuSyncedBatchNorm(nn.BatchNorm1d):
    """The same on the CPU; sums are taken in double precision."""

    def forward(self, x: torch.Tensor | SparseTensor) -> torch.Tensor | SparseTensor:  # type: ignore[override]
        normalise = self._over_all if self.training else super().forward
        return x.with_feats(normalise(x.feats)) if isinstance(x, SparseTensor) else normalise(x)

    def _over_all(self, x: torch.Tensor) -> torch.Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        wide = x.double()
        local = torch.cat([wide.sum(0), wide.square().sum(0), wide.new_tensor([len(x)])])
        total = dist_nn.all_reduce(local)  # differentiable: its backward pass sums gradients over all processes
        count = total[-1].detach()
        mean, square = total[: self.num_features] / count, total[self.num_features : -1] / count
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        normalised: torch.Tensor = ((wide - mean) * (variance + self.eps).rsqrt()).to(x.dtype) * self.weight + self.bias
        return normalised


def synchronise_norms(net: nn.Module, frozen: frozenset[str]) -> None:
    """Replace the batch norms of `net`, but for the frozen ones, by synchronised ones with the same parameters and buffers."""
    for name, norm in list(net.named_modules()):
        if not isinstance(norm, nn.BatchNorm1d) or name in frozen:
            continue
        kind = CudaSyncedBatchNorm if norm.weight.is_cuda else CpuSyncedBatchNorm
        synced = kind(norm.num_features, norm.eps, norm.momentum)
        synced.weight, synced.bias = norm.weight, norm.bias
        synced.running_mean, synced.running_var, synced.num_batches_tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, synced)
