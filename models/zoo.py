"""From a NetworkSpec to a net: one dict literal."""

from functools import partial
from typing import Protocol

from torch import nn

from models.errors import BadCheckpoint, nearest
from models.manifest import NetworkSpec
from models.resnet3d import SHAPES, ResNet3d


class Maker(Protocol):
    def __call__(self, in_channels: int, num_classes: int, *, tied: str) -> nn.Module: ...


NETWORKS: dict[str, Maker] = {name: partial(ResNet3d, shape) for name, shape in SHAPES.items()}


def build(spec: NetworkSpec) -> nn.Module:
    """A net with fresh weights. Raises: BadCheckpoint (unknown network; lists the known ones)."""
    if spec.name not in NETWORKS:
        raise BadCheckpoint(f"unknown network {spec.name!r}{nearest(spec.name, NETWORKS)}", where="network.name", known=NETWORKS)
    return NETWORKS[spec.name](spec.in_channels, spec.num_classes, tied=spec.tied or "")
