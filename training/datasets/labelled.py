"""A set of clouds with one class each, and the ways to take a part of it."""

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.pointcloud import PointCloud


class Clouds(Protocol):
    """D clouds with one class each, in memory or on disk. What is on disk is read when a cloud is asked for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """(D,) indices into names."""

    @property
    def digest(self) -> str:
        """sha256 of what the clouds are: the same for the same clouds and classes in the same order."""

    def __len__(self) -> int: ...

    def cloud(self, index: int) -> PointCloud:
        """One cloud, in the units and frame of its file. Raises: InputError (the file cannot be used)."""

    def take(self, rows: npt.NDArray[np.integer]) -> Self:
        """The clouds of the given rows, in that order."""


@runtime_checkable
class Grouped(Protocol):
    """Clouds that know which of them are the same."""

    @property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """(D,) equal numbers for equal clouds; None where that is not known."""


AnyClouds = TypeVar("AnyClouds", bound=Clouds)


@dataclass(frozen=True)
class LabelledClouds:
    """D clouds of N points in memory: xyz (D, N, 3) float32 in file units, targets (D,) int64 into names."""

    xyz: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def cloud(self, index: int) -> PointCloud:
        return PointCloud(self.xyz[index])

    def take(self, rows: npt.NDArray[np.integer]) -> "LabelledClouds":
        return replace(self, xyz=self.xyz[rows], targets=self.targets[rows])

    @property
    def digest(self) -> str:
        """sha256 of all coordinates and targets, in order."""
        digest = hashlib.sha256(np.ascontiguousarray(self.xyz, "<f4").data)
        digest.update(np.ascontiguousarray(self.targets, "<i8").data)
        return digest.hexdigest()


def few_shot(clouds: AnyClouds, shots: int, seed: int) -> AnyClouds:
    """`shots` clouds of each class, drawn without replacement; the same ones for the same seed.

    Raises: BadDataset (a class has fewer).
    """
    return clouds.take(_few_rows(clouds, shots, seed))


def all_but_few(clouds: AnyClouds, shots: int, seed: int) -> AnyClouds:
    """The clouds that `few_shot` leaves out."""
    return clouds.take(np.setdiff1d(np.arange(len(clouds)), _few_rows(clouds, shots, seed)))


def _few_rows(clouds: Clouds, shots: int, seed: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    rows = []
    for target, name in enumerate(clouds.names):
        of_class = np.flatnonzero(clouds.targets == target)
        if len(of_class) < shots:
            raise BadDataset(f"{shots} shots asked for, the class has {len(of_class)} clouds", where=name)
        rows.append(rng.choice(of_class, shots, replace=False))
    return np.sort(np.concatenate(rows))


def hold_out(clouds: AnyClouds, share: float, seed: int, *, smallest: int = 2) -> tuple[AnyClouds, AnyClouds]:
    """(rest, held out): a seeded share of every class, at least one cloud of a class that has `smallest` or more.

    Clouds that know of their copies (`Grouped`) are drawn with them, and those that lie under two classes stay in the rest.
    """
    if not share:
        return clouds, clouds.take(np.arange(0))
    rng = np.random.default_rng(seed)
    groups = _groups_of(clouds)
    alone = np.arange(len(clouds)) if groups is None else _drawable(groups, clouds.targets)
    held = []
    for target in range(len(clouds.names)):
        of_class = alone[clouds.targets[alone] == target]
        count = min(max(1, round(share * len(of_class))), len(of_class) - 1) if len(of_class) >= smallest else 0
        held.append(rng.choice(of_class, count, replace=False))
    rows = np.sort(np.concatenate(held)).astype(np.int64)
    if groups is not None:
        rows = np.flatnonzero(np.isin(groups, groups[rows]))
    rest = np.setdiff1d(np.arange(len(clouds)), rows)
    return clouds.take(rest), clouds.take(rows)


def _groups_of(clouds: object) -> npt.NDArray[np.int64] | None:
    return clouds.groups if isinstance(clouds, Grouped) else None


def _drawable(groups: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first cloud of every group that is of one class."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    of_two = np.unique(inverse[targets != targets[first][inverse]])
    return np.sort(np.delete(first, of_two))
