"""Optimiser and learning-rate schedules."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from models.frozen import Frozen, is_none

Positive = Annotated[float, Field(gt=0)]


class OptimSpec(Frozen):
    """SGD. Source: Image2Point's public configurations (ModelNet: 0.1, 0.9, 1e-4, no Nesterov).

    stages: factor on the learning rate of the residual stages; below 1 what came from images moves less than stem and head.
    """

    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    nesterov: bool = False
    stages: Annotated[Positive, Field(exclude_if=lambda factor: factor == 1)] = 1.0

    @model_validator(mode="after")
    def nesterov_needs_momentum(self) -> "OptimSpec":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScheduleSpec(Frozen):
    """How the learning rate moves; always stepped once an optimiser step.

    cosine: from lr to 0 over the whole run. reference: the public code's quirk, a cosine whose half period is
    `epochs` *steps* (or half_period, that of a longer run), so that it cycles many times. constant: lr throughout.
    poly: (1 - t/T)^0.9. warmup_epochs: linear from 0 before it (not for `reference`).
    """

    kind: Literal["cosine", "reference", "constant", "poly"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    half_period: Annotated[int | None, Field(gt=0, exclude_if=is_none)] = None

    @model_validator(mode="after")
    def only_cycles_have_periods(self) -> "ScheduleSpec":
        if self.half_period is not None and self.kind != "reference":
            raise ValueError("half_period: is for the schedule `reference`")
        return self


def sgd(parameters: Iterable[nn.Parameter], spec: OptimSpec, stages: Iterable[nn.Parameter] = ()) -> torch.optim.SGD:
    """SGD over exactly the given parameters, those of the `stages` among them, which have a learning rate of their own where the spec says
    so. On a CPU in one pass over each, in a third of the time; elsewhere as PyTorch chooses.
    """
    moved = list(parameters)
    fused = True if all(each.device.type == "cpu" for each in moved) else None
    groups: list[dict[str, object]] = [{"params": moved}]
    if spec.stages != 1 and (slower := list(stages)):
        inside = set(map(id, slower))
        groups = [{"params": [each for each in moved if id(each) not in inside]}, {"params": slower, "lr": spec.lr * spec.stages}]
    return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, nesterov=spec.nesterov, fused=fused)


def resume_sgd(optimiser: torch.optim.SGD, state: dict[str, object]) -> None:
    """Go on from a state, by this optimiser's own way of stepping: the state may be of another device, or of an older version.

    Raises: ValueError where it is of other parameters.
    """
    ways = [group["fused"] for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, fused in zip(optimiser.param_groups, ways, strict=True):
        group["fused"] = fused


def lr_factor(spec: ScheduleSpec, epochs: int, steps_per_epoch: int, runs: int = 1) -> Callable[[int], float]:
    """Step number (0, 1, …) -> factor on the learning rate, which begins anew with each of so many runs of `epochs`."""
    total = max(1, epochs * steps_per_epoch)
    warmup = int(spec.warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        step -= min(step // total, runs - 1) * total
        if spec.kind == "reference":
            return 0.5 * (1 + math.cos(math.pi * step / (spec.half_period or epochs)))
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        if spec.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return float((1 - progress) ** 0.9) if spec.kind == "poly" else 1.0

    return factor
