"""Features on the occupied cells of a batch of grids.

B clouds, S sites of the whole batch, C channels. coords (S, 4) int32 [b, x, y, z]: batch index first, in cells of the
tensor's own level; feats (S, C).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.sparse.backends import engine_for
from models.sparse.backends.protocol import Engine, SiteIndexLike
from models.sparse.conv import Route
from models.sparse.kernel_map import KernelMap
from models.voxelize import Voxels

MapKey = tuple[int, int, int, bool, str]


@dataclass(frozen=True)
class Geometry:
    """What a net makes of the sites of a batch, in its order: levels and strides that it goes down by, and arguments of `kernel_map`."""

    strides: tuple[tuple[int, int], ...] = ()
    maps: tuple[MapKey, ...] = ()


class SiteCache:
    """The sites of every level of one batch, and the kernel maps between them, each computed once by the engine.

    Shared by all tensors that come from one `collate`, so that the layers of a net, and a decoder after its encoder,
    reuse each other's maps. Not shared between batches or threads.
    """

    def __init__(self, coords: torch.Tensor, engine: Engine | None = None) -> None:
        self._engine = engine
        self._coords = {1: coords}
        self._parents: dict[tuple[int, int], torch.Tensor] = {}  # by level and stride
        self._indices: dict[int, SiteIndexLike] = {}
        self._maps: dict[MapKey, KernelMap] = {}

    @property
    def engine(self) -> Engine:
        """The one given, else the one chosen for the device: asked for only where there is something to compute."""
        if self._engine is None:
            self._engine = engine_for(self._coords[1].device)
        return self._engine

    @property
    def geometry(self) -> Geometry:
        """What has been computed so far."""
        return Geometry(tuple(self._parents), tuple(self._maps))

    def build(self, geometry: Geometry) -> None:
        """Compute what another batch of the same net needed."""
        for level, stride in geometry.strides:
            self._descend(level, stride)
        for level, kernel_size, stride, transposed, tied in geometry.maps:
            self.kernel_map(level, kernel_size, stride, transposed=transposed, tied=tied)

    def coords(self, level: int) -> torch.Tensor:
        """Sites (S, 4) of a level (its total stride) that has been reached before."""
        return self._coords[level]

    def parents(self, level: int, stride: int) -> torch.Tensor:
        """Row at level · stride of every row of `level`: (S,) int64."""
        self._descend(level, stride)
        return self._parents[level, stride]

    def kernel_map(self, level: int, kernel_size: int, stride: int, *, transposed: bool = False, tied: str = "") -> KernelMap:
        """Map of a convolution that starts at `level`, or of its transpose, which ends there. tied: axes that share filters."""
        key = (level, kernel_size, stride, transposed, tied)
        if key not in self._maps:
            if tied:
                whole = self.kernel_map(level, kernel_size, stride, transposed=transposed)
                self._maps[key] = self.engine.tie(whole, tied)
            elif transposed:
                self._maps[key] = self.kernel_map(level, kernel_size, stride).transposed()
            else:
                self._maps[key] = self._build(level, kernel_size, stride)
        return self._maps[key]

    def route(self, level: int, kernel_size: int, stride: int, *, transposed: bool = False, tied: str = "") -> Route:
        """There by the map of a convolution (or of its transpose), back by the opposite one."""
        there = self.kernel_map(level, kernel_size, stride, transposed=transposed, tied=tied)
        return Route(self.engine, there, lambda: self.kernel_map(level, kernel_size, stride, transposed=not transposed, tied=tied))

    def _build(self, level: int, kernel_size: int, stride: int) -> KernelMap:
        larger = self._maps.get((level, 3, 1, False, ""))
        if larger is not None and stride == 1 and kernel_size < 3:
            return larger.inner(kernel_size)
        if level not in self._indices:
            self._indices[level] = self.engine.index(self._coords[level])
        if stride > 1:
            self._descend(level, stride)
        return self.engine.kernel_map(self._indices[level], self._coords[level * stride], kernel_size, stride)

    def _descend(self, level: int, stride: int) -> None:
        if (level, stride) not in self._parents:
            self._coords[level * stride], self._parents[level, stride] = self.engine.downsample(self._coords[level], stride)


@dataclass(frozen=True)
class SparseTensor:
    """feats (S, C) on the sites of `level` (total stride 1, 2, 4, …) of a batch of `batch_size` clouds.

    variants: at level 1, where some clouds come in several that vote, how many of the `batch_size` each of them has, in order.
    """

    feats: torch.Tensor
    sites: SiteCache
    batch_size: int
    level: int = 1
    variants: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        found, expected = self.feats.shape[0], self.coords.shape[0]
        if self.feats.dim() != 2 or found != expected:
            raise ValueError(f"feats must be ({expected}, C) at level {self.level}, got {tuple(self.feats.shape)}")

    @property
    def coords(self) -> torch.Tensor:
        """Sites (S, 4) int32 [b, x, y, z]."""
        return self.sites.coords(self.level)

    def with_feats(self, feats: torch.Tensor) -> "SparseTensor":
        """Other features on the same sites."""
        return replace(self, feats=feats)


def sparse_tensor(
    coords: torch.Tensor,
    feats: torch.Tensor,
    batch_size: int | None = None,
    engine: Engine | None = None,
    variants: tuple[int, ...] | None = None,
) -> SparseTensor:
    """A tensor at level 1 from coords (S, 4) int [b, x, y, z] without duplicates and feats (S, C).

    engine: what convolutions on it run on; None = the one chosen for its device. variants: see SparseTensor.
    """
    if coords.dim() != 2 or coords.shape[1] != 4 or coords.is_floating_point():
        raise ValueError(f"coords must be (S, 4) integers, got {tuple(coords.shape)} {coords.dtype}")
    if batch_size is None:
        batch_size = int(coords[:, 0].max()) + 1 if len(coords) else 0
    return SparseTensor(feats, SiteCache(coords, engine), batch_size, variants=variants)


def collate(batch: Sequence[Voxels], device: torch.device | str = "cpu", engine: Engine | None = None) -> SparseTensor:
    """Put the voxels of B clouds into one tensor: (M_b, 3), (M_b, C) each -> (S, 4), (S, C) with S = ΣM_b.

    Variants that vote are clouds of their own in it.
    """
    coords = np.empty((sum(len(voxels) for voxels in batch), 4), np.int32)
    start, clouds = 0, 0
    for voxels in batch:
        coords[start : start + len(voxels), 1:] = voxels.coords
        for rows in voxels.variants or (len(voxels),):
            coords[start : start + rows, 0] = clouds
            start, clouds = start + rows, clouds + 1
    variants = tuple(len(voxels.variants or (0,)) for voxels in batch) if any(voxels.variants for voxels in batch) else None
    feats = np.concatenate([voxels.feats for voxels in batch])
    return sparse_tensor(torch.from_numpy(coords).to(device), torch.from_numpy(feats).to(device), clouds, engine, variants)
