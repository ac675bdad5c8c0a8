"""What a practitioner asks beside the mode: does it train faster, along which axis, from which stages; a line a question."""

from collections.abc import Mapping

from training.reproduce.arms import DEFAULT_ORDER
from training.reproduce.gaps import Gap, gaps_of, setting
from training.reproduce.search import Group, Known
from training.reproduce.speed import epochs_until, first_gaps
from training.reproduce.stats import FEW_PAIRS, Mean
from training.reproduce.view import NAMES, results

SOON = 85.0  # % of the held-out clouds
VARIED = (  # table, with what its variants are compared, and how that is told
    ("axes", "fip-io", f"FIP-IO, other orders of axes over {DEFAULT_ORDER}"),
    ("axes", "fip-iobn", f"FIP-IO+BN, other orders of axes over {DEFAULT_ORDER}"),
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
        told = [f"{what} {value.interval}{_few(value)} ({value.count} pairs)" for what, value in first_gaps(of) if value.count > 2]
        return [f"- {setting(group)}, held-out clouds: {', '.join(told)}."] if told else []
    reached = {arm: epochs_until(result, SOON) for arm, result in of.items()}
    told = [f"{NAMES[arm].partition(':')[0]} {epochs[0]}" for arm, epochs in reached.items() if len(epochs) == 1 and epochs[0] is not None]
    if len(told) < 2:
        return []
    return [
        f"- {setting(group)}: epochs until {SOON:g} % of 985 held-out clouds: {'; '.join(told)}. One run each, at rates of a search over "
        "one epoch, and a score is off by 2 points by chance: differences of a few epochs tell nothing."
    ]


def _span(gaps: list[Gap]) -> str:
    """From the lowest to the highest, and whether that many pairs can tell."""
    low, high = (chosen(gaps, key=lambda each: each.value.mean) for chosen in (min, max))
    lowest, highest = (f"{each.value.interval} ({each.what.split(' over ')[0]})" for each in (low, high))
    return f"from {lowest} to {highest}{_few(min((each.value for each in gaps), key=lambda value: value.count))}"


def _few(value: Mean) -> str:
    return ", too few pairs to tell" if value.count < FEW_PAIRS else ""
