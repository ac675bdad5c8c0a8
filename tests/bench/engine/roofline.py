"""The layers of the classification net one by one, for the roofline, and both plots.

C channels. Intensity: necessary operations a byte that has to move at least (see work.least_bytes).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch

from models.sparse.backends import engine_named
from models.sparse.tensor import SiteCache
from tests.bench.engine.evaluation import OURS
from tests.bench.engine.growth import Curve
from tests.bench.engine.timing import Machine, medians
from tests.bench.engine.work import flop, least_bytes
from tests.bench.engine.workloads import SEED, Workload

mpl.use("svg")
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

mpl.rcParams.update({"svg.hashsalt": "engine", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
LEVELS = {1: 64, 2: 128, 4: 256, 8: 512}
MARKS = {"native": ("C0", "o"), "pip": ("C1", "s")}


@dataclass(frozen=True)
class Point:
    """One layer in one engine. gflops: necessary operations a second, 1e9."""

    layer: str
    engine: str
    tied: bool
    intensity: float
    gflops: float


def layer_points(workload: Workload, rounds: int) -> list[Point]:
    """Every kind of layer of ResNet18 on its own, two threads, its map built beforehand."""
    layers = [(1, 3, 1, 3, 64)]
    for level, channels in LEVELS.items():
        layers.append((level, 3, 1, channels, channels))
        if level > 1:
            layers += [(level // 2, size, 2, channels // 2, channels) for size in (3, 2)]
    found = []
    for layer in layers:
        found += _points(workload, rounds, *layer)
    return found


def _points(workload: Workload, rounds: int, level: int, kernel_size: int, stride: int, cin: int, cout: int) -> list[Point]:
    generator = torch.Generator().manual_seed(SEED)
    runs, ideal = {}, {}
    for name, engine_name in OURS.items():
        engine = engine_named(engine_name)
        cache = SiteCache(workload.coords, engine)
        for step in range(level.bit_length() - 1):
            cache.parents(2**step, 2)
        for tied in ("", "y" if kernel_size == 3 else "xyz"):
            kernel_map = cache.kernel_map(level, kernel_size, stride, tied=tied)
            feats = torch.randn(kernel_map.num_in, cin, generator=generator)
            packed = engine.pack(torch.randn(len(kernel_map.sizes), cin, cout, generator=generator), torch.float32)
            runs[name, bool(tied)] = partial(engine.conv, feats, packed, kernel_map, products=torch.float32)
            ideal[name, bool(tied)] = flop(kernel_map, cin, cout), least_bytes(kernel_map, cin, cout)
    with torch.inference_mode():
        seconds = medians({f"{name} {tied}": run for (name, tied), run in runs.items()}, 2, rounds)
    label = f"k{kernel_size} s{stride}, {cin} to {cout}"
    return [
        Point(label, name, tied, operations / moved, operations / seconds[f"{name} {tied}"] / 1e9)
        for (name, tied), (operations, moved) in ideal.items()
    ]


def plot_roofline(points: list[Point], machine: Machine, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    reach = sorted(point.intensity for point in points)
    xs = [reach[0] / 2, machine.gflops / machine.bandwidth, reach[-1] * 2]
    roof = [min(machine.gflops, x * machine.bandwidth) for x in xs]
    axes.plot(xs, roof, color="black", label=f"{machine.gflops:.0f} GF/s (best product), {machine.bandwidth:.0f} GB/s (copy)")
    for name, (colour, mark) in MARKS.items():
        for tied in (False, True):
            chosen = [point for point in points if point.engine == name and point.tied == tied]
            x, y = [point.intensity for point in chosen], [point.gflops for point in chosen]
            axes.plot(x, y, mark, color=colour, fillstyle="full" if tied else "none", label=f"{name}, {'tied' if tied else 'all taps'}")
    axes.set(xscale="log", yscale="log", xlabel="necessary operations a byte", ylabel="GF/s", title="Layers of ResNet18, A, two threads")
    axes.legend()
    _save(figure, path)


def plot_growth(curves: dict[str, Curve], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    for name, curve in curves.items():
        axes.plot(list(curve), [1e9 * seconds for seconds in curve.values()], "o-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="voxels", ylabel="ns a voxel", title="Evaluation with kernel maps, two threads")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
