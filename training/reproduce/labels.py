"""What each mode reaches by how much is labelled."""

from pathlib import Path

from training.reproduce.plots import Level, plot_labels
from training.reproduce.search import Group
from training.reproduce.tables import by_amount, has_usual_budget
from training.reproduce.texts import NETWORKS
from training.reproduce.view import SHORT, Result

FEWEST_AMOUNTS, FEWEST_RUNS = 3, 3


def labels_plot(found: list[tuple[Group, dict[str, Result]]], labelled: str, score: str, path: Path, link: str) -> list[str]:
    """The plot, and what has to be said of it; nothing where no network has three amounts of labels."""
    levels = levels_of(found)
    if not levels:
        return []
    plot_labels(levels, labelled, score, path)
    runs = sorted(level.runs for level in levels if level.runs > 1)
    return [
        f"![Scores by the amount that is labelled]({link})",
        "",
        f"Means and standard deviations of {runs[0]} to {runs[-1]} runs{'; hollow: a single run' if len(runs) < len(levels) else ''}. "
        "Epochs stand below: more labels mean more steps, too, to which a part of the rise is due. Longer budgets are left out.",
        "",
    ]


def levels_of(found: list[tuple[Group, dict[str, Result]]]) -> list[Level]:
    """Of the networks with three amounts of labels or more, each amount at its usual budget, the least first. A point stands for three
    runs at least; where everything is labelled, one will do.
    """
    levels: dict[str, list[Level]] = {}
    for group, of in sorted(found, key=lambda pair: by_amount(pair[0].shots)):
        for arm, mode in SHORT.items():
            test = of[arm].test if arm in of else None
            if test is None or not has_usual_budget(group) or test.count < (FEWEST_RUNS if group.shots else 1):
                continue
            network = NETWORKS[group.network]
            levels.setdefault(network, []).append(Level(network, mode, group.shots, group.epochs, test.mean, test.std, test.count))
    return [level for of in levels.values() if len({level.labelled for level in of}) >= FEWEST_AMOUNTS for level in of]
