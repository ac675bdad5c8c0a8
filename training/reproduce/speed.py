"""What curves tell: accuracy by epoch, how soon it is reached, and what the first epoch owes to its schedule."""

from pathlib import Path

from training.reproduce.gaps import setting
from training.reproduce.plots import plot_curves
from training.reproduce.search import Group
from training.reproduce.stats import Mean, paired
from training.reproduce.texts import FIRST_EPOCH
from training.reproduce.trial import FULL, Record
from training.reproduce.view import NAMES, Result


def speed(name: str, group: Group, of: dict[str, Result], out: Path) -> list[str]:
    """The curves of a group that is trained on all clouds; on the page about speed also what they tell."""
    curves = {NAMES.get(arm, arm): [_accuracies(record) for record in result.records.values()] for arm, result in of.items()}
    curves = {label: found for label, found in curves.items() if found and all(found)}
    if not group.curve or not curves:
        return []
    lines = []
    if group.epochs > 1:
        picture = f"{name}/{group.network}-{group.shots or FULL}.svg"
        plot_curves(curves, setting(group), out / picture)
        lines = [f"![Accuracy on held-out clouds by epoch]({picture})", ""]
    return [*lines, *epochs_to(of), *first_epochs(of)] if name == "speed" else lines


def first_gaps(of: dict[str, Result]) -> list[tuple[str, Mean]]:
    """What the schedule does to the first epoch, and what the weights do, in held-out %."""
    firsts = {
        arm: {seed: _accuracies(record)[0] for seed, record in result.records.items() if _accuracies(record)} for arm, result in of.items()
    }
    gaps = [(what, paired(firsts.get(first, {}), firsts.get(second, {}))) for first, second, what in FIRST_EPOCH]
    return [(what, value) for what, value in gaps if value]


def first_epochs(of: dict[str, Result]) -> list[str]:
    rows = [f"| {what} | {value.interval} | {value.count} |" for what, value in first_gaps(of)]
    return (
        ["| gap after the first epoch, held-out % | mean ± half of the 95 % interval | pairs |", "|---|---|---|", *rows, ""] if rows else []
    )


def _accuracies(record: Record) -> list[float]:
    return [100 * row["val_accuracy"] for row in record.curve if "val_accuracy" in row]


def epochs_to(of: dict[str, Result], targets: tuple[float, ...] = (75.0, 80.0, 85.0)) -> list[str]:
    lines = [
        "| arm | first epoch % | " + " | ".join(f"epochs (seconds) to {target:g} %" for target in targets) + " | engine |",
        "|---|---|" + "---|" * len(targets) + "---|",
    ]
    for arm, result in of.items():
        curves = [_accuracies(record) for record in result.records.values()]
        if not curves or not all(curves):
            continue
        first, timed = sum(curve[0] for curve in curves) / len(curves), result.timed
        cells = []
        for target in targets:
            cells.append(_reached(epochs_until(result, target), 60 * timed[0] / len(curves[0]) if timed else None))
        lines.append(f"| {NAMES.get(arm, arm)} | {first:.1f} | " + " | ".join(cells) + f" | {timed[1] if timed else '–'} |")
    return [*lines, ""]


def epochs_until(result: Result, target: float) -> list[int | None]:
    """The first epoch of each run that reaches so many % of the held-out clouds."""
    return [
        next((epoch for epoch, value in enumerate(_accuracies(record), 1) if value >= target), None) for record in result.records.values()
    ]


def _reached(epochs: list[int | None], seconds: float | None) -> str:
    """The middle one of the runs' epochs, of an even number the later one, and its seconds."""
    known = sorted(epoch for epoch in epochs if epoch is not None)
    if not known:
        return "not reached"
    if len(known) <= len(epochs) // 2:
        return f"reached by {len(known)} of {len(epochs)}"
    middle = known[len(epochs) // 2]
    return f"{middle}{'' if seconds is None else f' ({middle * seconds:.0f})'}" + f", by {len(known)} of {len(epochs)}" * (
        len(known) < len(epochs)
    )
