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
MARKERS = "o^sDvP*Xdph<>"


@dataclass(frozen=True)
class Bar:
    """A gap and half its interval."""

    name: str
    value: float
    half: float


@dataclass(frozen=True)
class Point:
    """What a mode costs in a setting, in minutes of one thread, and what it reaches, in %."""

    setting: str
    mode: str
    minutes: float
    accuracy: float
    std: float


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


def plot_costs(points: Sequence[Point], path: Path) -> None:
    """Accuracy against cost: a colour a mode, a marker a setting."""
    figure, axes = plt.subplots(figsize=(9, 5))
    modes, settings = (list(dict.fromkeys(getattr(point, key) for point in points)) for key in ("mode", "setting"))
    for point in points:
        colour, marker = COLOURS[modes.index(point.mode)], MARKERS[settings.index(point.setting) % len(MARKERS)]
        axes.errorbar(point.minutes, point.accuracy, yerr=point.std, fmt=marker, color=colour, capsize=2, markersize=7)
    handles = [axes.plot([], [], "s", color=COLOURS[i], label=mode)[0] for i, mode in enumerate(modes)]
    handles += [axes.plot([], [], MARKERS[i % len(MARKERS)], color="grey", label=name)[0] for i, name in enumerate(settings)]
    axes.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xscale("log")
    axes.set_xlabel("minutes of one thread for a training")
    axes.set_ylabel("test accuracy, %; bars: standard deviation over seeds")
    axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
