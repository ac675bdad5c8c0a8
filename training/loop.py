"""The training loop: one story from batches to the state after the last epoch.

B samples of a batch, L classes. Everything random comes from (seed, epoch, place in the epoch), so a run that is stopped and
started again draws what it would have drawn.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from models.errors import BadDataset, BadRunDir, Diverged
from models.sparse.backends.protocol import Engine
from models.sparse.nn import filters_stay_frozen
from models.sparse.norm import TooFewSites
from training.batches import MicroBatch, TrainBatch, plan_epoch, train_batches
from training.data import Data, absent_classes, checking, groups_of, learning, unit
from training.distributed import ALONE, World, parallel
from training.engine import engine_of_run, precisions_of
from training.finetune import FreezePolicy
from training.interrupt import StopRequest, stop_request
from training.losses import batch_loss
from training.metrics import Confusion
from training.optim import lr_factor, resume_sgd, sgd
from training.progress import progress
from training.recipe import Recipe
from training.runlog import RunLog
from training.runstate import BEST, STATE, Position, RunState, read_state, write
from training.samples import Samples
from training.soup import Soup, copied
from training.validation import validate

CACHE = "cache"
SAVE_EVERY_S = 300.0


@dataclass(frozen=True)
class Compute:
    """How a run computes, which does not change what it computes. workers: processes that make batches ahead of need.

    cache: keep what does not change from epoch to epoch on disk, in the run directory. save_every_s: seconds between saves
    within an epoch. brief: the run is short and its last epoch counts, so it is saved only at its end, when it is asked to end, or has
    gone on for save_every_s, and no best weights are kept. engine: the name of what convolutions run on (models.sparse.backends), None =
    what the run began on, and what is chosen for the device where it begins; engines agree to rounding, so a run keeps to one
    (training.engine).
    """

    workers: int = 0
    cache: bool = True
    save_every_s: float = SAVE_EVERY_S
    brief: bool = False
    world: World = ALONE
    engine: str | None = None


DEFAULT = Compute()


@dataclass(frozen=True)
class Trainer:
    """The parts of a run that hold tensors, and what they are fed. model: the net, averaging gradients over all processes."""

    net: nn.Module
    model: nn.Module
    policy: FreezePolicy
    recipe: Recipe
    optimiser: torch.optim.SGD
    schedule: torch.optim.lr_scheduler.LambdaLR
    train: Samples
    validation: Samples
    run_dir: Path
    compute: Compute
    device: torch.device
    engine: Engine
    loss_weights: torch.Tensor | None
    groups: torch.Tensor | None
    soup: Soup | None


def fit(
    net: nn.Module,
    policy: FreezePolicy,
    recipe: Recipe,
    train: Data,
    validation: Data,
    run_dir: Path,
    compute: Compute = DEFAULT,
) -> Position:
    """Train `net` in place, on the device it is on, for `recipe.epochs` (as many times as there are runs in its soup) or until it stops
    early; from the state in `run_dir` on if there is one. Returns where it ended.

    After every epoch, now and then within one, and when Ctrl-C or SIGTERM ask for the end, run_dir holds the complete state;
    and the weights of the epoch with the best validation score, the accuracy or mIoU (`best.pt`; never chosen on test unless
    the recipe says so). With no validation samples the last epoch counts as the best. Raises: BadRunDir (another run's, damaged,
    begun on another engine), BadOption (engine), Diverged (the loss is not finite; the last save is kept), KeyboardInterrupt
    (asked to end, and saved).
    """
    policy.apply(net)
    world = compute.world
    device = next(net.parameters()).device
    optimiser = sgd(policy.parameters(net), recipe.optim, policy.of_stages(net))
    learn, check = learning(train, recipe), checking(validation, recipe)
    steps = len(_plan(learn, recipe, 0, world))
    if not steps:
        raise BadDataset(f"{len(train)} samples in batches of {recipe.batch_size} leave a process fewer than {learn.fewest} at a time")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lr_factor(recipe.schedule, recipe.epochs, steps, recipe.soup))
    soup = Soup.of(net) if recipe.soup > 1 else None
    position = _resume(run_dir, net, optimiser, schedule, soup)
    if position.epoch or position.step:
        world.say(
            f"going on after epoch {position.epoch} of {recipe.total_epochs}"
            + (f", step {position.step} of {steps}" if position.step else "")
        )
    if _finished(recipe, position):
        return position
    engine = engine_of_run(run_dir, position.engine, compute.engine, device, world, precisions_of(recipe))
    position.engine = engine.name
    if compute.cache:
        with world.first_goes_first():
            learn, check = learn.cached(run_dir / CACHE), check.cached(run_dir / CACHE)
    weights = torch.from_numpy(learn.class_weights()).to(device) if recipe.balance == "loss" else None
    groups = groups_of(train, recipe, device)
    with (
        closing(learn),
        closing(check),
        RunLog(run_dir) if world.first else nullcontext() as log,
        parallel(net, policy, world, device) as model,
        filters_stay_frozen(net),
        stop_request() as stop,
    ):
        trainer = Trainer(
            net, model, policy, recipe, optimiser, schedule, learn, check, run_dir, compute, device, engine, weights, groups, soup
        )
        if recipe.recalibrate and not position.epoch and not position.step:
            _recalibrate(trainer)
            if soup:
                soup.start = copied(net)
        while not _finished(recipe, position):
            if soup and not position.step and not position.epoch % recipe.epochs:
                soup.begin(net, optimiser)
            scalars = _train_epoch(trainer, position, stop)
            _close_epoch(trainer, position, scalars, log, stop)
    if position.epoch < recipe.total_epochs:
        world.say(
            f"stopped after epoch {position.epoch} of {recipe.total_epochs}: validation is no better than after epoch {position.improved}"
        )
    return position


def _finished(recipe: Recipe, position: Position) -> bool:
    """Whether all epochs are done, or too many in a row brought nothing."""
    stalled = recipe.early_stop is not None and position.epoch - position.improved >= recipe.early_stop.patience
    return position.epoch >= recipe.total_epochs or (stalled and position.step == 0)


@torch.no_grad()
def _recalibrate(trainer: Trainer) -> None:
    """Set the running statistics of the frozen norms to the mean of those of an epoch's batches; each process by its own."""
    net, recipe = trainer.net, trainer.recipe
    norms = [cast(nn.BatchNorm1d, net.get_submodule(name)) for name in sorted(trainer.policy.frozen_norms)]
    before = [norm.momentum for norm in norms]
    net.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    flat = [micro for step in _plan(trainer.train, recipe, 0, trainer.compute.world) for micro in step]
    batches = train_batches(trainer.train, flat, seed=recipe.seed, epoch=0, device=trainer.device, engine=trainer.engine)
    for batch in progress(batches, "estimating statistics, batches", len(flat), quiet=not trainer.compute.world.first):
        net(batch.inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _train_epoch(trainer: Trainer, position: Position, stop: StopRequest) -> dict[str, float]:
    """The steps of an epoch that are still to do. Returns what is logged of the whole epoch: the mean loss, the last learning rate,
    and what its steps cost, by the clock and in time of this process; of an epoch that was stopped, as its later steps tell.
    """
    recipe, compute = trainer.recipe, trainer.compute
    trainer.policy.set_train(trainer.net)
    plan = _plan(trainer.train, recipe, position.epoch, compute.world)
    todo = plan[position.step :]
    flat = [micro for step in todo for micro in step]
    batches = train_batches(
        trainer.train,
        flat,
        seed=recipe.seed,
        epoch=position.epoch,
        device=trainer.device,
        engine=trainer.engine,
        workers=compute.workers,
    )
    lr = _lr_of_last_step(trainer.schedule)  # where every step of the epoch was done before a stop
    began, cpu = time.monotonic(), time.process_time()
    unread = deque[Callable[[], float]]()  # losses of the last steps
    for step in progress(todo, "training, steps of this epoch", len(plan), start=position.step, quiet=not compute.world.first):
        lr = float(trainer.schedule.get_last_lr()[0])
        unread.append(_step(trainer, step, batches))
        trainer.schedule.step()
        saving, asked = time.monotonic() - position.saved > compute.save_every_s, False
        while len(unread) > (0 if saving or asked else _steps_behind(trainer)):
            asked = _take_down(unread.popleft(), trainer, position, stop)
        if asked or saving:
            save_state(trainer, position)
        if asked:
            raise KeyboardInterrupt
    for loss in unread:
        _take_down(loss, trainer, position, stop)
    share = len(todo) / len(plan)
    costs = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    return {"loss": float(np.mean(position.losses)), "lr": lr} | {name: cost / share for name, cost in costs.items() if share}


def _steps_behind(trainer: Trainer) -> int:
    """How many losses may be unread while the next step is begun: on a device one, so that it has that step to do meanwhile."""
    return 1 if trainer.device.type == "cuda" and trainer.compute.world.size == 1 else 0


def _take_down(loss: Callable[[], float], trainer: Trainer, position: Position, stop: StopRequest) -> bool:
    """A step is done. Returns whether the run is asked to end. Raises: Diverged."""
    mean, asked = trainer.compute.world.mean([loss(), float(stop.asked)], trainer.device)
    if not math.isfinite(mean):
        raise Diverged(f"the loss of epoch {position.epoch + 1} is {mean}; try a lower learning rate than {trainer.recipe.optim.lr:g}")
    position.losses.append(mean)
    position.step += 1
    return bool(asked)


def _lr_of_last_step(schedule: torch.optim.lr_scheduler.LambdaLR) -> float:
    factor: float = schedule.lr_lambdas[0](max(schedule.last_epoch - 1, 0))
    return float(schedule.base_lrs[0]) * factor


def _step(trainer: Trainer, step: list[MicroBatch], batches: Iterator[TrainBatch]) -> Callable[[], float]:
    """One optimiser step over its micro-batches. Returns this process's part of the mean loss, before the update, once it is asked for."""
    model = trainer.model
    trainer.optimiser.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64, device=trainer.device)
    for number, (micro, batch) in enumerate(zip(step, islice(batches, len(step)), strict=True), start=1):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model.require_backward_grad_sync = number == len(step)  # gradients travel once a step
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.recipe.precision == "bf16"):
            try:
                logits = model(batch.inputs)
            except TooFewSites as error:
                raise BadDataset(_too_small(trainer.recipe, len(micro.rows), len(batch.inputs.coords))) from error
            loss = _loss(trainer, logits, batch, len(micro.rows)) * micro.share
        loss.backward()
        total += loss.detach()
    trainer.optimiser.step()
    if total.device.type != "cuda":
        return lambda: float(total)
    copied = total.to("cpu", non_blocking=True)
    arrived = torch.cuda.current_stream(total.device).record_event()

    def read() -> float:
        arrived.synchronize()  # and not for what the device was asked to do since
        return float(copied)

    return read


def _too_small(recipe: Recipe, samples: int, voxels: int) -> str:
    return (
        f"a batch of {samples} {unit(recipe)}{'s' * (samples > 1)} has only {voxels} voxels, so close together that they are one to the "
        f"deepest layers: say a smaller input.voxel_size than {recipe.input.voxel_size:g}, or a larger batch_size"
    )


def _loss(trainer: Trainer, logits: torch.Tensor, batch: TrainBatch, samples: int) -> torch.Tensor:
    """The summed loss of B samples, with its graph."""
    recipe = trainer.recipe
    return batch_loss(
        batch.wanted(logits),
        batch.targets,
        samples,
        label_smoothing=recipe.label_smoothing,
        weights=trainer.loss_weights,
        lovasz=recipe.lovasz,
        groups=trainer.groups,
        occurring=batch.occurring,
    )


def _close_epoch(trainer: Trainer, position: Position, scalars: dict[str, float], log: RunLog | None, stop: StopRequest) -> None:
    """Validate, keep the best weights, log, save. Raises: KeyboardInterrupt (asked to end; the epoch is saved)."""
    recipe, world = trainer.recipe, trainer.compute.world
    epoch = position.epoch + 1
    if trainer.soup and epoch % recipe.epochs == 0:
        trainer.soup.add(trainer.net, epoch // recipe.epochs)
    if len(trainer.validation):
        scalars |= _validation_scores(validate(trainer.net, trainer.validation, world, trainer.engine), recipe)
    score = scalars.get("val_miou", scalars.get("val_accuracy", math.inf))
    better = score >= position.best
    margin = recipe.early_stop.min_delta if recipe.early_stop else 0.0
    if not len(trainer.validation) or position.improved == 0 or score > position.mark + margin:
        position.improved, position.mark = epoch, score
    if better:
        position.best, position.best_epoch = score, epoch
    position.epoch, position.step, position.losses = epoch, 0, []
    if world.first:
        if better and not trainer.compute.brief:
            write(trainer.run_dir / BEST, trainer.net.state_dict())
        assert log is not None
        log.epoch(epoch, scalars)  # before the state: a stop in between repeats the epoch, and the log keeps the later line
    asked = world.mean([float(stop.asked)], trainer.device)[0]
    if asked or not trainer.compute.brief or _finished(recipe, position):
        save_state(trainer, position)
    if asked:
        raise KeyboardInterrupt


def _validation_scores(found: Confusion, recipe: Recipe) -> dict[str, float]:
    """What an epoch is judged by; nothing where no point of the validation scenes counts."""
    if not found.num_points:
        return {}
    scores = {"val_accuracy": found.accuracy}
    return {**scores, "val_miou": found.mean_iou(absent_classes(recipe.miou_empty))} if recipe.task == "segment" else scores


def _plan(train: Samples, recipe: Recipe, epoch: int, world: World) -> list[list[MicroBatch]]:
    return plan_epoch(
        train.strata,
        batch_size=recipe.batch_size,
        accumulate=recipe.accumulate,
        balance=recipe.balance,
        seed=recipe.seed,
        epoch=epoch,
        rank=world.rank,
        ranks=world.size,
        fewest=train.fewest,
    )


def _resume(
    run_dir: Path, net: nn.Module, optimiser: torch.optim.SGD, schedule: torch.optim.lr_scheduler.LambdaLR, soup: Soup | None
) -> Position:
    """How far the run in the run directory is, after putting back what it holds."""
    path = run_dir / STATE
    if not path.is_file():
        return Position()
    state = read_state(path)
    try:
        net.load_state_dict(state["net"])
        resume_sgd(optimiser, state["optimiser"])
        schedule.load_state_dict(json.loads(state["schedule"]))
        if soup:
            soup.put_back(state["soup"], net)
        return Position(
            epoch=state["epoch"],
            step=state["step"],
            losses=state["losses"],
            best=state["best"],
            best_epoch=state["best_epoch"],
            improved=state["improved"],
            mark=state["mark"],
            engine=state.get("engine"),
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadRunDir(f"does not fit this run: {str(error).splitlines()[0]}", where=str(path)) from error


def save_state(trainer: Trainer, position: Position) -> None:
    """Write the complete state; one process does it for all."""
    position.saved = time.monotonic()
    if not trainer.compute.world.first:
        return
    schedule = {key: value for key, value in trainer.schedule.state_dict().items() if key != "lr_lambdas"}
    state: RunState = {
        "engine": position.engine,
        "epoch": position.epoch,
        "step": position.step,
        "losses": position.losses,
        "best": position.best,
        "best_epoch": position.best_epoch,
        "improved": position.improved,
        "mark": position.mark,
        "net": trainer.net.state_dict(),
        "optimiser": trainer.optimiser.state_dict(),
        "schedule": json.dumps({**schedule, "lr_lambdas": [None]}),
    }
    if trainer.soup:
        state["soup"] = trainer.soup.state
    write(trainer.run_dir / STATE, state)
