"""The picture of units: what each of some answers most strongly, and where in the cloud."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from training.analyse.plots import purity

ANSWERS = LinearSegmentedColormap.from_list("answers", ["#d9d9d9", "#f5a623", "#c2185b", "#2d0a4e"])
AZIMUTH, ELEVATION = np.radians(35.0), np.radians(22.0)


@dataclass(frozen=True)
class Drawn:
    """One cloud. xyz (n, 3), z up; values (n,): of the unit at the voxel of each point, 1 the largest in all of the data."""

    xyz: npt.NDArray[np.floating]
    values: npt.NDArray[np.floating]
    name: str


@dataclass(frozen=True)
class UnitRow:
    """A unit with its top clouds."""

    label: str
    clouds: Sequence[Drawn]


def gallery(rows: Sequence[UnitRow], histogram: Mapping[str, npt.NDArray[np.floating]], k: int) -> Figure:
    """Histogram above, units below: a row a unit, a column a cloud, strongest first."""
    columns = max(len(row.clouds) for row in rows)
    figure = Figure(figsize=(1.25 * columns + 1.3, 1.32 * len(rows) + 3.4), layout="constrained")
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.2, 1.32 * len(rows)))
    purity(histogram, k, above.subplots())
    cells = below.subplots(len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.0, "hspace": 0.0})
    for line, row in zip(cells, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, cloud in zip(line, row.clouds, strict=False):
            _draw(cloud, axes)
        line[0].text(-0.08, 0.5, row.label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), ANSWERS)
    below.colorbar(colours, ax=cells, shrink=0.35, pad=0.01, aspect=30, label="answer of the unit, 1 = its largest")
    return figure


def _draw(cloud: Drawn, axes: Axes) -> None:
    """Points seen from above and aside, far ones first."""
    x, y, z = cloud.xyz.T
    across = x * np.cos(AZIMUTH) - y * np.sin(AZIMUTH)
    depth = x * np.sin(AZIMUTH) + y * np.cos(AZIMUTH)
    height = z * np.cos(ELEVATION) + depth * np.sin(ELEVATION)
    order = np.argsort(-depth)
    axes.scatter(across[order], height[order], c=cloud.values[order], cmap=ANSWERS, vmin=0, vmax=1, s=2.6, linewidths=0)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    axes.set_title(cloud.name, fontsize=7, pad=-2)
