"""What a practitioner asks beside the mode: does it train faster, along which axis, from which stages; a line a question."""

from collections.abc import Mapping

from training.evaluate import counted
from training.reproduce.arms import DEFAULT_ORDER
from training.reproduce.gaps import Gap, gaps_of, setting
from training.reproduce.search import Group, Known
from training.reproduce.speed import epochs_until, first_gaps
from training.reproduce.stats import FEW_PAIRS
from training.reproduce.view import SHORT, results

SOON = 85.0  # % of the held-out clouds
VARIED = (  # table, with what its variants are compared, and how that is told
    ("axes", "fip-io", f"FIP-IO, five other orders of axes over {DEFAULT_ORDER}"),
    ("axes", "fip-iobn", f"FIP-IO+BN, five other orders of axes over {DEFAULT_ORDER}"),
    ("stages", "fip-all", "FIP-ALL, some stages from image weights over all four"),
)


def besides(tables: Mapping[str, tuple[Group, ...]], known: Known) -> list[str]:
    """Lines of the summary; empty where nothing of it is known."""
    lines = [line for group in tables.get("speed", ()) for line in _sooner(group, known)]
    for table, second, what in VARIED:
        for group in tables.get(table, ()):
            every = gaps_of(group, results(group, known))
            gaps = [each for each in every if each.second == second and each.first.startswith(f"{second}-") and each.value.count > 2]
            if gaps:
                lines.append(f"- {setting(group)}: {what}: {_span(gaps)}.")
    return lines


def _sooner(group: Group, known: Known) -> list[str]:
    """How many epochs to a score; of one epoch alone, the gap after it."""
    of = results(group, known)
    if group.epochs == 1:
        told = [f"{what} {value.interval} ({value.count} pairs)" for what, value in first_gaps(of) if value.count > 2]
        return [f"- {setting(group)}, held-out clouds: {', '.join(told)}."] if told else []
    reached = {arm: epochs_until(result, SOON) for arm, result in of.items() if arm in SHORT}
    told = [f"{SHORT[arm]} {counted(epochs[0], 'epoch')}" for arm, epochs in reached.items() if len(epochs) == 1 and epochs[0] is not None]
    return [f"- {setting(group)}: {SOON:g} % of the held-out clouds after: {', '.join(told)} (one run each)."] if len(told) > 1 else []


def _span(gaps: list[Gap]) -> str:
    """From the lowest to the highest, and whether that many pairs can tell."""
    low, high = (chosen(gaps, key=lambda each: each.value.mean) for chosen in (min, max))
    few = all(each.value.count < FEW_PAIRS for each in gaps)
    lowest, highest = (f"{each.value.interval} ({each.what.split(' over ')[0]})" for each in (low, high))
    return f"from {lowest} to {highest}{', too few pairs to tell' if few else ''}"
