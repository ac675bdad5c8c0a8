"""What each mode reaches by how much is labelled."""

from pathlib import Path

from training.reproduce.advice import Found, known_well
from training.reproduce.plots import Level, plot_labels
from training.reproduce.tables import by_amount, has_usual_budget
from training.reproduce.texts import NETWORKS
from training.reproduce.view import SHORT

FEWEST_AMOUNTS = 3


def labels_plot(found: Found, labelled: str, score: str, path: Path, link: str) -> list[str]:
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


def levels_of(found: Found) -> list[Level]:
    """Of the networks with three amounts of labels or more, each amount at its usual budget, the least first."""
    levels: dict[str, list[Level]] = {}
    for group, of in sorted(found, key=lambda pair: by_amount(pair[0].shots)):
        network = NETWORKS[group.network]
        for result in known_well(group, of) if has_usual_budget(group) else ():
            if test := result.test:
                level = Level(network, SHORT[result.arm], group.shots, group.epochs, test.mean, test.std, test.count)
                levels.setdefault(network, []).append(level)
    return [level for of in levels.values() if len({level.labelled for level in of}) >= FEWEST_AMOUNTS for level in of]
