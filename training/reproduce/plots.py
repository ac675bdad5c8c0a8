"""Plots of pages, as SVG that is the same for the same records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")  # Okabe and Ito


@dataclass(frozen=True)
class Bar:
    """A gap, half its interval, and whether that tells it from zero."""

    name: str
    value: float
    half: float
    decided: bool


@dataclass(frozen=True)
class Point:
    """What a mode costs in a setting, in minutes of one thread of an engine, and what it reaches, in %."""

    setting: str
    mode: str
    minutes: float
    accuracy: float
    std: float
    engine: str = ""


@dataclass(frozen=True)
class Level:
    """What a mode of a network reaches, in %, with so much labelled (None: everything), over so many runs."""

    network: str
    mode: str
    labelled: int | None
    epochs: int
    score: float
    std: float
    runs: int


def plot_gaps(bars: Sequence[Bar], path: Path) -> None:
    """One line a gap, its interval around it, and zero."""
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.32 * len(bars)))
    places = np.arange(len(bars))[::-1]
    for place, bar in zip(places, bars, strict=True):
        colour = COLOURS[0] if bar.decided else COLOURS[7]
        axes.errorbar(bar.value, place, xerr=bar.half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [bar.name for bar in bars], fontsize=8)
    axes.set_xlabel("points of test accuracy; grey: the interval holds zero, or is of fewer than five pairs")
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def plot_curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    """Accuracy in % by epoch: every seed thin, their mean thick."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for (name, runs), colour in zip(curves.items(), COLOURS * (1 + len(curves) // len(COLOURS)), strict=False):
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
    """Accuracy against cost: a panel a setting, a colour a mode."""
    modes, settings = (list(dict.fromkeys(getattr(point, key) for point in points)) for key in ("mode", "setting"))
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4 * columns, 1 + 3 * rows), squeeze=False, layout="constrained")
    for panel, name in zip(panels.flat, settings, strict=False):
        for point in points:
            if point.setting == name:
                colour = COLOURS[modes.index(point.mode)]
                panel.errorbar(point.minutes, point.accuracy, yerr=point.std, fmt="o", color=colour, capsize=3)
        engines = sorted({point.engine for point in points if point.setting == name and point.engine})
        times = f"\n{' and '.join(engines)}{', whose times do not compare' if len(engines) > 1 else ''}" if engines else ""
        panel.set_title(f"{name}{times}", fontsize=8)
        panel.set_xlim(0, 1.2 * max(point.minutes for point in points if point.setting == name))
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(settings) :]:
        panel.set_visible(False)
    handles = [Line2D([], [], marker="o", linestyle="", color=COLOURS[place], label=mode) for place, mode in enumerate(modes)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(modes), fontsize=8)
    figure.supxlabel("minutes of training steps, one thread", fontsize=9)
    figure.supylabel("test accuracy, %; bars: standard deviation over seeds", fontsize=9)
    _save(figure, path)


def plot_labels(levels: Sequence[Level], labelled: str, score: str, path: Path) -> None:
    """A panel a network, a line a mode: a score in % by how much is labelled, its standard deviation as a bar; hollow is a single run.
    A line ends where an amount is missing. `levels` come with the least labelled first.
    """
    networks, modes = (list(dict.fromkeys(getattr(level, key) for level in levels)) for key in ("network", "mode"))
    width = 1 + 3 * len(networks)
    figure, panels = plt.subplots(1, len(networks), figsize=(width, 3.8), squeeze=False, layout="constrained", sharey=True)
    for panel, network in zip(panels.flat, networks, strict=True):
        here = [level for level in levels if level.network == network]
        ticks = list(dict.fromkeys((level.labelled, level.epochs) for level in here))
        for mode, colour in zip(modes, COLOURS, strict=False):
            means = np.full(len(ticks), np.nan)
            beside = np.arange(len(ticks)) + 0.06 * (modes.index(mode) - (len(modes) - 1) / 2)
            for level in here:
                if level.mode != mode:
                    continue
                place = ticks.index((level.labelled, level.epochs))
                means[place] = level.score
                several = {"yerr": level.std, "capsize": 3} if level.runs > 1 else {"markerfacecolor": "white"}
                panel.errorbar(beside[place], level.score, fmt="o", markersize=4, color=colour, zorder=3, **several)
            panel.plot(beside, means, color=colour)
        words = [f"{amount or 'all'}\n{epochs} epochs" for amount, epochs in ticks]
        panel.set_xticks(range(len(ticks)), words, fontsize=8)
        panel.set_title(network, fontsize=9)
        panel.grid(alpha=0.3)
    handles = [Line2D([], [], marker="o", color=colour, label=mode) for mode, colour in zip(modes, COLOURS, strict=False)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(modes), fontsize=8)
    figure.supxlabel(labelled, fontsize=9)
    figure.supylabel(score, fontsize=9)
    _save(figure, path)


def plot_levels(curves: Mapping[str, tuple[str, Sequence[float], Mapping[str, Sequence[float]]]], path: Path) -> None:
    """A panel for every title: (unit, levels, accuracy in % by name at each level)."""
    columns = 4
    rows = -(-len(curves) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.2 * columns, 1 + 2.6 * rows), squeeze=False, layout="constrained", sharey=True)
    names = list(dict.fromkeys(name for _, _, of in curves.values() for name in of))
    for panel, (title, (unit, levels, of)) in zip(panels.flat, curves.items(), strict=False):
        for name, values in of.items():
            panel.plot(levels, values, marker="o", markersize=3, color=COLOURS[names.index(name) % len(COLOURS)])
        panel.set_title(title, fontsize=9)
        panel.set_xlabel(unit, fontsize=8)
        panel.set_ylim(0, 100)
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(curves) :]:
        panel.set_visible(False)
    handles = [Line2D([], [], marker="o", color=COLOURS[place % len(COLOURS)], label=name) for place, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(names), fontsize=8)
    figure.supylabel("test accuracy, %", fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
