"""From a cloud to voxels: the one function that training and serving both call.

N points of the file, n after the point budget, M voxels, C features.
prepare():  unit → up axis → point budget → normalisation      PointCloud (N) -> PointCloud (n)
voxelize(): grid cells → mean of the features in each cell     PointCloud (n) -> Voxels (M)
What they are made of is here for models.tiling, too, which does the same to a cloud piece by piece.
Training augments between the two; serving does not.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.errors import BadOption, DegenerateCloud, ExtentTooLarge, MissingFeature, NoPoints
from models.manifest import OF_CELLS, Axis, FeatureSpec, InputSpec, ViewSpec, VoteSpec
from models.pointcloud import PointCloud

UNITS_M = {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "km": 1000.0, "in": 0.0254, "ft": 0.3048}
CELLS_PER_AXIS = 1 << 20  # a cell of three axes fits into one int64 key
TABLE_CELLS_PER_POINT = 4  # beyond it sorting the points is faster than a table of the cells
BUDGET_SEED = 0  # the subset of a dense cloud is the same for every request
VOTE_SEED = 0  # and so are the variants that vote
VIEW_GAP = 64  # cells between views, and what each begins at a multiple of: twice the side of the coarsest cell of any net, and more

NO_POINT = np.empty(0, np.int64)
_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class Voxels:
    """M occupied cells of one cloud. coords (M, 3) int32 ≥ 0 in cells; feats (M, C) float32; inverse (n,) int64.

    `inverse[i]` is the voxel of prepared point i. `filled` names features that the file lacked. Rows are in ascending
    (x, y, z) order of their cells, so they do not depend on the order of the points. `grid`, (n, 3) float32 where the spec says
    trilinear, is where the points lie, in cells: a cell of coords c has its centre at c. `scaled` names features that were
    brought from the file's range to the model's. `variants`: where a cloud comes in several that vote, how many rows each has; they follow
    one another, and what is said of a cloud is then true of each; `inverse` is of the first.
    """

    coords: npt.NDArray[np.int32]
    feats: npt.NDArray[np.float32]
    inverse: npt.NDArray[np.int64]
    filled: tuple[str, ...] = ()
    grid: npt.NDArray[np.float32] | None = None
    scaled: tuple[str, ...] = ()
    variants: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.variants is not None and sum(self.variants) != len(self.coords):
            raise ValueError(f"variants of {sum(self.variants)} voxels, and there are {len(self.coords)}")

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def of_cloud(self) -> int:
        """How many voxels the cloud itself has."""
        return self.variants[0] if self.variants else len(self)


def prepare(cloud: PointCloud, spec: InputSpec, *, up: Axis | None = None, unit: str | None = None) -> PointCloud:
    """Bring a cloud into the frame a model was trained in.

    `up` and `unit` are what only the caller knows of the file (default: the model's up axis, metres). The points of a
    cloud above `spec.point_budget` are sampled without replacement, the same ones every time. A normalised
    cloud comes out as float32, others keep the file's precision. Raises: BadOption, NoPoints, NonFinite, DegenerateCloud.
    """
    check_options(up, unit)
    cloud = cloud.checked()
    if spec.point_budget is not None and len(cloud) > spec.point_budget:
        rows = np.random.default_rng(BUDGET_SEED).choice(len(cloud), spec.point_budget, replace=False, shuffle=False)
        cloud = cloud.take(np.sort(rows))
    return normalised(replace(cloud, xyz=placed(cloud.xyz, spec, up=up, unit=unit)), spec)


def normalised(cloud: PointCloud, spec: InputSpec) -> PointCloud:
    """A cloud in its unit sphere as float32, where the spec says so. Raises: DegenerateCloud."""
    if spec.normalise == "unit_sphere":
        return replace(cloud, xyz=_unit_sphere(cloud.xyz).astype(np.float32))
    return cloud


def check_options(up: Axis | None, unit: str | None) -> None:
    """Raises: BadOption."""
    if up is not None and up not in _AXES:
        raise BadOption(f"unknown up axis {up!r}", where="up", known=_AXES)
    if unit is not None and unit not in UNITS_M:
        raise BadOption(f"unknown unit {unit!r}", where="unit", known=UNITS_M)


def placed(xyz: npt.NDArray[np.floating], spec: InputSpec, *, up: Axis | None, unit: str | None) -> npt.NDArray[np.floating]:
    """Coordinates (n, 3) in metres with the model's axis up, each point for itself."""
    if unit is not None:
        xyz = xyz * UNITS_M[unit]
    if up is not None and up != spec.up:
        xyz = _upright(xyz, _AXES[up], _AXES[spec.up])
    return xyz


def voxelize(cloud: PointCloud, spec: InputSpec) -> Voxels:
    """Group prepared points into cells of `spec.voxel_size` counted from the cloud's minimum corner.

    Where the spec says votes, the variants of the cloud follow one another. Where it says views, those of a variant lie side by side along
    x, so far apart that no convolution joins them: the mean over voxels that a classifier's head reads then averages its logits over
    them, by their coarsest voxels.

    Raises: NoPoints, ExtentTooLarge (more than 2^20 cells along an axis), MissingFeature (no column and no fill value).
    """
    said = (_side_by_side([_voxelize(view, spec) for view in views(variant, spec)]) for variant in variants(cloud, spec.votes))
    every = [each if not number else replace(each, inverse=NO_POINT, grid=None) for number, each in enumerate(said)]
    if len(every) == 1:
        return every[0]
    return replace(_joined(every, [each.coords for each in every]), variants=tuple(len(each) for each in every))


def _side_by_side(parts: list[Voxels]) -> Voxels:
    coords, start = [parts[0].coords], 0
    for before, part in itertools.pairwise(parts):
        start += VIEW_GAP * (math.ceil((int(before.coords[-1, 0]) + 1) / VIEW_GAP) + 1)  # the last row has the largest x
        coords.append(part.coords + np.array([start, 0, 0], np.int32))
    return _joined(parts, coords)


def _joined(parts: Sequence[Voxels], coords: Sequence[npt.NDArray[np.int32]]) -> Voxels:
    """The first of the parts with the voxels of all."""
    if len(parts) == 1:
        return parts[0]
    return replace(parts[0], coords=np.concatenate(coords), feats=np.concatenate([part.feats for part in parts]))


def variants(cloud: PointCloud, votes: VoteSpec | None) -> Iterator[PointCloud]:
    """A prepared cloud, and what votes beside it. Source: the voting of PointNet++'s public code, by scale."""
    yield cloud
    if votes is None:
        return
    rng = np.random.default_rng(VOTE_SEED)
    for _ in range(votes.count - 1):
        factors = np.exp(rng.uniform(-1, 1, 3) * math.log1p(votes.scale))
        moved = cloud.xyz * factors.astype(cloud.xyz.dtype) + rng.uniform(-votes.translate, votes.translate, 3).astype(cloud.xyz.dtype)
        yield replace(cloud, xyz=moved)


def views(cloud: PointCloud, spec: InputSpec) -> Iterator[PointCloud]:
    """A prepared cloud as it is, or turned about the up axis for each of its views."""
    yield cloud
    if spec.views is None:
        return
    one, two = ((_AXES[spec.up] + step) % 3 for step in (1, 2))
    for number in range(1, spec.views.count):
        cos, sin = (function(2 * math.pi * number / spec.views.count) for function in (math.cos, math.sin))
        xyz = cloud.xyz.copy()
        xyz[:, one] = cos * cloud.xyz[:, one] - sin * cloud.xyz[:, two]
        xyz[:, two] = sin * cloud.xyz[:, one] + cos * cloud.xyz[:, two]
        yield replace(cloud, xyz=xyz)


def _voxelize(cloud: PointCloud, spec: InputSpec) -> Voxels:
    if len(cloud) == 0:
        raise NoPoints("the cloud has no points")
    feats, filled = features(cloud, spec.features)  # (n, C)
    grid = grid_of(*corners(cloud.xyz), spec)
    (x, y, z), shape = _flat(grid.cells(cloud.xyz), grid.shape, spec.views)  # (n,) each
    unique, inverse = group((x * shape[1] + y) * shape[2] + z, math.prod(shape))  # (M,), (n,)
    coords = np.stack(np.unravel_index(unique, shape), axis=1).astype(np.int32)  # (M, 3)
    if spec.voxel_feature == "reference":
        pooled = feats[first_of(inverse, len(unique))]
    else:
        counts = np.bincount(inverse, minlength=len(unique))
        pooled = (sums_of(feats, inverse, len(unique)) / counts[:, None]).astype(np.float32)
    _fill_cells(pooled, cloud, spec, inverse)
    return Voxels(coords, pooled, inverse, filled, grid.positions(cloud.xyz) if spec.devoxelize == "trilinear" else None)


def _flat(
    cells: list[npt.NDArray[np.int64]], shape: tuple[int, ...], views: ViewSpec | None
) -> tuple[list[npt.NDArray[np.int64]], tuple[int, ...]]:
    """The cells (n,) along each axis and how many there are; of a view all in one plane."""
    if views is None:
        return cells, shape
    depth = _AXES[views.depth]
    flat = [np.zeros_like(column) if axis == depth else column for axis, column in enumerate(cells)]
    return flat, tuple(1 if axis == depth else length for axis, length in enumerate(shape))


def _fill_cells(pooled: npt.NDArray[np.float32], cloud: PointCloud, spec: InputSpec, inverse: npt.NDArray[np.int64]) -> None:
    """Set the features (M, C) that are of all points of a voxel."""
    for channel, feature in enumerate(spec.features):
        if feature.name not in OF_CELLS:
            continue
        if feature.name == "count":
            values = np.log2(np.bincount(inverse, minlength=len(pooled)))
        else:
            assert spec.views is not None
            smallest = feature.name == "near"
            values = np.full(len(pooled), np.inf if smallest else -np.inf)
            (np.minimum if smallest else np.maximum).at(values, inverse, cloud.xyz[:, _AXES[spec.views.depth]])
        pooled[:, channel] = values * feature.scale + feature.offset


def first_of(inverse: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The first of the rows (n,) in each of `count` groups: (count,)."""
    first = np.empty(count, np.int64)
    first[inverse[::-1]] = np.arange(len(inverse))[::-1]  # of the writes to one place the last one stays
    return first


def sums_of(feats: npt.NDArray[np.floating], inverse: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Sums (count, C) of the rows (n, C) in each group."""
    return np.stack([np.bincount(inverse, weights=column, minlength=count) for column in feats.T], axis=1)


def _upright(xyz: npt.NDArray[np.floating], source: int, target: int) -> npt.NDArray[np.floating]:
    """Turn axis `source` into axis `target` by 90° about the third, as CAD programs do: (x, y, z) with y up -> (x, -z, y) with z up."""
    turned = xyz.copy()
    turned[:, target] = xyz[:, source]
    turned[:, source] = -xyz[:, target]
    return turned


def corners(xyz: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Minimum and maximum corner (3,) of the bounding box; column by column, which is 20 times faster than axis=0."""
    return np.array([column.min() for column in xyz.T]), np.array([column.max() for column in xyz.T])


def _unit_sphere(xyz: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Centre on the mean of the points, farthest point at radius 1."""
    low, high = corners(xyz)
    centred: npt.NDArray[np.float64] = xyz - np.array([column.mean(dtype=np.float64) for column in xyz.T])
    radius = math.sqrt(np.einsum("ij,ij->i", centred, centred).max())
    if not (high > low).any() or not radius > 0:
        raise DegenerateCloud("all points coincide: the cloud has no size to normalise by")
    centred /= radius
    return centred


@dataclass(frozen=True)
class Grid:
    """The cells of a cloud whose minimum corner is `low` (3,), in the type of its coordinates; `shape` is how many there are."""

    low: npt.NDArray[np.floating]
    shape: tuple[int, ...]
    size: np.float32
    reference: bool

    def cells(self, xyz: npt.NDArray[np.floating]) -> list[npt.NDArray[np.int64]]:
        """Grid cell of every point along each axis, three (n,) with minimum 0."""
        if self.reference:
            cells = [np.rint(column / self.size) - np.rint(start / self.size) for column, start in zip(xyz.T, self.low, strict=True)]
        else:
            cells = [(column - start) / self.size for column, start in zip(xyz.T, self.low, strict=True)]  # ≥ 0: the cast takes the floor
        return [column.astype(np.int64) for column in cells]

    def positions(self, xyz: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Where the points lie, (n, 3), in cells from the centre of the first one."""
        if self.reference:
            return np.asarray(xyz / self.size - np.rint(self.low / self.size), np.float32)
        return np.asarray((xyz - self.low) / self.size - 0.5, np.float32)


def grid_of(low: npt.NDArray[np.floating], high: npt.NDArray[np.floating], spec: InputSpec) -> Grid:
    """The grid of a cloud with these corners. Raises: ExtentTooLarge."""
    size, reference = np.float32(spec.voxel_size), spec.rounding == "reference"
    with np.errstate(over="ignore"):
        widths = np.rint(high / size) - np.rint(low / size) if reference else (high - low) / size
    widest = float(widths.max())
    if not widest < CELLS_PER_AXIS:
        raise ExtentTooLarge(
            f"the cloud spans {widest + 1:.0f} voxels of {spec.voxel_size:g} along one axis, the limit is {CELLS_PER_AXIS}; check its unit"
        )
    return Grid(low, tuple(int(width) + 1 for width in widths), size, reference)


def group(key: npt.NDArray[np.int64], span: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """np.unique(key, return_inverse=True) for keys in [0, span), several times faster.

    A table of all cells where the grid is about as large as the cloud (a room), else a radix sort, 16 bits a pass.
    """
    if span <= TABLE_CELLS_PER_POINT * len(key):
        occupied = np.zeros(span, np.bool_)
        occupied[key] = True
        unique = np.flatnonzero(occupied)
        rank = np.empty(span, np.int64)
        rank[unique] = np.arange(len(unique))
        return unique, rank[key]
    order = np.argsort(key.astype(np.uint16), kind="stable")  # the cast keeps the low bits; stable sorts 16 bits by radix
    for shift in range(16, (span - 1).bit_length(), 16):
        order = order[np.argsort((key >> shift).astype(np.uint16)[order], kind="stable")]
    ordered = key[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    inverse = np.empty(len(key), np.int64)
    inverse[order] = np.cumsum(starts) - 1
    return ordered[starts], inverse


def features(cloud: PointCloud, specs: tuple[FeatureSpec, ...]) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Input channels (n, C) float32, and the names of those that were filled."""
    feats = np.empty((len(cloud), len(specs)), np.float32)
    filled = []
    for channel, spec in enumerate(specs):
        column = _column(cloud, spec.name)
        if column is not None:
            plain = spec.scale == 1 and spec.offset == 0
            feats[:, channel] = column if plain else column * np.float32(spec.scale) + np.float32(spec.offset)
        elif spec.fill is not None:
            feats[:, channel] = spec.fill
            filled.append(spec.name)
        else:
            raise MissingFeature(f"the model needs {spec.name!r}, which the file does not have", where=spec.name)
    return feats, tuple(filled)


def _column(cloud: PointCloud, name: str) -> npt.NDArray[np.floating | np.uint8] | None:
    if name in _AXES:
        return cloud.xyz[:, _AXES[name]]
    if name == "one" or name in OF_CELLS:  # the latter are set once the cells are known
        return np.ones(len(cloud), np.float32)
    if name == "intensity":
        return cloud.intensity
    colour = ("red", "green", "blue").index(name)
    return None if cloud.rgb is None else cloud.rgb[:, colour]
