"""A run as a picture: latency over time, its distribution, and answers a second by status."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from service.load.records import LoadResult, Record
from service.load.summary import GROUPS, group_of, group_of_status

COLOURS = {"accepted": "#1f77b4", "rejected": "#d62728", "expired": "#9467bd", "refused": "#ff7f0e"}
NO_ANSWER, FAILED = "#bbbbbb", "#000000"
BINS = 60


def draw(result: LoadResult, path: Path) -> None:
    """Write an .svg or .png. No window is opened and no global state of matplotlib is used."""
    figure = picture(result)
    with mpl.rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(path, dpi=120)


def picture(result: LoadResult) -> Figure:
    """Three diagrams, one above the other."""
    figure = Figure(figsize=(10, 8), layout="constrained")  # a Figure of its own draws with Agg, or as SVG
    over_time, distribution, statuses = figure.subplots(3, 1, height_ratios=(3, 2, 2))
    groups = {name: [each for each in result.records if each.kind != "disconnected" and group_of(each) == name] for name in GROUPS}
    _over_time(over_time, groups)
    _distribution(distribution, groups)
    _statuses(statuses, result)
    figure.suptitle(_title(result))
    return figure


def _title(result: LoadResult) -> str:
    plan = result.plan
    pace = f"{plan.clients} clients" if plan.clients else f"{plan.start_rate:g} to {plan.end_rate:g}/s" if plan.ramp else f"{plan.rate:g}/s"
    return f"{plan.path} at {pace} for {result.sending_s:.0f} s: {len(result.records)} requests"


def _over_time(axes: Axes, groups: Mapping[str, list[Record]]) -> None:
    for name, records in groups.items():
        if records:
            due = [record.scheduled_s for record in records]
            latency = [record.latency_s * 1000 for record in records]
            axes.scatter(due, latency, s=6, alpha=0.6, color=COLOURS[name], label=name, rasterized=True)
    axes.set(xlabel="due, s", ylabel="latency, ms", yscale="log")
    _plain_numbers(axes.yaxis)
    if any(groups.values()):
        _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """Where it covers nothing."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=8, frameon=False, borderaxespad=0.2)


def _distribution(axes: Axes, groups: Mapping[str, list[Record]]) -> None:
    for name, records in groups.items():
        if records:
            latency = np.sort([record.latency_s * 1000 for record in records])
            axes.step(latency, np.arange(1, len(latency) + 1) / len(latency), where="post", color=COLOURS[name], label=name)
    axes.set(xlabel="latency, ms", ylabel="share within", xscale="log", ylim=(0, 1.02))
    _plain_numbers(axes.xaxis)
    axes.grid(alpha=0.3)


def _plain_numbers(axis: Axis) -> None:
    """30 rather than 3 × 10¹."""
    for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def _colour(status: int) -> str:
    return NO_ANSWER if status == 0 else COLOURS.get(group_of_status(status) or "", FAILED)


def _statuses(axes: Axes, result: LoadResult) -> None:
    """Stacked, by the moment of the answer."""
    end = max(result.elapsed_s, 1e-3)
    edges = np.linspace(0, end, BINS + 1)
    below = np.zeros(BINS)
    for status in sorted({record.status for record in result.records}):
        times = [record.done_s for record in result.records if record.status == status]
        height = np.histogram(times, edges)[0] * (BINS / end)
        axes.bar(edges[:-1], height, end / BINS, bottom=below, align="edge", color=_colour(status), label=str(status or "no answer"))
        below += height
    axes.set(xlabel="answered, s", ylabel="answers a second", xlim=(0, end))
    if result.records:
        _legend_above(axes)
