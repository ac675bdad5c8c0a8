"""One cloud on its way to a class for every point, in as many forward passes as its size asks for.

N points, M voxels, L classes. `segmenting` decides; the service and `fip predict` go through the parts.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from models.devoxelize import Surroundings
from models.manifest import Axis
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.processor import PointAnswers, Processor, Segmentation, best_of
from models.ranges import factor_for
from models.tiling import TILE, TiledCloud, TileSize
from models.voxelize import Voxels

POINTS_AT_ONCE = 1 << 18  # clouds of more points are voxelized piece by piece, even where one forward pass does


class Segmenting(Protocol):
    """Each of the `parts` is `voxelize`, then `Predictor.logits`, then `take`; after all of them there is a `result`.

    Parts may be voxelized ahead and taken in any order, each once.
    """

    parts: int

    def voxelize(self, part: int) -> Voxels: ...

    def num_points(self, part: int) -> int:
        """Points that get their answer from a part."""

    def take(self, part: int, voxels: Voxels, logits: torch.Tensor) -> None:
        """Keep what the net said of the voxels of a part: (M, L), on the CPU. Raises: NonFinite."""

    def result(self) -> Segmentation: ...


def segmenting(
    processor: Processor, cloud: PointCloud, *, up: Axis | None = None, unit: str | None = None, tile: TileSize = TILE, logits: bool = False
) -> Segmenting:
    """logits: the result is to have those of every point, N × L float32.

    Raises: WrongTask, BadOption, CloudError (see models.voxelize and models.tiling)."""
    processor.require("segment")
    if len(cloud) <= POINTS_AT_ONCE:
        voxels = processor.voxelize(cloud, up=up, unit=unit)
        if len(voxels) <= tile.voxels:
            return InOne(processor, voxels, logits)
    largest = processor.manifest.largest_intensity
    factor = 1.0 if largest is None else factor_for(cloud, largest)
    tiled = TiledCloud(cloud, processor.manifest.input, processor.reach, tile, up=up, unit=unit, intensity_factor=factor)
    return InTiles(tiled, ("intensity",) if factor != 1 else (), len(processor.manifest.labels) if logits else 0)


def segment_cloud(
    predictor: Predictor,
    cloud: PointCloud,
    *,
    up: Axis | None = None,
    unit: str | None = None,
    tile: TileSize = TILE,
    progress: Callable[[int, int], None] = lambda _done, _parts: None,
) -> Segmentation:
    """All parts one after the other. progress: called with the number of parts done and of all. Raises: as `segmenting`, NonFinite."""
    work = segmenting(predictor, cloud, up=up, unit=unit, tile=tile)
    for part in range(work.parts):
        progress(part, work.parts)
        voxels = work.voxelize(part)
        work.take(part, voxels, predictor.logits(voxels))
    progress(work.parts, work.parts)
    return work.result()


class InOne:
    """A cloud that is one forward pass."""

    parts = 1

    def __init__(self, processor: Processor, voxels: Voxels, logits: bool) -> None:
        self._processor, self._voxels, self._logits = processor, voxels, logits
        self._found: Segmentation | None = None

    def voxelize(self, part: int) -> Voxels:
        return self._voxels

    def num_points(self, part: int) -> int:
        return len(self._voxels.inverse)

    def take(self, part: int, voxels: Voxels, logits: torch.Tensor) -> None:
        self._found = self._processor.answers_of_points(voxels, logits, keep_logits=self._logits)

    def result(self) -> Segmentation:
        assert self._found is not None
        return self._found


class InTiles:
    """A cloud in tiles, which may be a single one."""

    def __init__(self, tiled: TiledCloud, scaled: tuple[str, ...], kept: int) -> None:
        """kept: L, or 0 if no logits are to be kept."""
        self.tiled, self._scaled = tiled, scaled
        self.parts = len(tiled.tiles)
        self._found = PointAnswers(len(tiled), kept)

    def voxelize(self, part: int) -> Voxels:
        return self.tiled.voxelize(self.tiled.tiles[part])

    def num_points(self, part: int) -> int:
        return self.tiled.tiles[part].num_points

    def take(self, part: int, voxels: Voxels, logits: torch.Tensor) -> None:
        around: Surroundings | None = None
        best = best_of(logits)  # (M,) each
        for rows, grid, inverse in self.tiled.points(self.tiled.tiles[part], voxels):
            if grid is None:
                self._found.nearest(rows, logits, best, inverse)
            else:
                around = around or Surroundings(voxels.coords)
                self._found.own(rows, around.interpolate(logits, grid, inverse))

    def result(self) -> Segmentation:
        tiled, found = self.tiled, self._found
        seen = self.parts, tiled.halo, tiled.needed_halo
        return Segmentation(found.labels, found.confidence, tiled.num_voxels, tiled.filled, self._scaled, *seen, found.logits)
