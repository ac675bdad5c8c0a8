"""Input options of a model of scenes, read off the scenes that it will be trained on.

S scenes of a sample, N points of a scene.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import voxelize
from training.datasets.file_scenes import naming
from training.datasets.scenes import Scenes

SAMPLED = 16  # scenes that are looked at
QUERIES = 256  # points of a scene whose nearest neighbour is looked for
SPACINGS = 4  # a voxel is at least so many times as wide as points are apart: of finer ones a net sees too little around each
FEWEST_ACROSS = 32  # voxels along the widest side of a scene
MOST_VOXELS = 100_000  # of a median scene; a scan of SemanticKITTI has 92,000 at 0.05 m, the size that the reference uses
_NICE = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # and these times powers of ten
HIGH = 95  # percentile of a feature that is scaled to 1
_SLANT = np.array([0.48, 0.6, 0.64])  # of length 1; walls and floors do not stand across it, as they do across an axis
_ONE = (FeatureSpec(name="x"),)

Feature = dict[str, object]


@dataclass(frozen=True)
class Sample:
    """S scenes of a set, with their titles. spacing: the median over them of how far a point is from its nearest neighbour."""

    titles: tuple[str, ...]
    clouds: tuple[PointCloud, ...]
    spacing: float


def draw_sample(scenes: Scenes, seed: int = 0) -> Sample:
    """Up to 16 scenes, drawn by the seed. Raises: BadDataset (none, or all points of a scene coincide), InputError, BadLabels."""
    if not len(scenes):
        raise BadDataset("no scenes to derive the input from")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(scenes))[:SAMPLED]
    titles, clouds = scenes.titles, [scenes.scene(int(row)).cloud for row in rows]
    spacing = float(np.median([median_spacing(cloud.xyz, rng) for cloud in clouds]))
    if not spacing < math.inf:
        raise BadDataset("all its points coincide: no voxel size follows from them", where=titles[int(rows[0])])
    return Sample(tuple(titles[int(row)] for row in rows), tuple(clouds), spacing)


def derive_scene_input(scenes: Scenes, seed: int = 0) -> tuple[dict[str, object], list[str]]:
    """Values for `voxel_size`, `normalise`, `point_budget` and `features` of an InputSpec, and a line of reasons for each.

    Up to 16 scenes are read, drawn by the seed. Raises: BadDataset, InputError, BadLabels (a file cannot be used).
    """
    return input_of(draw_sample(scenes, seed))


def input_of(sample: Sample) -> tuple[dict[str, object], list[str]]:
    """The same for scenes that were read already."""
    size, voxels = voxel_size(sample)
    features, why = scene_features(sample.clouds)
    values: dict[str, object] = {"voxel_size": size, "normalise": "none", "point_budget": None, "features": features}
    reasons = [
        f"voxel_size {size:g}: points are {sample.spacing:.3g} apart (median), and a median scene has {voxels:,.0f} voxels of this size",
        "normalise none: a scene has a size, and is not brought to another",
        "point_budget none: every point gets an answer",
        *why,
    ]
    return values, reasons


def median_spacing(xyz: npt.NDArray[np.floating], rng: np.random.Generator) -> float:
    """Median distance from a point to its nearest neighbour elsewhere, over up to 256 points of N; infinite where there is none."""
    places = xyz.astype(np.float64) - xyz[0]
    along = places @ _SLANT
    order = np.argsort(along)
    places, along = places[order], along[order]
    rows = rng.choice(len(places), min(QUERIES, len(places)), replace=False)
    return float(np.median([_nearest(places, along, int(row)) for row in rows]))


def _nearest(places: npt.NDArray[np.float64], along: npt.NDArray[np.float64], row: int) -> float:
    """Distance from one point to the nearest of another place; places (N, 3) are sorted by how far they lie `along` (N,) a line.

    Those within a width along the line are compared; where none is nearer than the width, it is doubled.
    """
    whole = float(along[-1] - along[0])
    width = whole * 50 / len(along)
    while True:
        first, last = np.searchsorted(along, [along[row] - width, along[row] + width])
        offsets = places[first:last] - places[row]
        squares = np.einsum("ij,ij->i", offsets, offsets)
        nearest = math.sqrt(squares[squares > 0].min(initial=math.inf))
        if nearest <= width or width > whole or not width:
            return nearest
        width *= 2


def voxel_size(sample: Sample) -> tuple[float, float]:
    """(the smallest round number from 4 spacings on at which a median scene has no more than 100,000 voxels; how many it has).

    Never so large that the smallest scene is less than 32 voxels wide: coarser levels of a net would be left with one.

    Raises: ExtentTooLarge, naming the scene.
    """
    widest = min(float(np.ptp(cloud.xyz, axis=0).max()) for cloud in sample.clouds)
    for size in nice_sizes(min(SPACINGS * sample.spacing, max(widest / FEWEST_ACROSS, sample.spacing))):
        voxels = float(np.median([_voxels(*each, size) for each in zip(sample.titles, sample.clouds, strict=True)]))
        if voxels <= MOST_VOXELS:
            break
    return size, voxels


def _voxels(title: str, cloud: PointCloud, size: float) -> int:
    with naming(title):
        return len(voxelize(cloud, InputSpec(features=_ONE, voxel_size=size)))


def nice_sizes(least: float) -> Iterator[float]:
    """Round numbers from `least` on, upwards: 0.05, 0.06, 0.08, 0.1, 0.125, …"""
    for exponent in itertools.count(math.floor(math.log10(least))):
        for factor in _NICE:
            size = float(f"{factor}e{exponent}")
            if size >= least * (1 - 1e-9):
                yield size


def scene_features(sample: Sequence[PointCloud]) -> tuple[list[Feature], list[str]]:
    """Features of a net and why. Colour and intensity where all S clouds have them, with fill values for files without.

    x and y where they are counted from within each scene, as by a scanner; elsewhere they only say where the scene lies. z where
    it is counted from the same height in all, or nothing else is there.
    """
    features: list[Feature] = []
    why = []
    if all(_around_origin(cloud.xyz) for cloud in sample):
        scale = _scale([cloud.xyz[:, :2] for cloud in sample])  # one for both, so that turning a scene leaves them what they are
        features += [{"name": "x", "scale": scale}, {"name": "y", "scale": scale}]
        why.append("features x, y: they are counted from within every scene")
    else:
        why.append("no features x, y: they say where a scene lies, which a net must not learn by heart")
    colour, colour_why = _colour(sample)
    intensity, intensity_why = _intensity(sample)
    heights = [cloud.xyz[:, 2] for cloud in sample]
    if _same_floor(heights) or not (features or colour or intensity):
        features.append({"name": "z", "scale": _scale(heights)})
        why.append("feature z: scenes begin at about the same height" if _same_floor(heights) else "feature z: there is no other")
    else:
        why.append("no feature z: scenes begin at heights of their own")
    return [*features, *colour, *intensity], [*why, *colour_why, *intensity_why]


def _around_origin(xyz: npt.NDArray[np.floating]) -> bool:
    """Whether x = y = 0 lies within the bounding box."""
    return all(float(column.min()) <= 0 <= float(column.max()) for column in xyz.T[:2])


def _same_floor(heights: Sequence[npt.NDArray[np.floating]]) -> bool:
    """Whether the lowest points of the scenes, but for one in twenty, are no further apart than half the height of a median scene."""
    floors = [float(np.percentile(column, 100 - HIGH)) for column in heights]
    tall = float(np.median([np.percentile(column, HIGH) - floor for column, floor in zip(heights, floors, strict=True)]))
    return max(floors) - min(floors) <= tall / 2 and max(map(abs, floors)) <= 10 * max(tall, 1e-9)


def _colour(sample: Sequence[PointCloud]) -> tuple[list[Feature], list[str]]:
    columns = [cloud.rgb for cloud in sample if cloud.rgb is not None]
    if len(columns) < len(sample):
        return [], ["no colour: not all files have it"] if columns else []
    if all(bool((column == column[0]).all()) for column in columns):
        return [], ["no colour: it is the same all over every scene"]
    names = ("red", "green", "blue")
    return [{"name": name, "scale": 1 / 255, "offset": -0.5, "fill": 0.0} for name in names], [
        "features red, green, blue: all files have them"
    ]


def _intensity(sample: Sequence[PointCloud]) -> tuple[list[Feature], list[str]]:
    columns = [cloud.intensity for cloud in sample if cloud.intensity is not None]
    if len(columns) < len(sample):
        return [], ["no intensity: not all files have it"] if columns else []
    if all(float(column.min()) == float(column.max()) for column in columns):
        return [], ["no intensity: it is the same all over every scene"]
    scale = _scale(columns)
    fill = _rounded(scale * float(np.mean([column.mean(dtype=np.float64) for column in columns])))
    return [{"name": "intensity", "scale": scale, "fill": fill}], ["feature intensity: all files have it"]


def _scale(columns: Sequence[npt.NDArray[np.floating]]) -> float:
    """What brings the largest values, but for one in twenty, to about 1."""
    high = float(np.median([np.percentile(np.abs(column), HIGH) for column in columns]))
    return _rounded(1 / high) if high > 0 else 1.0


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
