"""Random changes of a prepared training cloud. Every draw comes from the generator that is passed in; inputs are not changed.

n points. Source: Image2Point's public code §4.2 (scale, translate, jitter with their probabilities).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from models.frozen import Frozen
from models.manifest import Axis
from models.pointcloud import PointCloud

FEWEST = 8  # points that are left of a cloud
ANCHORS = 4
UP: dict[Axis, int] = {"x": 0, "y": 1, "z": 2}
Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"goes from the smaller to the larger number, found {list(ends)}")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


def later(default: object) -> Any:
    """For fields that came later: they stay out of files while they have their default, so that old recipes keep their digests."""
    return Field(exclude_if=lambda value: value == default)


class AugmentSpec(Frozen):
    """Ranges in prepared units (unit-sphere radii or metres), degrees, shares; p_… is how often each is applied.

    scale: per-axis factor; translate: per-axis shift within ±; jitter: per-point shift within ±, uniform; rotate_deg: about
    the up axis within ±; flip: share of clouds mirrored along x; drop: up to this share of points left out.
    scale_axes: `all` draws one factor for all three; mirror: how often each of the two ground axes is mirrored, on its own.

    Colours, in 0..255: colour_jitter, standard deviation of a shift of every value; colour_shift, of each channel within ±;
    both with p_colour; auto_contrast: how often half of the stretch to the full range is applied. intensity_scale: factor.
    drop_colour, drop_intensity: how often a cloud loses the feature, so that a model serves files without it.

    p_rotate: how often a cloud is turned; tilt_deg: how far the up axis leans, within ±, to any side.

    For clouds of one class: cut: up to this share of the points is left out, those that lie farthest towards one side; strays: up to
    this share is anywhere in the ball around the cloud instead, the one with p_cut, the other with p_strays; what is left is normalised
    as a file of it would be. warp: how often a cloud is bent, by changes of its parts that go over into one another, drawn at four of
    its points: of size within ± warp_scale (the logarithm, each axis), turned within ± warp_deg, shifted within ± warp_shift.

    For scenes, whose points have classes: crop: side in metres of a square column around one of the points, all above and below it
    is kept; max_voxels: of more a random part is kept; mix: how often a sector around the origin is replaced by that of
    another scene (for clouds from one place, such as LiDAR scans).
    """

    scale: Range = (0.9, 1.1)
    p_scale: Probability = 0.9
    translate: Amount = 0.2
    p_translate: Probability = 0.9
    jitter: Amount = 0.0125
    p_jitter: Probability = 0.7
    rotate_deg: Amount = 0.0
    flip: Probability = 0.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scale_axes: Annotated[Literal["each", "all"], later("each")] = "each"
    mirror: Annotated[Probability, later(0.0)] = 0.0
    colour_jitter: Annotated[Amount, later(0.0)] = 0.0
    colour_shift: Annotated[Amount, later(0.0)] = 0.0
    p_colour: Annotated[Probability, later(0.95)] = 0.95
    auto_contrast: Annotated[Probability, later(0.0)] = 0.0
    intensity_scale: Annotated[Range, later((1.0, 1.0))] = (1.0, 1.0)
    drop_colour: Annotated[Probability, later(0.0)] = 0.0
    drop_intensity: Annotated[Probability, later(0.0)] = 0.0
    p_rotate: Annotated[Probability, later(1.0)] = 1.0
    tilt_deg: Annotated[Amount, later(0.0)] = 0.0
    cut: Annotated[float, Field(ge=0, lt=1), later(0.0)] = 0.0
    strays: Annotated[float, Field(ge=0, lt=1), later(0.0)] = 0.0
    p_cut: Annotated[Probability, later(1.0)] = 1.0
    p_strays: Annotated[Probability, later(1.0)] = 1.0
    warp: Annotated[Probability, later(0.0)] = 0.0
    warp_scale: Annotated[Amount, later(0.3)] = 0.3
    warp_deg: Annotated[Amount, later(10.0)] = 10.0
    warp_shift: Annotated[Amount, later(0.15)] = 0.15
    crop: Annotated[float | None, Field(gt=0), later(None)] = None
    max_voxels: Annotated[int | None, Field(gt=0), later(None)] = None
    mix: Annotated[Probability, later(0.0)] = 0.0

    @property
    def changes(self) -> bool:
        """Whether anything is ever changed; where nothing is, voxels can be kept from epoch to epoch."""
        moves = self.p_scale or self.p_translate or self.p_jitter or self.rotate_deg or self.tilt_deg or self.flip or self.mirror
        moves = moves or self.warp or self.strays
        leaves_out = self.drop or self.cut or self.crop or self.max_voxels or self.mix or self.drop_colour or self.drop_intensity
        recolours = self.colour_jitter or self.colour_shift or self.auto_contrast or self.intensity_scale != (1.0, 1.0)
        return bool(moves or leaves_out or recolours)


def augment(
    cloud: PointCloud,
    spec: AugmentSpec,
    rng: np.random.Generator,
    up: Axis = "z",
    normalise: Callable[[PointCloud], PointCloud] = lambda cloud: cloud,
) -> PointCloud:
    """One random variant of a cloud with xyz (n, 3); `up` is the axis that it is turned about. normalise: as its model does."""
    cut, strewn = spec.cut and _happens(spec.p_cut, rng), spec.strays and _happens(spec.p_strays, rng)
    if cut or strewn:
        cloud = without_a_side(cloud, spec.cut, rng) if cut else cloud
        cloud = normalise(strayed(cloud, spec.strays, rng) if strewn else cloud)
    if spec.drop:
        cloud = cloud.take(kept_rows(len(cloud), spec.drop, rng))
    if spec.warp and rng.random() < spec.warp:
        cloud = warped(cloud, spec, rng)
    return refeatured(moved(cloud, spec, rng, up), spec, rng)


def _happens(probability: float, rng: np.random.Generator) -> bool:
    """What is certain takes no draw."""
    return probability == 1 or rng.random() < probability


def kept_rows(count: int, drop: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of the points that stay, where up to the share `drop` is left out; never none."""
    keep = rng.random(count) >= rng.uniform(0, drop)
    keep[rng.integers(count)] = True
    return np.flatnonzero(keep)


def without_a_side(cloud: PointCloud, share: float, rng: np.random.Generator) -> PointCloud:
    """Without up to a share of the points, those that lie farthest towards one side."""
    along = cloud.xyz @ direction(rng)
    left = max(FEWEST, round((1 - rng.uniform(0, share)) * len(cloud)))
    return cloud.take(np.sort(np.argsort(along)[:left]))


def strayed(cloud: PointCloud, share: float, rng: np.random.Generator) -> PointCloud:
    """With up to a share of the points anywhere in the ball around the cloud."""
    xyz = cloud.xyz.copy()
    rows = rng.permutation(len(xyz))[: int(rng.uniform(0, share) * len(xyz))]
    centre = xyz.mean(axis=0)
    radius = np.sqrt(((xyz - centre) ** 2).sum(axis=1).max())
    away = rng.normal(size=(len(rows), 3))
    away *= (rng.random((len(rows), 1)) ** (1 / 3)) / np.linalg.norm(away, axis=1, keepdims=True)
    xyz[rows] = centre + radius * away
    return replace(cloud, xyz=xyz)


def warped(cloud: PointCloud, spec: AugmentSpec, rng: np.random.Generator) -> PointCloud:
    """A cloud whose parts are each stretched, turned and shifted, going over into one another.

    Source: PointWOLF (Kim et al., ICCV 2021), with anchors drawn at random and one width, half of the cloud's radius.
    """
    xyz = cloud.xyz.astype(np.float64)
    anchors = xyz[rng.choice(len(xyz), ANCHORS, replace=len(xyz) < ANCHORS)]
    width = 0.5 * np.sqrt(((xyz - xyz.mean(axis=0)) ** 2).sum(axis=1).max())
    near = np.exp(-((xyz[:, None] - anchors) ** 2).sum(axis=2) / (2 * width**2 + 1e-12))  # (n, anchors)
    near /= near.sum(axis=1, keepdims=True)
    found = np.zeros_like(xyz)
    for anchor, weight in zip(anchors, near.T, strict=True):
        turn = rotation(direction(rng), rng.uniform(-spec.warp_deg, spec.warp_deg))
        factors = np.exp(rng.uniform(-spec.warp_scale, spec.warp_scale, 3))
        shift = rng.uniform(-spec.warp_shift, spec.warp_shift, 3)
        found += weight[:, None] * (((xyz - anchor) * factors) @ turn.T + anchor + shift)
    return replace(cloud, xyz=found.astype(cloud.xyz.dtype))


def direction(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(3,) of length 1, uniform."""
    found = rng.normal(size=3)
    return np.asarray(found / np.linalg.norm(found))


def rotation(axis: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    """(3, 3), about a unit vector. Source: Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def moved(cloud: PointCloud, spec: AugmentSpec, rng: np.random.Generator, up: Axis) -> PointCloud:
    """The cloud turned, mirrored, scaled, shifted, its points jittered."""
    xyz = cloud.xyz.copy()
    ground = [(UP[up] + 1) % 3, (UP[up] + 2) % 3]
    if spec.rotate_deg and _happens(spec.p_rotate, rng):
        angle = np.radians(rng.uniform(-spec.rotate_deg, spec.rotate_deg))
        cos, sin = np.cos(angle), np.sin(angle)
        xyz[:, ground] = xyz[:, ground] @ np.array([[cos, sin], [-sin, cos]], xyz.dtype)
    if spec.tilt_deg:
        level = np.zeros(3)
        level[ground] = np.cos(towards := rng.uniform(0, 2 * np.pi)), np.sin(towards)
        xyz = xyz @ rotation(level, rng.uniform(-spec.tilt_deg, spec.tilt_deg)).T.astype(xyz.dtype)
    if rng.random() < spec.flip:
        xyz[:, 0] *= -1
    if rng.random() < spec.p_scale:
        xyz *= rng.uniform(*spec.scale, size=3 if spec.scale_axes == "each" else 1).astype(xyz.dtype)
    if rng.random() < spec.p_translate:
        xyz += rng.uniform(-spec.translate, spec.translate, size=3).astype(xyz.dtype)
    if rng.random() < spec.p_jitter:
        xyz += rng.uniform(-spec.jitter, spec.jitter, size=xyz.shape).astype(xyz.dtype)
    if spec.mirror:
        for axis in ground:
            if rng.random() < spec.mirror:
                xyz[:, axis] *= -1
    return replace(cloud, xyz=xyz)


def refeatured(cloud: PointCloud, spec: AugmentSpec, rng: np.random.Generator) -> PointCloud:
    """The cloud with other colours and intensities, or without them."""
    rgb, intensity = cloud.rgb, cloud.intensity
    if rgb is not None and (spec.colour_jitter or spec.colour_shift or spec.auto_contrast):
        rgb = recoloured(rgb, spec, rng)
    if intensity is not None and spec.intensity_scale != (1.0, 1.0):
        intensity = intensity * np.float32(rng.uniform(*spec.intensity_scale))
    if spec.drop_colour and rng.random() < spec.drop_colour:
        rgb = None
    if spec.drop_intensity and rng.random() < spec.drop_intensity:
        intensity = None
    return replace(cloud, rgb=rgb, intensity=intensity)


def recoloured(rgb: npt.NDArray[np.uint8], spec: AugmentSpec, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Other colours (n, 3). Source: the public code's S3DIS pipeline, §4.3; a channel of a single value is not stretched."""
    values = rgb.astype(np.float32)
    if spec.colour_jitter and rng.random() < spec.p_colour:
        values = (values + rng.normal(0, spec.colour_jitter, values.shape).astype(np.float32)).clip(0, 255)
    if spec.colour_shift and rng.random() < spec.p_colour:
        values = (values + rng.uniform(-spec.colour_shift, spec.colour_shift, size=3).astype(np.float32)).clip(0, 255)
    if rng.random() < spec.auto_contrast:
        low, high = values.min(axis=0), values.max(axis=0)
        stretched = (values - low) * (255 / np.maximum(high - low, 1e-6))
        values = np.where(high > low, (values + stretched) / 2, values)
    return np.asarray(np.rint(values), np.uint8)
