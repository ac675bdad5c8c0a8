"""From values of voxels to values of points. N points, M voxels, any number of values C each."""

import itertools

import numpy as np
import numpy.typing as npt

from models.voxelize import Voxels


def nearest(values: npt.NDArray[np.generic], voxels: Voxels) -> npt.NDArray[np.generic]:
    """Every point takes the value of the voxel that it lies in: (M, …) -> (N, …)."""
    return values[voxels.inverse]


def trilinear(values: npt.NDArray[np.float32], voxels: Voxels) -> npt.NDArray[np.float32]:
    """Every point interpolates between the centres of the up to eight voxels around it: (M, C) -> (N, C).

    Weights of cells that are not occupied are shared out among the others; the point's own cell always has an eighth or more.
    """
    assert voxels.grid is not None
    shape = voxels.coords.max(axis=0).astype(np.int64) + 3  # a cell of room on either side
    keys = _key(voxels.coords.T.astype(np.int64), shape)  # ascending, as coords are
    base = np.floor(voxels.grid)
    part = (voxels.grid - base).T  # (3, N)
    cells = base.T.astype(np.int64)
    out = np.zeros((len(voxels.grid), values.shape[1]), np.float32)
    total = np.zeros(len(voxels.grid), np.float32)
    for corner in itertools.product((0, 1), repeat=3):
        key = _key([axis + step for axis, step in zip(cells, corner, strict=True)], shape)
        row = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        weight = np.prod([each if step else 1 - each for each, step in zip(part, corner, strict=True)], axis=0)
        weight = np.where(keys[row] == key, weight, np.float32(0))
        out += weight[:, None] * values[row]
        total += weight
    return out / total[:, None]


def _key(cells: "npt.NDArray[np.int64] | list[npt.NDArray[np.int64]]", shape: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    x, y, z = cells
    key: npt.NDArray[np.int64] = ((x + 1) * shape[1] + y + 1) * shape[2] + z + 1
    return key
