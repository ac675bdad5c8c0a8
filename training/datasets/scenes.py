"""A set of clouds with a class for every point, and ways to take a part of it.

D scenes, N points of a scene, L classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, BadLabels
from models.labels import OPEN, LabelMap
from models.pointcloud import PointCloud


@dataclass(frozen=True)
class Scene:
    """A cloud of N points and the class of each: labels (N,) int64, IGNORE where it has none, OPEN - g where it is one of group g."""

    cloud: PointCloud
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.shape != (len(self.cloud),) or self.labels.dtype != np.int64:
            raise ValueError(f"labels must be ({len(self.cloud)},) int64, got {self.labels.shape} {self.labels.dtype}")

    def take(self, rows: npt.NDArray[np.integer]) -> "Scene":
        return Scene(self.cloud.take(rows), self.labels[rows])


class Scenes(Protocol):
    """D scenes, in memory or on disk. What is on disk is read when a scene is asked for."""

    @property
    def label_map(self) -> LabelMap:
        """The L classes of the labels."""

    @property
    def titles(self) -> Sequence[str]:
        """(D) what people call each: a path below the root of the data set."""

    @property
    def digest(self) -> str:
        """sha256 of what the scenes are: the same for the same points and labels, in the same order, under the same classes."""

    def __len__(self) -> int: ...

    def scene(self, index: int) -> Scene:
        """One scene, in the units and frame of its files. Raises: InputError, BadLabels, BadDataset (a file cannot be used)."""

    def take(self, rows: npt.NDArray[np.integer]) -> Self:
        """The scenes of the given rows, in that order."""


AnyScenes = TypeVar("AnyScenes", bound=Scenes)


def hold_out_scenes(scenes: AnyScenes, share: float, seed: int) -> tuple[AnyScenes, AnyScenes]:
    """(rest, held out): a share of the scenes, at least one of two or more; a run of successive ones, drawn by the seed.

    Successive scans of one street are all but the same: drawn one by one, their neighbours would give the answers away. Of joined
    scenes only those of the main data set are held out.
    """
    own = _own(scenes)
    count = min(max(1, round(share * own)), own - 1) if share and own > 1 else 0
    first = int(np.random.default_rng(seed).integers(own - count + 1))
    rows = np.arange(len(scenes))
    held = (rows >= first) & (rows < first + count)
    return scenes.take(rows[~held]), scenes.take(rows[held])


def _own(scenes: Scenes) -> int:
    """How many of the scenes, the first ones, are of the main data set."""
    if isinstance(scenes, Clipped):
        return _own(scenes.scenes)
    return int((scenes.rows < len(scenes.main)).sum()) if isinstance(scenes, Joined) else len(scenes)


def few_scenes(scenes: AnyScenes, count: int, seed: int) -> AnyScenes:
    """`count` scenes, drawn without replacement; the same ones for the same seed. Raises: BadDataset (there are fewer)."""
    if count > len(scenes):
        raise BadDataset(f"{count} scenes asked for, there are {len(scenes)}")
    return scenes.take(np.sort(np.random.default_rng(seed).choice(len(scenes), count, replace=False)))


@dataclass(frozen=True)
class Joined:
    """Scenes of a data set and, behind them, those of others, whose classes are some of its own, or groups of them.

    rows (D,): of all of them, those that are in. Raises, from `label_map`: BadLabels (another class).
    """

    main: Scenes
    others: tuple[Scenes, ...]
    rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, main: Scenes, others: Sequence[Scenes]) -> "Joined":
        """All scenes. Raises: BadLabels (names the class that is none of the main data set's)."""
        joined = cls(main, tuple(others), np.arange(len(main) + sum(map(len, others))))
        _ = joined._classes, joined.label_map.members()  # both say what does not fit
        return joined

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def label_map(self) -> LabelMap:
        """The main one, with the groups of all."""
        groups = [group for part in self._parts for group in part.label_map.groups]
        return self.main.label_map.model_copy(update={"groups": tuple(groups)})

    @property
    def titles(self) -> Sequence[str]:
        titles = [title for part in self._parts for title in part.titles]
        return tuple(titles[int(row)] for row in self.rows)

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(" ".join(part.digest for part in self._parts).encode())
        digest.update(np.ascontiguousarray(self.rows, "<i8").data)
        return digest.hexdigest()

    def scene(self, index: int) -> Scene:
        number, row = 0, int(self.rows[index])
        while row >= len(self._parts[number]):
            row -= len(self._parts[number])
            number += 1
        scene = self._parts[number].scene(row)
        first = sum(len(part.label_map.groups) for part in self._parts[:number])
        labels = np.where(scene.labels <= OPEN, scene.labels - first, scene.labels)
        known = scene.labels >= 0
        labels[known] = self._classes[number][scene.labels[known]]
        return replace(scene, labels=labels)

    def take(self, rows: npt.NDArray[np.integer]) -> "Joined":
        return replace(self, rows=self.rows[rows])

    @property
    def _parts(self) -> tuple[Scenes, ...]:
        return (self.main, *self.others)

    @cached_property
    def _classes(self) -> list[npt.NDArray[np.int64]]:
        """Of each part, the main data set's class of each of its own."""
        names = self.main.label_map.names
        for part in self.others:
            strange = [name for name in part.label_map.names if name not in names]
            if strange:
                raise BadLabels(f"further scenes know a class {strange[0]!r}, the data set does not", where=part.titles[0], known=names)
        return [np.array([names.index(name) for name in part.label_map.names], np.int64) for part in self._parts]


@dataclass(frozen=True)
class Clipped:
    """Scenes without the points that lie more than `half` metres from the middle of the bounding box along any axis.

    Source: the S3DIS pipeline of Image2Point's public code, which does so at test time too.
    """

    scenes: Scenes
    half: float

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def label_map(self) -> LabelMap:
        return self.scenes.label_map

    @property
    def titles(self) -> Sequence[str]:
        return self.scenes.titles

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.scenes.digest} clip {self.half}".encode()).hexdigest()

    def scene(self, index: int) -> Scene:
        scene = self.scenes.scene(index)
        xyz = scene.cloud.xyz
        middle = (xyz.min(axis=0) + xyz.max(axis=0)) / 2
        return scene.take(np.flatnonzero((np.abs(xyz - middle) <= self.half).all(axis=1)))

    def take(self, rows: npt.NDArray[np.integer]) -> "Clipped":
        return replace(self, scenes=self.scenes.take(rows))
