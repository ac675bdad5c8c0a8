"""docs/results/README.md: what a practitioner may take from all records, on one page."""

from collections.abc import Mapping
from pathlib import Path

from training.reproduce.pages import PAGES, gaps_of, setting
from training.reproduce.plots import Point, plot_costs
from training.reproduce.search import Group, Known
from training.reproduce.stats import paired
from training.reproduce.tables import TABLES
from training.reproduce.view import NAMES, SHORT, Result, results, spent
from training.runstate import write_text

FEWEST = 3  # trials of an arm, for a statement
CHOICES = ("scratch", "fip-all", "fip-iobn", "fip-ioms", "fip-io")  # what a user can choose; the others are controls
OTHERS = {
    "bundled-model.md": "the bundled classifier, as the service answers",
    "bundled-lidar19.md": "the bundled LiDAR model",
    "lidar.md": "image weights for LiDAR segmentation from a few scans",
    "bench-first-model.md": "one's own first model, timed",
    "bench-segment.md": "segmentation as served",
    "bench-tiling.md": "large clouds",
    "bench-io.md": "reading files",
    "bench-listing.md": "large folders",
    "bench-page.md": "the page in a browser",
    "fuzz.md": "damaged files",
}


def write_summary(known: Known, out: Path, tables: Mapping[str, tuple[Group, ...]] = TABLES) -> Path:
    """The page and its plot."""
    every = [group for of in tables.values() for group in of]
    groups = [group for place, group in enumerate(every) if group not in every[:place]]
    found = [(group, results(group, known)) for group in groups]
    count, hours = spent(tuple(groups), known)
    lines = [
        "# What image pretraining is worth",
        "",
        "ModelNet40 (1,024 points a cloud), networks inflated from 2D weights as in Image2Point (ECCV 2022), against the same networks "
        f"from random weights, and against random filters that are frozen. {count} trials, {hours:.1f} hours of one thread so far; every "
        "figure comes from the records in [trials](trials), and each page says how it was made.",
        "",
        "## Which mode, when",
        "",
    ]
    advice = [line for group, of in found if (line := _advice(group, of))]
    lines += advice or ["No setting has three trials of two modes yet."]
    points = [point for group, of in found for point in _points(group, of)]
    if points:
        plot_costs(points, out / "summary.svg")
        lines += ["", "![Test accuracy against the cost of a training](summary.svg)"]
    lines += ["", "## Is it the pretraining?", "", *_controls(found), "", "## Pages", ""]
    lines += [f"- [{name}]({name}.md): {PAGES[name].title}" for name in tables if name in PAGES and (out / f"{name}.md").is_file()]
    lines += [f"- [{name.removesuffix('.md')}]({name}): {what}" for name, what in OTHERS.items() if (out / name).is_file()]
    lines += ["", "Again with: `fip reproduce --all --budget 2h --data MODELNET40_HDF5 --weights FOLDER_OF_2D_WEIGHTS`.", ""]
    path = out / "README.md"
    write_text(path, "\n".join(lines))
    return path


def _known_choices(of: dict[str, Result]) -> list[Result]:
    return [of[arm] for arm in CHOICES if arm in of and len(of[arm].tests) >= FEWEST]


def _advice(group: Group, of: dict[str, Result]) -> str | None:
    """The best mode by its mean, what the others lose to it pair by pair, and what they cost."""
    choices = _known_choices(of)
    if len(choices) < 2:
        return None
    ranked = sorted(choices, key=lambda result: -result.test.mean if result.test else 0.0)
    best = ranked[0]
    parts = []
    for other in ranked[1:]:
        loss = paired(best.tests, other.tests)
        if loss is None:
            continue
        says = f"loses {loss.mean:.1f} ± {loss.half:.1f}" if loss.decided else f"is not told apart ({-loss.mean:+.1f} ± {loss.half:.1f})"
        parts.append(f"{SHORT[other.arm]} {says} at {other.minutes / best.minutes:.0%} of the time")
    return f"- **{setting(group)}**: {SHORT[best.arm]}, {best.test} %, {best.minutes:.1f} minutes; {'; '.join(parts)}."


def _points(group: Group, of: dict[str, Result]) -> list[Point]:
    return [
        Point(setting(group), SHORT[result.arm], result.minutes, result.test.mean, result.test.std)
        for result in _known_choices(of)
        if result.test is not None
    ]


def _controls(found: list[tuple[Group, dict[str, Result]]]) -> list[str]:
    """Image over random filters, both frozen: what only pretraining can have brought."""
    lines = []
    for group, of in found:
        for what, value, _ in gaps_of(group, of):
            if "over random filters" in what and value.count >= FEWEST:
                lines.append(f"- {setting(group)}: {what}: **{value.interval}** points ({value.count} pairs).")
    return lines or [f"Not measured yet: {NAMES['fip-iobn']}, against {NAMES['random-iobn']}."]
