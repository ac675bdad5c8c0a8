"""From values of voxels to values of points. N points, M voxels, any number of values C each."""

import itertools
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from models.voxelize import Voxels

Int64s = npt.NDArray[np.int64]
POINTS_AT_A_TIME = 1 << 15

Value = TypeVar("Value", bound=np.generic)


def nearest(values: npt.NDArray[Value], voxels: Voxels) -> npt.NDArray[Value]:
    """Every point takes the value of the voxel that it lies in: (M, …) -> (N, …)."""
    return values.take(voxels.inverse, axis=0)  # several times as fast as by an index in brackets


def trilinear(values: npt.NDArray[np.float32], voxels: Voxels) -> npt.NDArray[np.float32]:
    """Every point interpolates between the centres of the up to eight voxels around it: (M, C) -> (N, C)."""
    assert voxels.grid is not None
    around = Surroundings(voxels.coords)
    table = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    return torch.cat([around.interpolate(table, *part) for part in pieces(voxels.grid, voxels.inverse)]).numpy()


def pieces(grid: npt.NDArray[np.float32], inverse: Int64s) -> Iterator[tuple[npt.NDArray[np.float32], Int64s]]:
    """Positions (N, 3) and voxels (N,) of points, some at a time: what is made of them is then small, and stays in the cache."""
    for start in range(0, len(inverse), POINTS_AT_A_TIME):
        yield grid[start : start + POINTS_AT_A_TIME], inverse[start : start + POINTS_AT_A_TIME]


class Surroundings:
    """Where the neighbours of M voxels stand among them; coords (M, 3), ascending as in Voxels."""

    def __init__(self, coords: npt.NDArray[np.int32]) -> None:
        self._own = coords.T.astype(np.int64)  # (3, M)
        _, self._width, self._height = (int(axis.max()) + 3 for axis in self._own)  # a cell of room on either side
        keys = _key(self._own, self._width, self._height)
        self._starts = _columns(keys, self._width, self._height)  # (9, M)
        self._keys = np.append(keys, np.iinfo(np.int64).max)  # ascending; no cell has the last one

    def interpolate(self, values: torch.Tensor, grid: npt.NDArray[np.float32], inverse: Int64s) -> torch.Tensor:
        """Values (M, C) on the CPU for points at positions (n, 3) in cells, each in the voxel `inverse` (n,) says: (n, C).

        Weights of cells that are not occupied are shared out among the others; the point's own cell always has an eighth or more.
        """
        rows, weights = (torch.from_numpy(each) for each in self._around(grid, inverse))
        out: torch.Tensor = torch.nn.functional.embedding_bag(rows, values, mode="sum", per_sample_weights=weights)
        return out

    def _around(self, positions: npt.NDArray[np.float32], inverse: Int64s) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The eight cells around each point: their voxels (n, 8), 0 where there is none, and weights (n, 8), which sum to 1."""
        grid = np.ascontiguousarray(positions.T)  # (3, n)
        floor = np.floor(grid)
        upper = grid - floor  # weight of the upper cell along each axis
        lower = 1 - upper
        base = floor.astype(np.int64)  # (3, n)
        lowest = _key(base, self._width, self._height)
        away = base - self._own.take(inverse, axis=1)  # -1 or 0
        rows, weights = np.empty((8, grid.shape[1]), np.int32), np.empty((8, grid.shape[1]), np.float32)
        for column, (dx, dy) in enumerate(itertools.product((0, 1), repeat=2)):
            key = lowest + (dx * self._width + dy) * self._height
            row = self._starts.take(((away[0] + dx + 1) * 3 + away[1] + dy + 1) * self._own.shape[1] + inverse)
            row += self._keys.take(row) < key  # where that is the cell below
            share = (upper if dx else lower)[0] * (upper if dy else lower)[1]
            for dz in (0, 1):
                there = self._keys.take(row) == key + dz
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
