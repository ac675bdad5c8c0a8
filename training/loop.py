"""The training loop: one story from batches to the state after the last epoch.

B clouds of a batch, L classes. Randomness of an epoch comes from (seed, epoch) alone, so a run that is stopped and
started again draws what it would have drawn.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from models.errors import BadRunDir, Diverged
from models.manifest import InputSpec
from models.sparse.tensor import SparseTensor, collate
from models.voxelize import prepare, voxelize
from training.augment import AugmentSpec, augment
from training.datasets import LabelledClouds
from training.finetune import FreezePolicy
from training.optim import lr_factor, sgd
from training.progress import progress
from training.recipe import Recipe
from training.runlog import RunLog
from training.runstate import BEST, STATE, RunState, read_state, write


@dataclass(frozen=True)
class TrainBatch:
    """inputs: voxels of B clouds; targets (B,) int64."""

    inputs: SparseTensor
    targets: torch.Tensor


def fit(net: nn.Module, policy: FreezePolicy, recipe: Recipe, train: LabelledClouds, validation: LabelledClouds, run_dir: Path) -> None:
    """Train `net` in place, on the device it is on, for `recipe.epochs`; from the last finished epoch in `run_dir` if there is one.

    After every epoch run_dir holds the complete state, and the weights of the epoch with the best validation accuracy
    (`best.pt`; never chosen on test). With no validation clouds the last epoch counts as the best.
    Raises: BadRunDir, Diverged (the loss is not finite; the epoch before is kept).
    """
    policy.apply(net)
    device = next(net.parameters()).device
    optimiser = sgd(policy.parameters(net), recipe.optim)
    steps = _steps(len(train), recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lr_factor(recipe.schedule, recipe.epochs, steps))
    done, best = _resume(run_dir, net, optimiser, schedule)
    if done:
        click.echo(f"going on after epoch {done} of {recipe.epochs}")
    with RunLog(run_dir) as log:
        for epoch in range(done, recipe.epochs):
            loss, lr = _train_epoch(net, policy, recipe, train_batches(train, recipe, epoch, device), steps, optimiser, schedule)
            if not math.isfinite(loss):
                raise Diverged(f"the loss of epoch {epoch + 1} is {loss}; try a lower learning rate than {recipe.optim.lr:g}")
            scalars = {"loss": loss, "lr": lr}
            if len(validation):
                scalars["val_accuracy"] = accuracy_of(net, validation, recipe.input)
            if not scalars.get("val_accuracy", best) < best:
                best = scalars.get("val_accuracy", best)
                write(run_dir / BEST, net.state_dict())
            log.epoch(epoch + 1, scalars)  # before the state: a stop in between repeats the epoch, and the log keeps the later line
            _save_state(run_dir, epoch + 1, best, net, optimiser, schedule)


def _train_epoch(
    net: nn.Module,
    policy: FreezePolicy,
    recipe: Recipe,
    batches: Iterator[TrainBatch],
    steps: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> tuple[float, float]:
    """All steps of one epoch. Returns the mean loss and the learning rate of the last step."""
    policy.set_train(net)
    losses, lr = [], 0.0
    for batch in progress(batches, "training, steps of this epoch", steps):
        lr = float(schedule.get_last_lr()[0])
        with torch.autocast(batch.targets.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = batch_loss(net, batch, recipe.label_smoothing)
        losses.append(train_step(loss, optimiser))
        schedule.step()
    return float(np.mean(losses)), lr


def batch_loss(net: nn.Module, batch: TrainBatch, label_smoothing: float) -> torch.Tensor:
    """Mean cross entropy of a batch, with its graph."""
    logits: torch.Tensor = net(batch.inputs)  # (B, L)
    return nn.functional.cross_entropy(logits.float(), batch.targets, label_smoothing=label_smoothing)


def train_step(loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> float:
    """Backward pass and update. Returns the loss before the update."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def train_batches(clouds: LabelledClouds, recipe: Recipe, epoch: int, device: torch.device) -> Iterator[TrainBatch]:
    """Shuffled, augmented, voxelized batches of one epoch; a last batch of a single cloud is left out (batch norm)."""
    rng = np.random.default_rng((recipe.seed, epoch))
    order = rng.permutation(len(clouds))
    for start in range(0, len(order), recipe.batch_size):
        rows = order[start : start + recipe.batch_size]
        if len(rows) > 1:
            yield _batch(clouds, rows, recipe.input, recipe.augment, rng, device)


def accuracy_of(net: nn.Module, clouds: LabelledClouds, spec: InputSpec, batch_size: int = 32) -> float:
    """Share of clouds the net has right, in evaluation mode, on the device it is on."""
    net.eval()
    device = next(net.parameters()).device
    right = 0
    with torch.inference_mode():
        for start in range(0, len(clouds), batch_size):
            batch = _batch(clouds, np.arange(start, min(start + batch_size, len(clouds))), spec, None, None, device)
            right += int((net(batch.inputs).argmax(1) == batch.targets).sum())
    return right / len(clouds)


def _batch(
    clouds: LabelledClouds,
    rows: np.ndarray,
    spec: InputSpec,
    augmentation: AugmentSpec | None,
    rng: np.random.Generator | None,
    device: torch.device,
) -> TrainBatch:
    voxels = []
    for row in rows:
        cloud = prepare(clouds.cloud(int(row)), spec)
        if augmentation is not None and rng is not None:
            cloud = augment(cloud, augmentation, rng, spec.up)
        voxels.append(voxelize(cloud, spec))
    return TrainBatch(collate(voxels, device), torch.from_numpy(clouds.targets[rows]).to(device))


def _steps(num_clouds: int, batch_size: int) -> int:
    whole, rest = divmod(num_clouds, batch_size)
    return whole + (rest > 1)


def _resume(run_dir: Path, net: nn.Module, optimiser: torch.optim.SGD, schedule: torch.optim.lr_scheduler.LambdaLR) -> tuple[int, float]:
    """(finished epochs, best validation accuracy) after putting back what the run directory holds."""
    path = run_dir / STATE
    if not path.is_file():
        return 0, float("-inf")
    state = read_state(path)
    try:
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(json.loads(state["schedule"]))
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadRunDir(f"does not fit this run: {str(error).splitlines()[0]}", where=str(path)) from error
    return state["epoch"], state["best"]


def _save_state(
    run_dir: Path, epoch: int, best: float, net: nn.Module, optimiser: torch.optim.SGD, schedule: torch.optim.lr_scheduler.LambdaLR
) -> None:
    position = {key: value for key, value in schedule.state_dict().items() if key != "lr_lambdas"}
    state: RunState = {
        "epoch": epoch,
        "best": best,
        "net": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": json.dumps({**position, "lr_lambdas": [None]}),
    }
    write(run_dir / STATE, state)
