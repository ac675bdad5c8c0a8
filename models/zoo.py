"""From a NetworkSpec to a net: the backbones of `resnet3d.SHAPES`, as a classifier or, with a decoder, as a U-Net."""

from torch import nn

from models.errors import BadCheckpoint, nearest
from models.manifest import NetworkSpec
from models.resnet3d import SHAPES, ResNet3d
from models.unet3d import UNet3d


def build(spec: NetworkSpec) -> nn.Module:
    """A net with fresh weights. Raises: BadCheckpoint (unknown network; lists the known ones)."""
    shape = SHAPES.get(spec.name)
    if shape is None:
        raise BadCheckpoint(f"unknown network {spec.name!r}{nearest(spec.name, SHAPES)}", where="network.name", known=SHAPES)
    tied = spec.tied or ""
    if spec.decoder is None:
        return ResNet3d(shape, spec.in_channels, spec.num_classes, tied=tied, layout=spec.layout)
    return UNet3d(shape, spec.in_channels, spec.num_classes, decoder=spec.decoder, blur=spec.blur, tied=tied)
