"""Clouds of generated shapes (training.shapes), made when they are asked for: nothing is read, and nothing kept."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from models.pointcloud import PointCloud
from training.shapes.programs import Program, program, shape

VERSION = 1  # of the programs: another one makes other shapes
POINTS = 1024
SPREAD = (0.12, 0.5)  # of sizes within a class, as standard deviations of their logarithms


@dataclass(frozen=True)
class GeneratedClouds:
    """`classes` classes of shapes, rows (D,) of them: row r is the shape number r // classes of class r % classes. z is up."""

    classes: int
    rows: npt.NDArray[np.int64]
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        digits = len(str(self.classes - 1))
        return tuple(f"shape{number:0{digits}}" for number in range(self.classes))

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        targets: npt.NDArray[np.int64] = self.rows % self.classes
        return targets

    @property
    def digest(self) -> str:
        said = f"generated {VERSION} {self.classes} {self.seed} {POINTS} {SPREAD} "
        return hashlib.sha256(said.encode() + np.ascontiguousarray(self.rows, "<i8").data).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def cloud(self, index: int) -> PointCloud:
        row = int(self.rows[index])
        rng = np.random.default_rng((self.seed, 1, row))
        return PointCloud(shape(_program(self.seed, row % self.classes), POINTS, rng, SPREAD))

    def take(self, rows: npt.NDArray[np.integer]) -> "GeneratedClouds":
        return replace(self, rows=self.rows[rows])


def generated(classes: int, shapes: int, seed: int = 0, *, first: int = 0) -> GeneratedClouds:
    """The shapes number `first` to `first + shapes` of every class."""
    return GeneratedClouds(classes, np.arange(first * classes, (first + shapes) * classes), seed)


@lru_cache(maxsize=1 << 15)  # of all classes of any recipe
def _program(seed: int, number: int) -> Program:
    return program(np.random.default_rng((seed, 0, number)))
