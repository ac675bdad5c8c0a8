"""Several runs from one start, each with draws of its own, and the mean of their weights as the one net that is served.

Source: Wortsman et al. 2022, Model soups (the uniform soup); there the runs differ in their settings, too.
"""

from dataclasses import dataclass

import torch
from torch import nn

State = dict[str, torch.Tensor]


@dataclass
class Soup:
    """Complete state dicts of a net. start: what every run begins with; mean: of the runs that are over."""

    start: State
    mean: State

    @classmethod
    def of(cls, net: nn.Module) -> "Soup":
        return cls(copied(net), copied(net))

    @property
    def state(self) -> dict[str, State]:
        """What going on needs."""
        return {"start": self.start, "mean": self.mean}

    def put_back(self, state: dict[str, State], net: nn.Module) -> None:
        """Raises: KeyError, RuntimeError (of another net)."""
        for name, tensor in net.state_dict().items():
            self.start[name], self.mean[name] = (state[part][name].to(tensor.device) for part in ("start", "mean"))

    def add(self, net: nn.Module, count: int) -> None:
        """A run is over, the `count`-th: its weights and running statistics go into the mean, which the net then has."""
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name] = torch.lerp(self.mean[name], tensor, 1 / count)  # exact for the first run, and for what is frozen
            else:
                self.mean[name] = tensor.clone()
        net.load_state_dict(self.mean)

    def begin(self, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Another run, without the momentum of the one before."""
        net.load_state_dict(self.start)
        optimiser.state.clear()


def copied(net: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}
