"""Random changes of a prepared training scene: those of `training.augment`, and what needs the class of every point.

N points. Source: crops and limits as in Image2Point's public pipelines (§4.3, §4.4); exchanged sectors as in PolarMix (2022).
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from models.manifest import Axis
from models.pointcloud import PointCloud
from training.augment import UP, AugmentSpec, kept_rows, moved, refeatured
from training.datasets.scenes import Scene

Value = TypeVar("Value", bound=np.generic)

FEWEST = 100  # points: a part of a scene that has fewer is not worth a step
SECTOR = (0.15, 0.5)  # share of the circle that is exchanged


def augment_scene(scene: Scene, spec: AugmentSpec, rng: np.random.Generator, up: Axis, other: Callable[[], Scene]) -> Scene:
    """One random variant of a scene. other: gives another scene of the set, where `spec.mix` asks for one."""
    if spec.mix and rng.random() < spec.mix:
        scene = mixed(scene, other(), rng, up)
    if spec.crop is not None:
        scene = scene.take(column(scene.cloud.xyz, spec.crop, rng, up))
    if spec.drop:
        scene = scene.take(kept_rows(len(scene.cloud), spec.drop, rng))
    return Scene(refeatured(moved(scene.cloud, spec, rng, up), spec, rng), scene.labels)


def column(xyz: npt.NDArray[np.floating], side: float, rng: np.random.Generator, up: Axis) -> npt.NDArray[np.int64]:
    """Rows of the points in a square column of `side` about one of them; all rows where that would leave next to nothing."""
    ground = _ground(up)
    centre = xyz[rng.integers(len(xyz))]
    inside = np.ones(len(xyz), np.bool_)
    for axis in ground:
        inside &= np.abs(xyz[:, axis] - centre[axis]) <= side / 2
    rows = np.flatnonzero(inside)
    return rows if len(rows) >= FEWEST else np.arange(len(xyz))


def mixed(scene: Scene, other: Scene, rng: np.random.Generator, up: Axis) -> Scene:
    """The scene with one sector around the origin replaced by the same sector of another; columns that only one has are dropped."""
    start, width = rng.uniform(0, 2 * np.pi), rng.uniform(*SECTOR) * 2 * np.pi
    kept = scene.take(np.flatnonzero(~_in_sector(scene.cloud.xyz, start, width, up)))
    added = other.take(np.flatnonzero(_in_sector(other.cloud.xyz, start, width, up)))
    cloud = PointCloud(
        np.concatenate([kept.cloud.xyz, added.cloud.xyz.astype(kept.cloud.xyz.dtype)]),
        rgb=_joined(kept.cloud.rgb, added.cloud.rgb),
        intensity=_joined(kept.cloud.intensity, added.cloud.intensity),
    )
    return Scene(cloud, np.concatenate([kept.labels, added.labels])) if len(cloud) >= FEWEST else scene


def _joined(one: npt.NDArray[Value] | None, two: npt.NDArray[Value] | None) -> npt.NDArray[Value] | None:
    return None if one is None or two is None else np.concatenate([one, two])


def _in_sector(xyz: npt.NDArray[np.floating], start: float, width: float, up: Axis) -> npt.NDArray[np.bool_]:
    first, second = _ground(up)
    return np.asarray((np.arctan2(xyz[:, second], xyz[:, first]) - start) % (2 * np.pi) < width)


def _ground(up: Axis) -> tuple[int, int]:
    return (UP[up] + 1) % 3, (UP[up] + 2) % 3
