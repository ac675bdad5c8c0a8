"""What a classifier of single points is told about each: its height, its range, its intensity, and the shape of what is around it.

N points, k neighbours, F features. Metres, z up, the sensor at the origin. Nothing here is learned.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial import cKDTree

from models.pointcloud import PointCloud

NEIGHBOURS = (10, 30, 100)
COLUMNS_M = (0.5, 2.0)
GROUND_CELL_M = 1.0
GROUND_WINDOWS = (3, 9)  # cells: the narrow one follows kerbs and slopes, the wide one looks below cars and hedges
CHUNK = 16_384  # points whose neighbours are in memory at once: 16,384 * 100 * 3 * 8 bytes = 39 MB
LEAST = 1e-9  # of a spread or a range that something is divided by

Floats = npt.NDArray[np.float64]
Columns = dict[str, Floats]


def point_features(cloud: PointCloud, *, intensity: bool = True) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Names (F) and values (N, F) of the features. intensity: also those that need it; they come last. Needs at least one point."""
    xyz = cloud.xyz.astype(np.float64)
    columns = {**_position(xyz), **_above_ground(xyz), **_columns(xyz)}
    if intensity:
        if cloud.intensity is None:
            raise ValueError("the cloud has no intensity")
        values = cloud.intensity.astype(np.float64)
        columns = {**columns, **_neighbourhoods(xyz, values), "intensity": values}
    else:
        columns = {**columns, **_neighbourhoods(xyz, None)}
    names = sorted(columns, key=lambda name: "intensity" in name)  # stable: the order above otherwise
    return tuple(names), np.stack([columns[name] for name in names], axis=1).astype(np.float32)


def _position(xyz: Floats) -> Columns:
    range_m = np.linalg.norm(xyz[:, :2], axis=1)
    return {"z": xyz[:, 2], "range": range_m, "elevation": np.arctan2(xyz[:, 2], range_m)}


def _above_ground(xyz: Floats) -> Columns:
    """z above an opening of the lowest returns: what is narrower than the window does not lift the ground."""
    cell = np.floor(xyz[:, :2] / GROUND_CELL_M).astype(np.int64)
    cell -= cell.min(axis=0)
    lowest = np.full(tuple(cell.max(axis=0) + 1), np.inf)
    np.minimum.at(lowest, (cell[:, 0], cell[:, 1]), xyz[:, 2])
    found = {}
    for window in GROUND_WINDOWS:
        eroded = minimum_filter(lowest, window, mode="constant", cval=np.inf)
        opened = maximum_filter(np.where(np.isfinite(eroded), eroded, -np.inf), window, mode="constant", cval=-np.inf)
        found[f"above_ground_{window}"] = xyz[:, 2] - np.minimum(opened, lowest)[cell[:, 0], cell[:, 1]]
    return found


def _columns(xyz: Floats) -> Columns:
    """What stands above and below a point in its vertical column."""
    found = {}
    range_m = np.linalg.norm(xyz[:, :2], axis=1)
    for size in COLUMNS_M:
        cells = np.floor(xyz[:, :2] / size).astype(np.int64)
        _, inverse, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
        np.minimum.at(low, inverse, xyz[:, 2])
        np.maximum.at(high, inverse, xyz[:, 2])
        found[f"column_{size}_below"] = xyz[:, 2] - low[inverse]
        found[f"column_{size}_above"] = high[inverse] - xyz[:, 2]
        found[f"column_{size}_height"] = (high - low)[inverse]
        found[f"column_{size}_returns"] = counts[inverse] * range_m  # far columns catch fewer beams
    return found


def _neighbourhoods(xyz: Floats, intensity: Floats | None) -> Columns:
    tree = cKDTree(xyz)
    most = min(max(NEIGHBOURS), len(xyz))
    chunks = []
    for start in range(0, len(xyz), CHUNK):
        distances, rows = tree.query(xyz[start : start + CHUNK], k=np.arange(1, most + 1))  # (n, k), (n, k), the point itself first
        chunks.append(_shapes(xyz, xyz[start : start + CHUNK], distances, rows, intensity))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _shapes(xyz: Floats, at: Floats, distances: Floats, rows: npt.NDArray[np.int64], intensity: Floats | None) -> Columns:
    """at (n, 3); distances, rows (n, k) of its neighbours in xyz. Per number of neighbours: eigenvalues say line, plane or bush."""
    found = {}
    range_m = np.linalg.norm(at, axis=1)
    near = xyz[rows] - at[:, None]  # (n, k, 3)
    for number in NEIGHBOURS:
        part = near[:, :number]
        mean = part.mean(axis=1)
        centred = part - mean[:, None]
        spread, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", centred, centred) / part.shape[1])  # ascending: (n, 3), (n, 3, 3)
        sigma = np.sqrt(np.maximum(spread, 0))
        largest = np.maximum(sigma[:, 2], LEAST)
        radius = distances[:, part.shape[1] - 1]
        found[f"k{number}_radius"] = radius
        found[f"k{number}_angle"] = radius / np.maximum(range_m, LEAST)  # sparse for its range, or only far away?
        found[f"k{number}_line"] = (sigma[:, 2] - sigma[:, 1]) / largest
        found[f"k{number}_plane"] = (sigma[:, 1] - sigma[:, 0]) / largest
        found[f"k{number}_scatter"] = sigma[:, 0] / largest
        found[f"k{number}_thickness"] = sigma[:, 0]
        found[f"k{number}_normal_z"] = np.abs(axes[:, 2, 0])
        found[f"k{number}_line_z"] = np.abs(axes[:, 2, 2])
        found[f"k{number}_above_mean"] = -mean[:, 2]
        found[f"k{number}_height"] = np.ptp(part[:, :, 2], axis=1)
        if intensity is not None:
            found[f"k{number}_intensity_mean"] = intensity[rows[:, :number]].mean(axis=1)
            found[f"k{number}_intensity_spread"] = intensity[rows[:, :number]].std(axis=1)
    return found
