"""Input options of a model, read off the clouds that it will be trained on."""

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.manifest import FeatureSpec, InputSpec
from models.pointcloud import PointCloud
from models.voxelize import prepare, voxelize
from training.datasets.labelled import Clouds

COUNTED = 256  # clouds whose points are counted
VOXELIZED = 64  # clouds that voxel sizes are tried on
FEWEST, MOST = 256, 2048  # points of a budget
PERCENTILE = 10  # of the clouds may have fewer points than the budget
POINTS_A_VOXEL = 1.4  # for ModelNet40 at 1,024 points this gives 0.05, the size that the recipes for it use
VOXEL_SIZES = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25)  # unit-sphere radii
_FEATURES = (FeatureSpec(name="x"),)


def derive_input(clouds: Clouds, seed: int = 0) -> tuple[dict[str, object], list[str]]:
    """Values for `normalise`, `point_budget` and `voxel_size` of an InputSpec, and a line of reasons for each.

    For whole objects: every cloud in the unit sphere; the largest power of two, 256 to 2,048, that nine clouds in ten have
    points for; the smallest size of a table at which an occupied voxel holds 1.4 points on average. Up to 256 clouds are read,
    drawn by the seed. Raises: BadDataset (no clouds), InputError (a file cannot be used).
    """
    if not len(clouds):
        raise BadDataset("no clouds to derive the input from")
    rows = np.random.default_rng(seed).permutation(len(clouds))[:COUNTED]
    sample: list[PointCloud] = []
    counts = np.empty(len(rows), np.int64)
    for place, row in enumerate(rows):
        cloud = clouds.cloud(int(row))
        counts[place] = len(cloud)
        if place < VOXELIZED:
            sample.append(prepare(cloud, InputSpec(features=_FEATURES, voxel_size=1.0, point_budget=MOST)))
    budget = point_budget(counts)
    low = float(np.percentile(counts, PERCENTILE))
    size, held = voxel_size(sample, budget)
    values: dict[str, object] = {"normalise": "unit_sphere", "point_budget": budget, "voxel_size": size}
    reasons = [
        "normalise unit_sphere: a class is told by the shape of a whole object, wherever it stands and in whatever unit it is",
        f"point_budget {budget}: {_why(low)}; denser clouds are thinned out to it",
        f"voxel_size {size:g}: {held:.1f} points an occupied voxel, over {len(sample)} clouds in the unit sphere",
    ]
    return values, reasons


def _why(low: float) -> str:
    if low < FEWEST:
        return f"the least that is used, though one cloud in ten has no more than {low:,.0f} points"
    return f"a power of two up to {MOST:,} that nine clouds in ten have points for ({low:,.0f})"


def point_budget(counts: npt.NDArray[np.integer]) -> int:
    """The largest power of two at or below the tenth percentile of the point counts (D,), from 256 to 2,048."""
    low = max(1, int(np.percentile(counts, PERCENTILE)))
    return int(min(max(1 << (low.bit_length() - 1), FEWEST), MOST))


def voxel_size(sample: list[PointCloud], budget: int) -> tuple[float, float]:
    """(the smallest size of the table with 1.4 points a voxel on average, or the largest; points a voxel at that size)."""
    for size in VOXEL_SIZES:
        spec = InputSpec(features=_FEATURES, voxel_size=size, normalise="unit_sphere", point_budget=budget)
        prepared = [prepare(cloud, spec) for cloud in sample]
        held = float(np.mean([len(cloud) / len(voxelize(cloud, spec)) for cloud in prepared]))
        if held >= POINTS_A_VOXEL:
            break
    return size, held
