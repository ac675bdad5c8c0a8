"""What a net learns from: labelled clouds and scenes, as voxels and the answers that are wanted for them.

L classes, M voxels of a sample, T targets. A net that classifies gives one answer a cloud, one that segments one a voxel.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from models.errors import InputError
from models.manifest import Fidelity, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import Voxels, normalised, prepare, voxelize
from training.augment import AugmentSpec, augment
from training.augment_scene import augment_scene
from training.datasets import Clouds, Scenes
from training.datasets.file_scenes import naming
from training.datasets.generated import GeneratedClouds
from training.datasets.scenes import Scene
from training.metrics import scored_targets
from training.pack import Array, Pack, made_pack
from training.progress import progress
from training.votes import vote

Columns = tuple[Array | None, ...]


@dataclass(frozen=True)
class Sample:
    """targets (T,) int64, IGNORE where none is wanted, or (T, L) float32, the share of every class; answers: how many the net gives;
    rows (T,): which of them each target is for, None where they are in order.
    """

    voxels: Voxels
    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    answers: int
    rows: npt.NDArray[np.int64] | None = None


class Samples(Protocol):
    """D samples, made when they are asked for."""

    fewest: int  # samples that a process needs for a step, for the sake of its batch norms

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """(D,) the class of each, for drawing classes equally often; all 0 where a sample has many."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def sample(self, row: int, rng: np.random.Generator | None = None) -> Sample:
        """One sample; `rng` draws its augmentation. Raises: InputError, BadLabels, BadDataset."""

    def class_weights(self) -> npt.NDArray[np.float32]:
        """Loss weights (L,) of which a class gets more the rarer it is."""

    def cached(self, folder: Path) -> Self:
        """The same, with everything that can be computed once on disk in `folder`. Raises: InputError, BadRunDir, …"""

    def close(self) -> None:
        """Close what is open on disk."""


@dataclass(frozen=True)
class CloudSamples:
    """Clouds of one class each: prepared, augmented where `augmentation` is given, voxelized by the function that serves.

    pack: what does not change from epoch to epoch, on disk: voxels where nothing is augmented, else prepared clouds. shares (D, L):
    what is to be learnt instead of the classes.
    """

    clouds: Clouds
    spec: InputSpec
    augmentation: AugmentSpec | None = None
    pack: Pack | None = None
    shares: npt.NDArray[np.float32] | None = None
    fewest = 2

    def __len__(self) -> int:
        return len(self.clouds)

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        return self.clouds.targets

    @property
    def num_classes(self) -> int:
        return len(self.clouds.names)

    def sample(self, row: int, rng: np.random.Generator | None = None) -> Sample:
        targets = self.clouds.targets if self.shares is None else self.shares
        return Sample(self.voxels(row, rng), targets[row : row + 1], 1)

    def voxels(self, row: int, rng: np.random.Generator | None = None) -> Voxels:
        """One cloud; `rng` draws its augmentation. Raises: InputError."""
        if self.pack is not None and self.augmentation is None:
            return _voxels(self.pack[row])
        cloud = prepare(self.clouds.cloud(row), self.spec) if self.pack is None else _cloud(self.pack[row])
        if self.augmentation is not None and rng is not None:
            cloud = augment(cloud, self.augmentation, rng, self.spec.up, lambda left: normalised(left, self.spec))
        return voxelize(cloud, self.spec)

    def class_weights(self) -> npt.NDArray[np.float32]:
        return inverse_frequency(np.bincount(self.clouds.targets, minlength=self.num_classes))

    def cached(self, folder: Path) -> "CloudSamples":
        if isinstance(self.clouds, GeneratedClouds) or self.spec.votes:
            return self  # made as fast as read; variants are asked for once
        what = "voxels" if self.augmentation is None else "prepared"
        key = hashlib.sha256(f"{self.clouds.digest} {self.spec.model_dump_json()} {what}".encode()).hexdigest()
        path = folder / f"{what}-{key[:16]}.bin"
        return replace(self, pack=_packed(path, self._columns, len(self), "preparing clouds"))

    def close(self) -> None:
        if self.pack is not None:
            self.pack.close()

    def _columns(self, row: int) -> Columns:
        cloud = prepare(self.clouds.cloud(row), self.spec)
        if self.augmentation is not None:
            return cloud.xyz, cloud.rgb, cloud.intensity
        voxels = voxelize(cloud, self.spec)
        return voxels.coords, voxels.feats, voxels.inverse


@dataclass(frozen=True)
class SceneSamples:
    """Scenes with a class for every point, through the same functions.

    per_point: the targets are those of all points, as scores count them; else of voxels, voted for by their points as
    `voxel_label` says. pack: prepared clouds and the labels of their points, on disk.
    """

    scenes: Scenes
    spec: InputSpec
    augmentation: AugmentSpec | None = None
    per_point: bool = False
    voxel_label: Fidelity = "corrected"
    pack: Pack | None = None
    fewest = 1

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        return np.zeros(len(self), np.int64)

    @property
    def num_classes(self) -> int:
        return len(self.scenes.label_map)

    def sample(self, row: int, rng: np.random.Generator | None = None) -> Sample:
        scene, limit = self.prepared(row), None
        if self.augmentation is not None and rng is not None:
            draw = rng  # the closure below takes from the same stream
            scene = augment_scene(scene, self.augmentation, draw, self.spec.up, lambda: self.prepared(int(draw.integers(len(self)))))
            limit = self.augmentation.max_voxels
        with self._naming(row):
            voxels = voxelize(scene.cloud, self.spec)
        if self.per_point:
            return Sample(voxels, scored_targets(scene.labels, self.scenes.label_map), len(voxels), voxels.inverse)
        targets = vote(scene.labels, voxels, self.num_classes, self.voxel_label)
        if limit is not None and rng is not None and len(voxels) > limit:
            rows = np.sort(rng.choice(len(voxels), limit, replace=False, shuffle=False))
            voxels, targets = Voxels(voxels.coords[rows], voxels.feats[rows], np.arange(limit), voxels.filled), targets[rows]
        return Sample(voxels, targets, len(voxels))

    def prepared(self, row: int) -> Scene:
        """One scene before augmentation. Raises: InputError, BadLabels, BadDataset."""
        if self.pack is not None:
            *columns, labels = self.pack[row]
            return Scene(_cloud(tuple(columns)), cast("npt.NDArray[np.int32]", labels).astype(np.int64))
        scene = self.scenes.scene(row)
        with self._naming(row):
            return Scene(prepare(scene.cloud, self.spec), scene.labels)

    @contextmanager
    def _naming(self, row: int) -> Iterator[None]:
        """Errors about a scene say which one."""
        try:
            yield
        except InputError:
            with naming(self.scenes.titles[row]):
                raise

    def class_weights(self) -> npt.NDArray[np.float32]:
        """By the root of how rare a class is: by itself, the rarest of a street would weigh ten thousand times the commonest."""
        counts = np.zeros(self.num_classes, np.int64)
        for row in progress(range(len(self)), "counting classes", len(self)):
            labels = self.prepared(row).labels
            counts += np.bincount(labels[labels >= 0], minlength=self.num_classes)
        return inverse_frequency(counts, power=0.5)

    def cached(self, folder: Path) -> "SceneSamples":
        key = hashlib.sha256(f"{self.scenes.digest} {self.spec.model_dump_json()}".encode()).hexdigest()
        path = folder / f"scenes-{key[:16]}.bin"
        return replace(self, pack=_packed(path, self._columns, len(self), "preparing scenes"))

    def close(self) -> None:
        if self.pack is not None:
            self.pack.close()

    def _columns(self, row: int) -> Columns:
        scene = self.prepared(row)
        return scene.cloud.xyz, scene.cloud.rgb, scene.cloud.intensity, scene.labels.astype(np.int32)


def inverse_frequency(counts: npt.NDArray[np.integer], power: float = 1.0) -> npt.NDArray[np.float32]:
    """Weights (L,) ∝ counts^-power whose mean over everything counted is 1. A class that is absent gets 0."""
    rare = np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** -power, 0.0)
    return np.asarray(rare * counts.sum() / max((rare * counts).sum(), 1e-300), np.float32)


def _packed(path: Path, columns: "_Columns", count: int, what: str) -> Pack:
    return made_pack(path, lambda: (columns(row) for row in progress(range(count), what, count)))


class _Columns(Protocol):
    def __call__(self, row: int, /) -> Columns: ...


def _voxels(arrays: Sequence[Array | None]) -> Voxels:
    coords, feats, inverse = arrays
    return Voxels(cast("npt.NDArray[np.int32]", coords), cast("npt.NDArray[np.float32]", feats), cast("npt.NDArray[np.int64]", inverse))


def _cloud(arrays: Sequence[Array | None]) -> PointCloud:
    xyz, rgb, intensity = arrays
    return PointCloud(
        cast("npt.NDArray[np.floating]", xyz),
        rgb=cast("npt.NDArray[np.uint8] | None", rgb),
        intensity=cast("npt.NDArray[np.float32] | None", intensity),
    )
