"""Plots of what was recorded: latencies under load, memory over a soak."""

from collections.abc import Callable, Collection
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.service.records import series

Series = dict[str, list[list[float]]]

ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "fontsize": "small", "frameon": False}  # not over the lines


def draw(folder: Path, groups: Collection[str]) -> dict[str, str]:
    """Draw the plot of each of these groups that left a series; captions by file name."""
    found = {}
    for group, (paint, caption) in PLOTS.items():
        if group in groups and (drawn := series(group)):
            folder.mkdir(parents=True, exist_ok=True)
            figure = Figure(figsize=(7, 3.2), layout="constrained")
            axes = figure.subplots()
            paint(axes, drawn)
            with mpl.rc_context({"svg.hashsalt": "fip"}):
                figure.savefig(folder / f"{group}.svg", metadata={"Date": None})
            found[f"{group}.svg"] = caption
    return found


def overload(axes: Axes, drawn: Series) -> None:
    """Share of answers that took at most so long."""
    for name, pairs in drawn.items():
        axes.plot([each[0] for each in pairs], [each[1] for each in pairs], label=name)
    axes.set(
        xlabel="milliseconds (answers: from when they were due, refusals: from when they were sent)",
        ylabel="share of answers",
        xscale="log",
        ylim=(0, 1),
    )
    axes.legend(**ABOVE)
    axes.grid(alpha=0.3)


def throughput(axes: Axes, drawn: Series) -> None:
    """Rounds side by side."""
    for name, pairs in drawn.items():
        axes.plot([each[0] for each in pairs], [each[1] for each in pairs], marker="o", label=name)
    axes.set(xlabel="round", ylabel="answers a second", ylim=(0, None))
    axes.legend(**ABOVE)
    axes.grid(alpha=0.3)


def soak(axes: Axes, drawn: Series) -> None:
    """Memory over requests."""
    for name, pairs in drawn.items():
        axes.plot([each[0] for each in pairs], [each[1] for each in pairs], label=name, linewidth=1)
    axes.set(xlabel="requests", ylabel="MB of all processes", ylim=(0, None))
    axes.legend(**ABOVE)
    axes.grid(alpha=0.3)


PLOTS: dict[str, tuple[Callable[[Axes, Series], None], str]] = {
    "overload": (overload, "Share of answers by the time they took, at 0.8 and at 4 times the capacity."),
    "throughput": (throughput, "Answers a second in alternating rounds, ours and the peers."),
    "soak": (soak, "Memory of all processes of the service over the soak; the line is what the slope is taken from."),
}
