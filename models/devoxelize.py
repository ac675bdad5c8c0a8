"""From values of voxels to values of points. N points, M voxels, any number of values C each."""

import itertools
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from models.voxelize import Voxels

Int64s = npt.NDArray[np.int64]


Value = TypeVar("Value", bound=np.generic)


def nearest(values: npt.NDArray[Value], voxels: Voxels) -> npt.NDArray[Value]:
    """Every point takes the value of the voxel that it lies in: (M, …) -> (N, …)."""
    return values.take(voxels.inverse, axis=0)  # several times as fast as by an index in brackets


def trilinear(values: npt.NDArray[np.float32], voxels: Voxels) -> npt.NDArray[np.float32]:
    """Every point interpolates between the centres of the up to eight voxels around it: (M, C) -> (N, C).

    Weights of cells that are not occupied are shared out among the others; the point's own cell always has an eighth or more.
    """
    rows, weights = (torch.from_numpy(each) for each in _around(voxels))
    table = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    out: torch.Tensor = torch.nn.functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)
    return out.numpy()


def _around(voxels: Voxels) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The eight cells around each point: their voxels (N, 8), 0 where there is none, and weights (N, 8), which sum to 1."""
    assert voxels.grid is not None
    grid = np.ascontiguousarray(voxels.grid.T)  # (3, N)
    floor = np.floor(grid)
    upper = grid - floor  # weight of the upper cell along each axis
    lower = 1 - upper
    base, own = floor.astype(np.int64), voxels.coords.T.astype(np.int64)  # (3, N), (3, M)
    _, width, height = (int(axis.max()) + 3 for axis in own)  # a cell of room on either side
    keys = np.append(_key(own, width, height), np.iinfo(np.int64).max)  # ascending, as coords are; no cell has the last one
    starts, lowest = _columns(keys[:-1], width, height), _key(base, width, height)
    away = base - own.take(voxels.inverse, axis=1)  # -1 or 0
    rows, weights = np.empty((8, grid.shape[1]), np.int32), np.empty((8, grid.shape[1]), np.float32)
    for column, (dx, dy) in enumerate(itertools.product((0, 1), repeat=2)):
        key = lowest + (dx * width + dy) * height
        row = starts.take(((away[0] + dx + 1) * 3 + away[1] + dy + 1) * len(own.T) + voxels.inverse)
        row += keys.take(row) < key  # where that is the cell below
        share = (upper if dx else lower)[0] * (upper if dy else lower)[1]
        for dz in (0, 1):
            there = keys.take(row) == key + dz
            rows[2 * column + dz] = row * there
            weights[2 * column + dz] = share * (upper if dz else lower)[2] * there
            row += there  # a cell's upper neighbour has the next row
    weights /= weights.sum(axis=0)
    return np.ascontiguousarray(rows.T), np.ascontiguousarray(weights.T)


def _columns(keys: Int64s, width: int, height: int) -> Int64s:
    """In each of the 3 × 3 columns around every voxel, the first row that is not below its lower neighbour's height: (9, M).

    Searched from voxels and not from points: in ascending order, and only once, that is several times as fast.
    """
    steps = itertools.product((-1, 0, 1), repeat=2)
    return np.stack([np.searchsorted(keys, keys + ((dx * width + dy) * height - 1)) for dx, dy in steps])


def _key(cells: Int64s, width: int, height: int) -> Int64s:
    """A number for each cell (3, …), neighbours along z one apart."""
    x, y, z = cells
    key: Int64s = ((x + 1) * width + y + 1) * height + z + 1
    return key
