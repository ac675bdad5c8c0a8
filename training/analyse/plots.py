"""Pictures of what was found. Each returns a figure; nothing is shown or saved here."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("Agg")

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.analyse.fwd import Row
from training.analyse.tsne import Floats, Ints

MARKERS = ("o", "s", "^", "D")
HUES = 10
CHANCE_COLOUR = "#999999"


def distances(rows: Sequence[Row], model: str) -> Figure:
    """First-Wasserstein distance along the net, one panel a hook, with the band below which it means nothing."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, hook, title in zip(
        figure.subplots(1, 2, sharey=True), ("convolution", "norm"), ("output of the convolution", "after its batch norm"), strict=True
    ):
        chosen = [row for row in rows if row.hook == hook]
        x = np.arange(1, len(chosen) + 1)
        for name in chosen[0].distances:
            width, line = (2.4, "-") if name == model else (1.3, "--")
            values = [row.distances[name] for row in chosen]
            axes.plot(x, values, marker="o", markersize=4, label=name, linewidth=width, linestyle=line, zorder=3 if name == model else 2)
        axes.plot(x, [row.zeros for row in chosen], color="#222222", linestyle="-.", linewidth=1, label="zeros")
        axes.plot(x, [max(row.halves) for row in chosen], color=CHANCE_COLOUR, linestyle=":", label="two halves of the same inputs")
        axes.fill_between(x, 1e-4, [row.floor for row in chosen], color=CHANCE_COLOUR, alpha=0.35, linewidth=0, label="noise of the sample")
        axes.set(title=title, xlabel="convolution, in the order of the pass", yscale="log")
        axes.set_xticks(x, [row.layer.replace("layer", "") for row in chosen], rotation=60, fontsize=7)
        axes.set_ylim(min(row.floor for row in rows) / 2, None)
        axes.grid(alpha=0.3, which="major")
        if hook == "convolution":
            axes.set_ylabel("W1 to the image net")
            axes.legend(fontsize=8, framealpha=0.9)
    return figure


def pairs(matrix: npt.NDArray[np.float64], names: Sequence[str]) -> Figure:
    """CDNV of every pair of classes, and the mean of each class."""
    means = np.array([np.mean(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in matrix])
    order = np.argsort(-means)
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    heat, bars = figure.subplots(1, 2, width_ratios=(1.55, 1))
    shown = np.log10(np.where(np.isfinite(matrix), matrix, np.nan))[np.ix_(order, order)]
    image = heat.imshow(shown, cmap="viridis")
    labels = [names[i] for i in order]
    size = 8 if len(names) <= 40 else 4
    heat.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    heat.set_yticks(range(len(labels)), labels, fontsize=size)
    heat.set_title("CDNV of pairs, corrected (bright: hard to tell apart)")
    colours = figure.colorbar(image, ax=heat, shrink=0.8, pad=0.01)
    ticks = [t for t in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0) if np.nanmin(shown) <= np.log10(t) <= np.nanmax(shown)]
    colours.set_ticks(list(np.log10(ticks)), labels=[f"{t:g}" for t in ticks])
    bars.barh(range(len(labels)), means[order], color="#31688e")
    bars.axvline(float(np.nanmean(means)), color="#444444", linestyle="--", linewidth=1, label="mean over classes")
    bars.set_yticks(range(len(labels)), labels, fontsize=size)
    bars.set_ylim(len(labels) - 0.5, -0.5)
    bars.set(title="mean CDNV of a class to the others", xlabel="CDNV, corrected")
    bars.legend(fontsize=8)
    return figure


def scatter(places: Floats, targets: Ints, names: Sequence[str], title: str) -> Figure:
    """Clouds in the plane: colour and shape together tell a class, and its name stands where most of it is."""
    figure = Figure(figsize=(12, 8.2), layout="constrained")
    axes = figure.subplots()
    palette = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    present = [i for i in range(len(names)) if (targets == i).any()]
    for i in present:
        chosen = places[targets == i]
        marker = MARKERS[i // HUES % len(MARKERS)]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=13, color=palette[i % HUES], marker=marker, linewidths=0, alpha=0.75, label=names[i])
    for i in present:
        x, y = _middle(places[targets == i])
        text = axes.annotate(names[i], (x, y), (0, 6), textcoords="offset points", fontsize=7.5, ha="center", va="bottom", zorder=5)
        text.set_path_effects([patheffects.withStroke(linewidth=2.2, foreground="white")])
    axes.set(title=title, xticks=[], yticks=[])
    figure.legend(loc="outside right upper", ncols=1 if len(present) <= 20 else 2, fontsize=8.5, markerscale=1.8, frameon=False)
    return figure


def _middle(places: Floats) -> Floats:
    """The place that is nearest to most of the others: a class may lie in several heaps."""
    squared = ((places[:, None] - places[None]) ** 2).sum(2)
    return np.asarray(places[np.median(squared, axis=1).argmin()])


def purity(found: Mapping[str, npt.NDArray[np.floating]], k: int, axes: Axes) -> None:
    """Histogram of how pure units are, of several nets."""
    edges = [(step - 0.5) / k for step in range(k + 2)]
    for i, (name, values) in enumerate(found.items()):
        weights = np.full(len(values), 100 / len(values))
        if name.startswith("permuted"):
            axes.hist(values, edges, weights=weights, label=name, color=CHANCE_COLOUR, alpha=0.5)
        else:
            axes.hist(values, edges, weights=weights, label=name, histtype="step", linewidth=2, color=f"C{i}")
    axes.set(xlabel=f"share of the commonest class among a unit's {k} top clouds", ylabel="units, %", xlim=(0, 1.02))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
