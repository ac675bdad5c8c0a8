"""What may move while finetuning: decided once, before an optimiser exists.

| mode | trained | batch norm of the stages |
|---|---|---|
| io | stem and head | frozen: normalises by the image statistics |
| ioms | stem and head | statistics follow the clouds, affine frozen |
| iobn | stem, head and every batch norm | trained |
| all | everything | trained |

Source: Image2Point §4.1 (FIP-IO, FIP-IO+BN, FIP-ALL). The stages are the parameters named `layer…`; batch norms of stem
and head always train. Departs from the public code: freezing comes before the optimiser, so that weight decay and
momentum can never touch a frozen tensor.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

Mode = Literal["io", "ioms", "iobn", "all"]
Init = Literal["image", "scratch", "random-frozen", "random-inflated"]
STAGE_PREFIX = "layer"


@dataclass(frozen=True)
class FreezePolicy:
    """Names of trained parameters, and of batch-norm modules that stay in evaluation mode during training."""

    trained: frozenset[str]
    frozen_norms: frozenset[str]

    def apply(self, net: nn.Module) -> None:
        """Set requires_grad of every parameter."""
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in self.trained)

    def set_train(self, net: nn.Module) -> None:
        """Training mode, except the frozen batch norms."""
        net.train()
        for name in self.frozen_norms:
            net.get_submodule(name).eval()

    def parameters(self, net: nn.Module) -> list[nn.Parameter]:
        """What an optimiser gets."""
        return [parameter for name, parameter in net.named_parameters() if name in self.trained]

    def of_stages(self, net: nn.Module) -> list[nn.Parameter]:
        """Those of them that are in the residual stages."""
        return [parameter for name, parameter in net.named_parameters() if name in self.trained and name.startswith(STAGE_PREFIX)]


def freeze_policy(net: nn.Module, mode: Mode) -> FreezePolicy:
    """The policy of a mode for a net whose stages are called `layer…`."""
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    trained = set()
    for name, _ in net.named_parameters():
        in_stage = name.startswith(STAGE_PREFIX)
        is_norm = name.rpartition(".")[0] in norms
        if mode == "all" or not in_stage or (mode == "iobn" and is_norm):
            trained.add(name)
    frozen_norms = {name for name in norms if mode == "io" and name.startswith(STAGE_PREFIX)}
    return FreezePolicy(frozenset(trained), frozenset(frozen_norms))
