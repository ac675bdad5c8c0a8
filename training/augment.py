"""Random changes of a prepared training cloud. Every draw comes from the generator that is passed in; inputs are not changed.

n points. Source: Image2Point's public code §4.2 (scale, translate, jitter with their probabilities).
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from models.frozen import Frozen
from models.manifest import Axis
from models.pointcloud import PointCloud

UP: dict[Axis, int] = {"x": 0, "y": 1, "z": 2}
Probability = Annotated[float, Field(ge=0, le=1)]


class AugmentSpec(Frozen):
    """Ranges in prepared units (unit-sphere radii or metres), degrees, shares; p_… is how often each is applied.

    scale: per-axis factor; translate: per-axis shift within ±; jitter: per-point shift within ±, uniform; rotate_deg: about
    the up axis within ±; flip: share of clouds mirrored along x; drop: up to this share of points left out.
    """

    scale: tuple[float, float] = (0.9, 1.1)
    p_scale: Probability = 0.9
    translate: float = 0.2
    p_translate: Probability = 0.9
    jitter: float = 0.0125
    p_jitter: Probability = 0.7
    rotate_deg: float = 0.0
    flip: Probability = 0.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def changes(self) -> bool:
        """Whether anything is ever changed; where nothing is, voxels can be kept from epoch to epoch."""
        return bool(self.p_scale or self.p_translate or self.p_jitter or self.rotate_deg or self.flip or self.drop)


def augment(cloud: PointCloud, spec: AugmentSpec, rng: np.random.Generator, up: Axis = "z") -> PointCloud:
    """One random variant of a cloud with xyz (n, 3) float32; `up` is the axis that it is turned about."""
    if spec.drop:
        keep = rng.random(len(cloud)) >= rng.uniform(0, spec.drop)
        keep[rng.integers(len(cloud))] = True  # never empty
        cloud = cloud.take(np.flatnonzero(keep))
    xyz = cloud.xyz.copy()
    if spec.rotate_deg:
        angle = np.radians(rng.uniform(-spec.rotate_deg, spec.rotate_deg))
        cos, sin = np.cos(angle), np.sin(angle)
        ground = [(UP[up] + 1) % 3, (UP[up] + 2) % 3]
        xyz[:, ground] = xyz[:, ground] @ np.array([[cos, sin], [-sin, cos]], xyz.dtype)
    if rng.random() < spec.flip:
        xyz[:, 0] *= -1
    if rng.random() < spec.p_scale:
        xyz *= rng.uniform(*spec.scale, size=3).astype(xyz.dtype)
    if rng.random() < spec.p_translate:
        xyz += rng.uniform(-spec.translate, spec.translate, size=3).astype(xyz.dtype)
    if rng.random() < spec.p_jitter:
        xyz += rng.uniform(-spec.jitter, spec.jitter, size=xyz.shape).astype(xyz.dtype)
    return replace(cloud, xyz=xyz)
