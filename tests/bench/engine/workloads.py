"""What the engines are measured on: a batch of real objects (A), a real room (B), a real LiDAR scan (C).

S sites of the whole batch, C channels. All from files under FIP_DATA, read and voxelized by the project's own code.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.errors import BadDataset
from models.io import read_cloud
from models.manifest import InputSpec
from models.pointcloud import PointCloud
from models.sparse.backends.protocol import Engine
from models.sparse.tensor import SparseTensor, collate, sparse_tensor
from models.voxelize import Voxels, prepare, voxelize
from tests import stored_modelnet40

SEED = 0
VOXEL_SIZE = 0.05  # radii of the unit sphere (A), metres (B, C)
CLOUDS, ROOM_POINTS, JITTER_M = 32, 1_000_000, 0.01
WEIGHTS = "weights/imagenet1k_resnet18_pq_small.npz"


@dataclass(frozen=True)
class Workload:
    """coords (S, 4) int32 [b, x, y, z], feats (S, C) float32; targets (B,) int64 where the clouds are objects of a class."""

    name: str
    about: str
    coords: torch.Tensor
    feats: torch.Tensor
    batch_size: int
    targets: torch.Tensor | None = None

    def tensor(self, engine: Engine) -> SparseTensor:
        """A tensor whose kernel maps have yet to be built."""
        return sparse_tensor(self.coords, self.feats, self.batch_size, engine)


def data_dir() -> Path:
    """The folder of real data. Raises: BadDataset."""
    folder = os.environ.get("FIP_DATA")
    if not folder or not (Path(folder) / WEIGHTS).is_file():
        raise BadDataset(f"bench-engine measures on real data: FIP_DATA must name the folder that holds {WEIGHTS}", where="FIP_DATA")
    return Path(folder)


def objects(data: Path) -> Workload:
    """A: 32 objects of ModelNet40's test split, 1,024 points each."""
    rng = np.random.default_rng(SEED)
    clouds = stored_modelnet40.read(data, "test", lambda labels: rng.permutation(len(labels))[:CLOUDS])
    spec = _spec(("x", "y", "z"), "unit_sphere")
    voxels = [voxelize(prepare(PointCloud(xyz), spec), spec) for xyz in clouds.xyz]
    return _collated("A", f"{CLOUDS} objects of ModelNet40's test split, 1,024 points each", voxels, torch.from_numpy(clouds.targets))


def room(data: Path) -> Workload:
    """B: a furnished room of S3DIS, its points repeated with noise until there are a million of them."""
    stored = np.load(data / "s3dis" / "room_labelled_xyz.npz", allow_pickle=False)
    rng = np.random.default_rng(SEED)
    xyz = stored["xyz"].astype(np.float32) * np.float32(stored["scale"])
    dense = xyz[rng.integers(0, len(xyz), ROOM_POINTS)] + rng.normal(0, JITTER_M, (ROOM_POINTS, 3))
    about = f"a room of S3DIS, drawn with {100 * JITTER_M:g} cm of noise to {ROOM_POINTS:,} points"
    return _collated("B", about, [voxelize(PointCloud(dense.astype(np.float32)), _spec(("x", "y", "z")))])


def scan(data: Path) -> Workload:
    """C: a LiDAR scan of SemanticKITTI."""
    cloud = read_cloud(data / "semantickitti" / "sequences" / "00" / "velodyne" / "000000.bin")
    return _collated("C", "a LiDAR scan of SemanticKITTI", [voxelize(cloud, _spec(("x", "y", "z", "intensity")))])


def wavy_sheet(sites: int, channels: int) -> Workload:
    """About so many sites on a sheet with waves and steps: one site a column, two in a third of them; the same density at any size."""
    side = round((sites / 1.3) ** 0.5)
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    height = 24 + 8 * np.sin(x / 9) + 6 * np.sin((x + 2 * y) / 13) + 8 * ((x // 25 + y // 25) % 2)
    floor = np.floor(height).astype(np.int32)
    occupied = np.stack([np.ones_like(floor, bool), height - floor > 0.7], axis=-1)
    column, row, above = np.nonzero(occupied)
    z = floor[column, row] + above
    coords = np.stack([np.zeros_like(z), column, row, z], axis=1).astype(np.int32)
    feats = torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(SEED))
    return Workload("sheet", "a sheet with waves and steps", torch.from_numpy(coords), feats, 1)


def _spec(names: tuple[str, ...], normalise: str = "none") -> InputSpec:
    features = [{"name": name} for name in names]
    return InputSpec.model_validate({"features": features, "voxel_size": VOXEL_SIZE, "normalise": normalise})


def _collated(name: str, about: str, voxels: list[Voxels], targets: torch.Tensor | None = None) -> Workload:
    tensor = collate(voxels)
    points = sum(len(each.inverse) for each in voxels)
    about = f"{about}; {points:,} points in {len(tensor.coords):,} voxels of {VOXEL_SIZE}"
    return Workload(name, about, tensor.coords, tensor.feats, len(voxels), targets)
