"""Plots of pages, as SVG that is the same for the same records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")  # Okabe and Ito


@dataclass(frozen=True)
class Bar:
    """A gap and half its interval."""

    name: str
    value: float
    half: float


def plot_gaps(bars: Sequence[Bar], path: Path) -> None:
    """One line a gap, its interval around it, and zero."""
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.32 * len(bars)))
    places = np.arange(len(bars))[::-1]
    for place, bar in zip(places, bars, strict=True):
        colour = COLOURS[0] if abs(bar.value) > bar.half else COLOURS[7]
        axes.errorbar(bar.value, place, xerr=bar.half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [bar.name for bar in bars], fontsize=8)
    axes.set_xlabel("points of test accuracy; grey: the interval holds zero")
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def plot_curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    """Accuracy in % by epoch: every seed thin, their mean thick."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for (name, runs), colour in zip(curves.items(), COLOURS, strict=False):
        epochs = np.arange(1, min(map(len, runs)) + 1)
        for run in runs:
            axes.plot(epochs, run[: len(epochs)], color=colour, linewidth=0.5, alpha=0.5)
        axes.plot(epochs, np.mean([run[: len(epochs)] for run in runs], axis=0), color=colour, linewidth=2, label=name)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("held-out accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
