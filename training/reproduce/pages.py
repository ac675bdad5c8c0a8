"""A Markdown page and its plots for every table, made of the records alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from training.reproduce.arms import AXIS_MODES, DEFAULT_ORDER, ORDERS, STAGE_SETS
from training.reproduce.plots import Bar, plot_curves, plot_gaps
from training.reproduce.search import Group, Known
from training.reproduce.stats import Mean
from training.reproduce.tables import TABLES
from training.reproduce.trial import FULL, RECIPE, Record
from training.reproduce.view import NAMES, SHORT, Result, gap, results, spent
from training.runstate import write_text

PAIRS: tuple[tuple[str, str, str], ...] = (  # what is subtracted from what, and what it tells
    ("fip-all", "scratch", "FIP-ALL over scratch"),
    ("fip-iobn", "scratch", "FIP-IO+BN over scratch"),
    ("fip-iobn", "random-iobn", "IO+BN, image over random filters"),
    ("fip-ioms", "random-ioms", "IOms, image over random filters"),
    ("fip-io", "random-io", "IO, image over random filters"),
    ("fip-io-recalibrated", "random-io-recalibrated", "IO recalibrated, image over random filters"),
    ("fip-io-recalibrated", "fip-io", "FIP-IO, recalibrated over image statistics"),
    ("fip-all-mean", "fip-all", "FIP-ALL, scale 1/3 over 1"),
    ("fip-iobn-mean", "fip-iobn", "FIP-IO+BN, scale 1/3 over 1"),
    ("fip-ioms-mean", "fip-ioms", "FIP-IOms, scale 1/3 over 1"),
    ("fip-io-mean", "fip-io", "FIP-IO, scale 1/3 over 1"),
    ("fip-all-tied", "fip-all", "FIP-ALL, tied over untied"),
    ("fip-all-tied", "scratch-tied", "tied filters, FIP-ALL over scratch"),
    ("fip-all-cyclic", "scratch-cyclic", "the public code's schedule, FIP-ALL over scratch"),
)
PAIRS += tuple(
    (f"fip-{mode}-{order}", f"fip-{mode}-{DEFAULT_ORDER}", f"{SHORT[f'fip-{mode}']}, axes {order} over {DEFAULT_ORDER}")
    for mode in AXIS_MODES
    for order in ORDERS
    if order != DEFAULT_ORDER
)
PAIRS += tuple((f"fip-all-stages{name}", "scratch", f"stages {', '.join(name)} over scratch") for name in STAGE_SETS)
PAPER = {  # (network, shots, first, second) -> its figures
    ("resnet18", 10, "fip-all", "scratch"): "+1.0 (72.2 → 73.2)",
    ("resnet18", 5, "fip-all", "scratch"): "+2.9 (63.7 → 66.6)",
    ("resnet18", 1, "fip-all", "scratch"): "+10.0 (26.8 → 36.8)",
    ("resnet50", 10, "fip-all", "scratch"): "+2.4 (71.7 → 74.1)",
}
NETWORKS = {"resnet18": "ResNet18", "resnet50": "ResNet50"} | {f"cifar_resnet{depth}": f"CIFAR ResNet{depth}" for depth in (20, 32, 44, 56)}


@dataclass(frozen=True)
class Page:
    """title: a question; about: what was done, and what the paper says."""

    title: str
    about: str


PAGES = {
    "fewshot": Page(
        "does image pretraining help with few labels?",
        "Table 4 of Image2Point: 1, 5 and 10 labelled clouds a class of ModelNet40, everything trained from image weights (FIP-ALL) or "
        "random ones (scratch), and with the image filters frozen (FIP-IO+BN). The paper's figures are of 2,048 points a cloud, three "
        "seeds, and the epoch that was best on the test clouds; ours of 1,024 points and the last epoch.",
    ),
    "modes": Page(
        "what may be frozen, and is it the pretraining?",
        "Figure 2 and Tables 6 and 7 of Image2Point: which parts are trained. The control that the paper lacks: the "
        "same modes with **random** "
        "filters, frozen. What image filters are worth is what they bring over those.",
    ),
    "speed": Page(
        "does image pretraining train faster?",
        "Figure 3 of Image2Point: accuracy by epoch on all clouds. The public code steps its cosine once an *iteration*, with the number "
        "of epochs as half its period: with the paper's 300 epochs the learning rate has fallen to almost nothing after 300 iterations, "
        "which is the end of the first epoch, and rises again. The arms with the public code's learning rate do the same, the others fall "
        "once over the whole run. Accuracy by epoch is of the held-out train clouds.",
    ),
    "axes": Page(
        "along which axis should filters be repeated?",
        "Table 8 of Image2Point: a filter of an image is repeated along one axis, and its height and width take the other two: six orders, "
        "of which the public code's names `x-axis`, `y-axis` and `z-axis` are (x, y, z), (z, y, x) and (y, z, x). Up is z here and y in "
        "the paper. The learning rate is that of the default order.",
    ),
    "stages": Page(
        "which stages are worth loading?",
        "Table 9 of Image2Point: only some of the four residual stages start from image weights, the others from "
        "random ones; everything is "
        "trained, at FIP-ALL's learning rate.",
    ),
    "backbones": Page(
        "does it depend on the network?",
        "Ten clouds a class with networks pretrained on ImageNet (ResNet18, ResNet50) and on CIFAR-10 (the others).",
    ),
}


def write_pages(names: Iterable[str], known: Known, out: Path, tables: Mapping[str, tuple[Group, ...]] = TABLES) -> list[Path]:
    """The pages of these tables and the summary of all. Returns where they are."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name in names:
        path = out / f"{name}.md"
        write_text(path, _page(name, tables[name], known, out))
        made.append(path)
    return made


def _page(name: str, groups: tuple[Group, ...], known: Known, out: Path) -> str:
    page = PAGES[name]
    found = [(group, results(group, known)) for group in groups]
    lines = [f"# {name}: {page.title}", "", page.about, "", *_verdicts(found), ""]
    if bars := _bars(found):
        plot_gaps(bars, out / name / "gaps.svg")
        lines += [f"![Paired gaps with their 95 % intervals]({name}/gaps.svg)", ""]
    for group, of in found:
        lines += [*_section(group, of), *_curve_plot(name, group, of, out), ""]
    return "\n".join([*lines, *_footer(name, groups, known)])


def setting(group: Group) -> str:
    few = "all clouds" if group.shots is None else f"{group.shots} cloud{'s' * (group.shots > 1)} a class"
    return f"{NETWORKS[group.network]}, {few}, {group.epochs} epochs"


def gaps_of(group: Group, of: dict[str, Result]) -> list[tuple[str, Mean, str]]:
    """(what, gap, the paper's figure)."""
    gaps = [
        (what, gap(of, first, second), PAPER.get((group.network, group.shots or 0, first, second), "–")) for first, second, what in PAIRS
    ]
    return [(what, value, paper) for what, value, paper in gaps if value is not None]


def _verdicts(found: list[tuple[Group, dict[str, Result]]]) -> list[str]:
    """One line for every gap of several seeds: what can be said, and what cannot."""
    lines = []
    for group, of in found:
        for what, value, _ in gaps_of(group, of):
            if value.count < 3:
                continue
            says = f"**{value.interval}**" if value.decided else f"{value.interval}: not told apart from nothing"
            lines.append(f"- {setting(group)}: {what} {says} ({value.count} pairs).")
    return (
        ["In points of test accuracy, with 95 % intervals of the paired gaps:", "", *lines]
        if lines
        else ["No gap of three pairs is known yet."]
    )


def _bars(found: list[tuple[Group, dict[str, Result]]]) -> list[Bar]:
    return [
        Bar(f"{setting(group)}: {what}", value.mean, value.half)
        for group, of in found
        for what, value, _ in gaps_of(group, of)
        if value.count > 2
    ]


def _section(group: Group, of: dict[str, Result]) -> list[str]:
    lines = [
        f"## {setting(group)}",
        "",
        "| arm | learning rate | seeds | test %, mean ± std | trained parameters | minutes a trial |",
        "|---|---|---|---|---|---|",
        *(_row(group, result) for result in of.values()),
        "",
    ]
    if gaps := gaps_of(group, of):
        lines += ["| gap, test % | mean ± half of the 95 % interval | pairs | paper |", "|---|---|---|---|"]
        lines += [f"| {what} | {value.interval} | {value.count} | {paper} |" for what, value, paper in gaps]
        lines.append("")
    searched = {arm: result for arm, result in of.items() if arm not in group.rate_of and result.choice.scores}
    if searched:
        epochs = group.search_epochs or group.epochs
        lines += [
            f"Learning rates that were tried, held-out % after {epochs} epochs ({group.searches} draw{'s' * (group.searches > 1)}):",
            "",
        ]
        lines += [f"- {arm}: {_grid(result)}" for arm, result in searched.items()]
    return lines


def _row(group: Group, result: Result) -> str:
    name = NAMES.get(result.arm, result.arm)
    if not result.records:
        return f"| {name} | {_rate(result)} | 0 of {group.seeds} | – | – | – |"
    one = next(iter(result.records.values()))
    share = f"{one.trained:,} ({one.trained / one.parameters:.1%})"
    return f"| {name} | {_rate(result)} | {len(result.records)} of {group.seeds} | {result.test} | {share} | {result.minutes:.1f} |"


def _rate(result: Result) -> str:
    return f"{result.choice.lr:g}" if result.choice.lr else "not chosen yet"


def _grid(result: Result) -> str:
    parts = []
    for lr, score in sorted(result.choice.scores.items()):
        text = f"{lr:g} {100 * score:.1f}"
        parts.append(f"**{text}**" if lr == result.choice.lr else text)
    return ", ".join(parts)


def _curve_plot(name: str, group: Group, of: dict[str, Result], out: Path) -> list[str]:
    curves = {NAMES.get(arm, arm): [_accuracies(record) for record in result.records.values()] for arm, result in of.items()}
    curves = {label: found for label, found in curves.items() if found and all(found)}
    if not group.curve or not curves:
        return []
    picture = f"{name}/{group.network}-{group.shots or FULL}.svg"
    plot_curves(curves, setting(group), out / picture)
    return [f"![Accuracy on held-out clouds by epoch]({picture})", "", *_epochs_to(of)]


def _accuracies(record: Record) -> list[float]:
    return [100 * row["val_accuracy"] for row in record.curve if "val_accuracy" in row]


def _epochs_to(of: dict[str, Result], targets: tuple[float, ...] = (75.0, 80.0, 85.0)) -> list[str]:
    lines = [
        "| arm | first epoch % | " + " | ".join(f"epochs (minutes) to {target:g} %" for target in targets) + " |",
        "|---|---|" + "---|" * len(targets),
    ]
    for arm, result in of.items():
        curves = [_accuracies(record) for record in result.records.values()]
        if not curves or not all(curves):
            continue
        first = sum(curve[0] for curve in curves) / len(curves)
        cells = []
        for target in targets:
            reached = [next((epoch for epoch, value in enumerate(curve, 1) if value >= target), None) for curve in curves]
            known = sorted(epoch for epoch in reached if epoch is not None)
            minutes = sum(record.cpu_seconds / len(record.curve) for record in result.records.values()) / len(result.records) / 60
            middle = known[len(known) // 2] if len(known) == len(reached) else None
            cells.append(
                f"{middle} ({middle * minutes:.1f})"
                if middle
                else "not reached"
                if not known
                else f"reached by {len(known)} of {len(reached)}"
            )
        lines.append(f"| {NAMES.get(arm, arm)} | {first:.1f} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _footer(name: str, groups: tuple[Group, ...], known: Known) -> list[str]:
    records = [record for group in groups for result in results(group, known).values() for record in result.records.values()]
    codes = sorted({record.code for record in records})
    machines = sorted({f"{record.machine}, engine {record.engine}" for record in records})
    count, hours = spent(groups, known)
    return [
        f"Recipe `{RECIPE}` with what each arm changes (training/reproduce/arms.py). The learning rate of every arm, at "
        f"every number of shots "
        "and budget, was chosen on held-out *train* clouds of draws that are not reported, from a grid that was "
        "extended where the best rate "
        "lay at its end; the last epoch was then measured once on the test clouds. Pairs share draw, held-out clouds and seed.",
        "",
        f"{count} trials, {hours:.1f} hours of one thread. Trained by {' and '.join(codes) or 'nothing yet'}; {'; '.join(machines)}. "
        f"Pages by torch {torch.__version__}. Records: [trials](trials). Again with: `fip reproduce {name} --data "
        f"MODELNET40_HDF5 --weights "
        "FOLDER_OF_2D_WEIGHTS`; one trial: `--trial resnet18-10shot/scratch-30e-lr0.03-seed0`.",
        "",
    ]
