"""A cloud that is too large for one forward pass, in tiles: each with a margin as wide as the net sees, so that cutting changes nothing.

N points, M voxels of the cloud, K blocks. All tiles lie on one grid, that of the whole cloud, cut at multiples of the net's total
stride; points are sorted into small blocks of cells once (4 bytes a point), and a tile gathers those of its blocks a few at a time:
beside the cloud and the order of its points, memory is that of one tile.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.errors import TooManyVoxels
from models.manifest import Axis, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import Grid, Voxels, check_options, corners, features, first_of, grid_of, group, placed, prepare, sums_of

LEAST_BLOCK = 16  # cells a side, where the net's stride is not larger
ROWS_AT_A_TIME = 1 << 17
FEW_BLOCKS, POINTS_A_BLOCK = 1 << 18, 8  # blocks are made larger where there are more than either
TABLE_CELLS = 1 << 22  # blocks of a grid whose sums are kept

Int64s = npt.NDArray[np.int64]
Rows = slice | npt.NDArray[np.int32]
CellsOf = Callable[[Rows], list[Int64s]]  # of a cloud: the cells of some of its points along each axis, three (n,)


class Reach(NamedTuple):
    """How far a net sees: an answer depends on the voxels up to `radius` cells away along each axis, and on where the grid begins modulo
    `stride` cells.
    """

    stride: int
    radius: int


@dataclass(frozen=True)
class TileSize:
    """How large one forward pass may be. voxels: of a tile with its margin; halo: width of the margin in cells, None for all a net sees."""

    voxels: int
    halo: int | None = None


TILE = TileSize(1_000_000)


@dataclass(frozen=True)
class Tile:
    """A box of blocks. core: those that get an answer; region: with the margin around them (both ascending); base: the first cell of the
    region (3,); num_voxels, of the region, and num_points, of the core.
    """

    core: Int64s
    region: Int64s
    base: Int64s
    num_voxels: int
    num_points: int


class TiledCloud:
    """A cloud and the tiles it is cut into; `tiles` cover it without overlap. What is computed, tile by tile, is for the caller to keep."""

    def __init__(
        self,
        cloud: PointCloud,
        spec: InputSpec,
        reach: Reach,
        size: TileSize,
        *,
        up: Axis | None = None,
        unit: str | None = None,
        intensity_factor: float = 1.0,
    ) -> None:
        """intensity_factor: what intensities are multiplied by to be in the model's range.

        Raises: BadOption, NoPoints, NonFinite, ExtentTooLarge, MissingFeature, TooManyVoxels (the smallest tile with its margin).
        """
        check_options(up, unit)
        cloud = cloud.checked()
        if spec.normalise != "none":  # by the mean and the farthest of all points
            cloud, up, unit = prepare(cloud, spec, up=up, unit=unit), None, None
        self._cloud, self._spec, self._factor = cloud, spec, np.float32(intensity_factor)
        self._up: Axis | None = up
        self._unit = unit
        self.filled = features(self._some(slice(0, 1)), spec.features)[1]
        self._grid = self._whole_grid()
        self.halo = reach.radius if size.halo is None else min(size.halo, reach.radius)
        self.needed_halo = reach.radius
        self._blocks = Blocks(self._cells, len(cloud), self._grid.shape, reach.stride * math.ceil(LEAST_BLOCK / reach.stride))
        self.num_voxels = int(self._blocks.voxels.sum())
        margin = self.halo + (1 if spec.devoxelize == "trilinear" else 0)  # points look into the cells beside theirs
        self.tiles = tuple(cut(self._blocks, size.voxels, math.ceil(margin / self._blocks.side)))

    def __len__(self) -> int:
        return len(self._cloud)

    def voxelize(self, tile: Tile) -> Voxels:
        """The voxels of a tile with its margin, counted from its base; of no points, for these are gone through by `points`."""
        shape = self._shape(tile)
        keys, sums, counts = [], [], []
        for rows in self._blocks.rows(tile.region):
            part = self._some(rows)
            unique, inverse = group(self._keys(tile, shape, part.xyz), math.prod(shape))
            feats, _ = features(part, self._spec.features)
            first = self._spec.voxel_feature == "reference"
            keys.append(unique)
            sums.append(feats[first_of(inverse, len(unique))] if first else sums_of(feats, inverse, len(unique)))
            counts.append(np.bincount(inverse, minlength=len(unique)))
        unique, inverse = group(np.concatenate(keys), math.prod(shape))  # a voxel may have been met in two parts
        if self._spec.voxel_feature == "reference":
            pooled = np.concatenate(sums)[first_of(inverse, len(unique))].astype(np.float32)
        else:
            total = np.bincount(inverse, weights=np.concatenate(counts), minlength=len(unique))
            pooled = (sums_of(np.concatenate(sums), inverse, len(unique)) / total[:, None]).astype(np.float32)
        coords = np.stack(np.unravel_index(unique, shape), axis=1).astype(np.int32)
        return Voxels(coords, pooled, np.empty(0, np.int64), self.filled)

    def points(self, tile: Tile, voxels: Voxels) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32] | None, Int64s]]:
        """The points of the core, some at a time: their rows in the cloud (n,), where they lie in cells (n, 3) as in Voxels.grid, and the
        voxel of each (n,).
        """
        shape = self._shape(tile)
        voxel_keys = np.ravel_multi_index(tuple(voxels.coords.T), shape)  # ascending
        for rows in self._blocks.rows(tile.core):
            xyz = self._placed(rows)
            inverse = np.searchsorted(voxel_keys, self._keys(tile, shape, xyz))
            trilinear = self._spec.devoxelize == "trilinear"
            yield rows, self._grid.positions(xyz) - tile.base.astype(np.float32) if trilinear else None, inverse

    def _some(self, rows: Rows) -> PointCloud:
        """Points of the cloud as `prepare` would have them, without the columns that are nobody's features."""
        cloud = self._cloud
        intensity = None if cloud.intensity is None else cloud.intensity[rows]
        if intensity is not None and self._factor != 1:
            intensity = intensity * self._factor
        return PointCloud(self._placed(rows), None if cloud.rgb is None else cloud.rgb[rows], intensity)

    def _placed(self, rows: Rows) -> npt.NDArray[np.floating]:
        return placed(self._cloud.xyz[rows], self._spec, up=self._up, unit=self._unit)

    def _whole_grid(self) -> Grid:
        found = [corners(self._placed(rows)) for rows in slices(len(self._cloud))]
        low, high = (np.stack(each) for each in zip(*found, strict=True))
        return grid_of(low.min(axis=0), high.max(axis=0), self._spec)

    def _cells(self, rows: Rows) -> list[Int64s]:
        return self._grid.cells(self._placed(rows))

    def _shape(self, tile: Tile) -> tuple[int, ...]:
        """Cells of the box that holds the region."""
        last = self._blocks.coords[tile.region].max(axis=0) + 1
        return tuple((last * self._blocks.side - tile.base).tolist())

    def _keys(self, tile: Tile, shape: tuple[int, ...], xyz: npt.NDArray[np.floating]) -> Int64s:
        """The number of each point's cell in the box of the region: (n,)."""
        x, y, z = (cells - start for cells, start in zip(self._grid.cells(xyz), tile.base, strict=True))
        keys: Int64s = (x * shape[1] + y) * shape[2] + z
        return keys


class Blocks:
    """The K occupied blocks of `side` cells a side, ascending by place, and the points in each.

    coords (K, 3) int32; points (K,) and voxels (K,): how many of either a block has. In clouds so sparse that there would be more than one
    for every POINTS_A_BLOCK points the side is doubled until there are not: what is kept of a block is then little beside the points.
    """

    def __init__(self, cells: CellsOf, count: int, shape: tuple[int, ...], side: int) -> None:
        """cells: the cells of some of the `count` points; shape: of the grid; side: of a block, or as often doubled as it takes."""
        self._grid = shape
        self.side, keys = self._occupied(cells, count, side)
        self.coords = np.stack(np.unravel_index(keys, self.shape), axis=1).astype(np.int32)  # (K, 3)
        self._order, self.points = self._sorted(cells, count, keys)
        self._starts = np.concatenate([[0], np.cumsum(self.points)])
        self.voxels = self._counted(cells)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid, in blocks."""
        return tuple(-(-length // self.side) for length in self._grid)

    def rows(self, blocks: Int64s) -> Iterator[npt.NDArray[np.int32]]:
        """The points of blocks, in the order of the blocks and then of the file: rows (n,) of the cloud, up to ROWS_AT_A_TIME at once."""
        # neighbours in the list are neighbours in the order: runs of them are gone through as one
        firsts = np.flatnonzero(np.concatenate([[True], np.diff(blocks) != 1]))
        lasts = np.append(firsts[1:], len(blocks)) - 1
        held: list[npt.NDArray[np.int32]] = []
        room = ROWS_AT_A_TIME
        for first, last in zip(blocks[firsts].tolist(), blocks[lasts].tolist(), strict=True):
            begin, end = int(self._starts[first]), int(self._starts[last + 1])
            while begin < end:
                piece = self._order[begin : min(end, begin + room)]
                held.append(piece)
                begin, room = begin + len(piece), room - len(piece)
                if not room:
                    yield np.concatenate(held)
                    held, room = [], ROWS_AT_A_TIME
        if held:
            yield np.concatenate(held)

    def _occupied(self, cells: CellsOf, count: int, side: int) -> tuple[int, Int64s]:
        """The side of a block that is large enough, and the keys (K,) of those that have points, ascending."""
        most = max(FEW_BLOCKS, count // POINTS_A_BLOCK)
        self.side, keys, found = side, np.empty(0, np.int64), list[Int64s]()
        for rows in slices(count):
            found.append(distinct(self._block_keys(cells(rows))))
            if sum(map(len, found)) < most and rows.stop < count:
                continue
            keys = distinct(np.concatenate([keys, *found]))
            found = []
            while len(keys) > most and max(self.shape) > 1:
                coarser = [axis // 2 for axis in np.unravel_index(keys, self.shape)]
                self.side *= 2
                keys = distinct(np.ravel_multi_index(tuple(coarser), self.shape))
        return self.side, keys

    def _block_keys(self, cells: list[Int64s]) -> Int64s:
        shape = self.shape
        x, y, z = (column // self.side for column in cells)
        keys: Int64s = (x * shape[1] + y) * shape[2] + z
        return keys

    def _sorted(self, cells: CellsOf, count: int, keys: Int64s) -> tuple[npt.NDArray[np.int32], Int64s]:
        """The rows of all points by block, those of one block in the order of the file, and how many each block has."""
        points = np.zeros(len(keys), np.int64)
        for rows in slices(count):
            np.add.at(points, np.searchsorted(keys, self._block_keys(cells(rows))), 1)
        order = np.empty(count, np.int32)
        free = np.cumsum(points) - points  # the next place of each block
        for rows in slices(count):
            block = np.searchsorted(keys, self._block_keys(cells(rows)))
            by_block = np.argsort(block, kind="stable")
            block = block[by_block]
            firsts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]]))
            sizes = np.diff(np.append(firsts, len(block)))
            rank = np.arange(len(block)) - np.repeat(firsts, sizes)
            order[free[block] + rank] = by_block + rows.start
            free[block[firsts]] += sizes
        return order, points

    def _counted(self, cells: CellsOf) -> Int64s:
        """Voxels of each block (K,): of as many whole blocks at a time as have ROWS_AT_A_TIME points, or of one."""
        voxels = np.empty(len(self.points), np.int64)
        start = 0
        while start < len(voxels):
            within = int(np.searchsorted(self._starts, self._starts[start] + ROWS_AT_A_TIME, side="right")) - 1
            stop = max(start + 1, within)
            if stop == start + 1:
                seen = [distinct(self._voxel_keys(cells(rows))) for rows in self.rows(np.arange(start, stop))]
                voxels[start] = len(distinct(np.concatenate(seen)))
            else:
                [rows] = self.rows(np.arange(start, stop))
                unique, inverse = group(self._voxel_keys(cells(rows)), math.prod(self._grid))
                first = first_of(inverse, len(unique)) + self._starts[start]  # a point of each voxel, and by its place the block
                block = np.searchsorted(self._starts, first, side="right") - 1 - start
                voxels[start:stop] = np.bincount(block, minlength=stop - start)
            start = stop
        return voxels

    def _voxel_keys(self, cells: list[Int64s]) -> Int64s:
        x, y, z = cells
        keys: Int64s = (x * self._grid[1] + y) * self._grid[2] + z
        return keys


def distinct(keys: Int64s) -> Int64s:
    """np.unique(keys), which takes several times as long."""
    ordered = np.sort(keys)
    first = np.ones(len(keys), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    found: Int64s = ordered[first]
    return found


def slices(count: int) -> Iterator[slice]:
    """Rows 0..count, ROWS_AT_A_TIME at once."""
    for start in range(0, count, ROWS_AT_A_TIME):
        yield slice(start, min(start + ROWS_AT_A_TIME, count))


def cut(blocks: Blocks, voxels: int, margin: int) -> Iterator[Tile]:
    """Tiles that cover all blocks, each with at most `voxels` voxels together with the blocks up to `margin` blocks around it.

    A box that is too large is halved, by voxels, across its longest side. Raises: TooManyVoxels (a box of one block is).
    """
    boxes = [np.arange(len(blocks.coords))]
    whole = int(blocks.voxels.sum()) <= voxels
    while boxes:
        core = boxes.pop()
        low, high = blocks.coords[core].min(axis=0), blocks.coords[core].max(axis=0)
        near = np.ones(len(blocks.coords), np.bool_)
        for axis, column in enumerate(blocks.coords.T):
            near &= (column >= low[axis] - margin) & (column <= high[axis] + margin)
        region = core if whole else np.flatnonzero(near)
        found = int(blocks.voxels[region].sum())
        if found <= voxels:
            base = blocks.coords[region].min(axis=0) * blocks.side
            yield Tile(core, region, base, found, int(blocks.points[core].sum()))
            continue
        if (low == high).all():
            raise _too_small(blocks, voxels, margin, found)
        boxes += halves(blocks, core)


def _too_small(blocks: Blocks, voxels: int, margin: int, found: int) -> TooManyVoxels:
    needed = largest_region(blocks, margin)
    many = f"at least {found}" if needed is None else f"up to {needed}"
    narrower = ", or tile_halo a narrower margin" if margin > 1 else ""
    return TooManyVoxels(
        f"tiles of {blocks.side} voxels a side with a margin of {margin * blocks.side} have {many} voxels, and tile_voxels is {voxels}; "
        f"whoever runs this has to allow that many{narrower}",
        where="tile_voxels",
    )


def largest_region(blocks: Blocks, margin: int) -> int | None:
    """The most voxels that a block has together with those up to `margin` blocks around it; None where the grid is too large to say."""
    if math.prod(blocks.shape) > TABLE_CELLS:
        return None
    sums = np.zeros([length + 1 for length in blocks.shape], np.int64)  # of all blocks below each place
    sums[tuple((blocks.coords + 1).T)] = blocks.voxels
    for axis in range(3):
        np.cumsum(sums, axis=axis, out=sums)
    low, high = np.maximum(blocks.coords - margin, 0), np.minimum(blocks.coords + margin + 1, blocks.shape)
    regions = np.zeros(len(low), np.int64)
    for corner in itertools.product((0, 1), repeat=3):
        place = np.where(corner, high, low)
        regions += (-1) ** (3 - sum(corner)) * sums[tuple(place.T)]
    return int(regions.max())


def halves(blocks: Blocks, core: Int64s) -> list[Int64s]:
    """The blocks of a box in two boxes, cut across its longest side where half of its voxels are reached."""
    coords = blocks.coords[core]
    axis = int(np.argmax(coords.max(axis=0) - coords.min(axis=0)))
    along = coords[:, axis]
    first = int(along.min())
    filled = np.cumsum(np.bincount(along - first, weights=blocks.voxels[core]))
    place = first + int(np.searchsorted(filled, filled[-1] / 2)) + 1  # the second half begins here
    place = min(place, int(along.max()))
    return [core[along >= place], core[along < place]]
