"""Passes before the first request, which would otherwise pay for them: a net packs its layers in its first one, and on a device kernels
are compiled, and which runs quickest is measured for every size of pass (models.sparse.backends.tuning).
"""

import itertools
import math

import numpy as np
import torch

from models.memory_errors import is_out_of_memory
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.voxelize import Voxels

POINTS = 256  # enough to have every layer packed and run once; other models wait for it. They fill fewer voxels
GROWTH = 8  # from one size to the next; what is measured at two sizes holds between them


def warm_up(net: Predictor, largest: int) -> None:
    """Run the net once; on a device also with as many voxels as a pass may have, and fewer. largest: 0 for none of these."""
    voxels = net.voxelize(ball())
    net.forward([voxels])
    if net.device.type == "cpu" or not largest:
        return
    try:
        for size in sizes(largest):
            net.forward([sheet(size, voxels.feats.shape[1])])
            torch.cuda.empty_cache()
    except RuntimeError as error:
        if not is_out_of_memory(error):  # passes so large are cut up
            raise
        torch.cuda.empty_cache()


def sizes(largest: int) -> list[int]:
    """Ascending, up to the largest pass."""
    grown = (POINTS * GROWTH**step for step in itertools.count())
    return [*itertools.takewhile(lambda size: size < largest, grown), largest]


def ball() -> PointCloud:
    """Points with every column a model may ask for."""
    xyz = np.random.default_rng(0).normal(size=(POINTS, 3)).astype(np.float32)
    rgb = np.full((POINTS, 3), 128, np.uint8)
    return PointCloud(xyz, rgb=rgb, intensity=np.zeros(POINTS, np.float32))


def sheet(voxels: int, channels: int) -> Voxels:
    """So many voxels, or a few more, which lie as those of a surface do."""
    x, y = np.indices([math.isqrt(voxels - 1) + 1] * 2).reshape(2, -1)
    z = 16 + 8 * np.sin(x / 8) + 8 * np.cos(y / 8)
    coords = np.stack([x, y, z], axis=1).astype(np.int32)
    return Voxels(coords, np.ones((len(coords), channels), np.float32), np.empty(0, np.int64))
