"""A set of clouds with a class for every point, and ways to take a part of it.

D scenes, N points of a scene, L classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from models.labels import LabelMap
from models.pointcloud import PointCloud


@dataclass(frozen=True)
class Scene:
    """A cloud of N points and the class of each: labels (N,) int64, IGNORE where it has none."""

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
