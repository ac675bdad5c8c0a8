"""`fip reproduce neighbours`: what a classifier without any net says, on the very clouds that the nets of `fewshot` saw: the control that
tells how much of a few-shot score is learning at all.

A cloud in its unit sphere becomes a grid of g³ cells: points are counted in each, at most CAP, the counts are blurred, and their roots
taken. A cloud has the class of the labelled one whose grid, less the mean of all labelled ones, is nearest by angle. B clouds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.manifest import InputSpec
from models.voxelize import prepare
from training.datasets import Clouds, read_split
from training.progress import progress
from training.publish import code_version
from training.recipe import Recipe
from training.reproduce.gaps import few_or_all
from training.reproduce.search import Group, Known
from training.reproduce.stats import Mean, mean_of, paired
from training.reproduce.tables import LEARNERS, TABLES, has_usual_budget
from training.reproduce.texts import NETWORKS
from training.reproduce.trial import Trial
from training.reproduce.view import SHORT, Result, results
from training.run import training_splits
from training.runstate import write_text

Grids = npt.NDArray[np.float32]
CAP = 4
GRIDS = tuple((cells, blur) for cells in (16, 20, 24, 28) for blur in (0.5, 0.75, 1.0, 1.5, 2.0))  # cells of a side; blur: std in cells
SEEDS = {1: 10, 5: 5, 10: 5}  # by clouds a class
RECORD = Path("neighbours/modelnet40.json")
SEARCHES = 2  # draws that choose a grid, on their held-out clouds
ABOUT = """\
A nearest neighbour without a net or any training, on the draws of clouds that the nets of [fewshot](fewshot.md) were trained on. Every \
cloud becomes a grid of cells in its unit sphere, with the number of points in each, blurred; a test cloud is given the class of the \
labelled cloud whose grid is most like its own. Its grid is chosen as a net's learning rate is: on held-out train clouds of two draws that \
are not reported. It needs what all of ModelNet40 has: objects that stand upright and face the same way. A net that stays below it has \
learnt from its few clouds less than they show."""


@dataclass(frozen=True)
class Found:
    """train, test: digests of the clouds. tried: held-out accuracies of each grid, by clouds a class; tests: those on the test clouds by
    seed, of the grid that was chosen.
    """

    train: str
    test: str
    code: str
    tried: dict[int, dict[tuple[int, float], list[float]]]
    tests: dict[int, dict[int, float]]

    def chosen(self, shots: int) -> tuple[int, float]:
        return max(self.tried[shots], key=lambda grid: sum(self.tried[shots][grid]))

    def test_of(self, shots: int) -> Mean | None:
        """In %."""
        return mean_of([100 * each for each in self.tests[shots].values()])


def measure(data: Path, out: Path) -> None:
    """Classify the clouds of a folder and record it below `out`, unless that was done. Raises: BadDataset."""
    train, test = (read_split("modelnet40", data, split) for split in ("train", "test"))
    before = read_found(out)
    if before is None or (before.train, before.test) != (train.digest, test.digest):
        record = out / RECORD
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(record, _written(_measured(train, test)))


def read_found(out: Path) -> Found | None:
    """None where there is no record, or one of other grids."""
    try:
        read = json.loads((out / RECORD).read_text(encoding="utf-8"))
        tried = {int(shots): {(cells, blur): scores for cells, blur, scores in grids} for shots, grids in read["tried"].items()}
        tests = {int(shots): {int(seed): score for seed, score in scores.items()} for shots, scores in read["tests"].items()}
        found = Found(read["train"], read["test"], read["code"], tried, tests)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = all(set(grids) == set(GRIDS) for grids in found.tried.values()) and found.tests.keys() == SEEDS.keys()
    return found if whole else None


def write_neighbours(found: Found, known: Known, out: Path) -> Path:
    """The page, with what the nets reached on the same clouds."""
    page = out / "neighbours.md"
    write_text(page, page_of(found, known))
    return page


def _written(found: Found) -> str:
    tried = {shots: [[*grid, scores] for grid, scores in grids.items()] for shots, grids in found.tried.items()}
    return json.dumps({"train": found.train, "test": found.test, "code": found.code, "tried": tried, "tests": found.tests}) + "\n"


def _measured(train: Clouds, test: Clouds) -> Found:
    tried: dict[int, dict[tuple[int, float], list[float]]] = {shots: {grid: [] for grid in GRIDS} for shots in SEEDS}
    for seed in range(SEARCHES):
        splits = {shots: training_splits(_draw(shots, seed, search=True), train) for shots in SEEDS}
        held_out = next(iter(splits.values())).validation  # whatever is labelled
        for grid in progress(GRIDS, f"draw {seed} of the search, grids", len(GRIDS)):
            asked = grids_of(held_out, *grid)
            for shots, split in splits.items():
                tried[shots][grid].append(_right(split.train, asked, held_out.targets, grid))
    found = Found(train.digest, test.digest, code_version(), tried, {})
    for shots, seeds in SEEDS.items():
        grid = found.chosen(shots)
        asked = grids_of(test, *grid)
        draws = {seed: training_splits(_draw(shots, seed), train).train for seed in range(seeds)}
        found.tests[shots] = {seed: _right(labelled, asked, test.targets, grid) for seed, labelled in draws.items()}
    return found


def _draw(shots: int, seed: int, *, search: bool = False) -> Recipe:
    """What draws the clouds of every net's trial of that seed."""
    return Trial("resnet18", shots, 1, "scratch", 0.1, seed, search=search).recipe()


def _right(labelled: Clouds, asked: Grids, targets: npt.NDArray[np.int64], grid: tuple[int, float]) -> float:
    """The share of the clouds asked that are of the class of their nearest neighbour."""
    return float((labelled.targets[nearest(grids_of(labelled, *grid), asked)] == targets).mean())


def nearest(labelled: Grids, asked: Grids) -> npt.NDArray[np.int64]:
    """The row in `labelled` (L, C) that is most like each of `asked` (B, C): (B,)."""
    middle = labelled.mean(axis=0)
    labelled, asked = (each - middle for each in (labelled, asked))
    lengths = np.maximum(np.linalg.norm(labelled, axis=1), np.finfo(np.float32).tiny)
    found: npt.NDArray[np.int64] = (asked @ (labelled / lengths[:, None]).T).argmax(axis=1)
    return found


def grids_of(clouds: Clouds, cells: int, blur: float) -> Grids:
    """(B, cells³): points in each cell of the unit sphere's cube, at most CAP, blurred with a normal density, and the root of that."""
    frame = InputSpec(features=(), voxel_size=1.0, normalise="unit_sphere")
    counts = np.empty((len(clouds), cells**3), np.float32)
    for row in range(len(clouds)):
        cell = np.clip((prepare(clouds.cloud(row), frame).xyz + 1) * (cells / 2), 0, cells - 1).astype(np.int64)
        counts[row] = np.bincount((cell[:, 0] * cells + cell[:, 1]) * cells + cell[:, 2], minlength=cells**3)
    along = np.arange(cells, dtype=np.float32)
    weights = np.exp(-((along[:, None] - along) ** 2) / (2 * blur**2))
    weights /= weights[cells // 2].sum()
    blurred = np.minimum(counts, CAP).reshape(-1, cells, cells, cells)
    for axis in (1, 2, 3):
        blurred = np.moveaxis(np.moveaxis(blurred, axis, 3) @ weights, 3, axis)
    return np.sqrt(blurred).reshape(len(clouds), -1)


def page_of(found: Found, known: Known) -> str:
    """The page, in Markdown."""
    lines = ["# neighbours: how far does one come without a net?", "", ABOUT, ""]
    for shots in SEEDS:
        lines += _section(shots, found, known)
    of = f"ModelNet40 (train sha256 {found.train[:12]}…, test {found.test[:12]}…), by {found.code}"
    again = f"Record: [{RECORD.name}]({RECORD}). Again with: `fip reproduce neighbours --data MODELNET40_HDF5`."
    return "\n".join([*lines, f"{of}. {again}", ""])


def line_of(found: Found) -> str:
    """A line for the summary."""
    scores = "; ".join(f"{few_or_all(shots)} {found.test_of(shots)} ({len(found.tests[shots])} draws)" for shots in SEEDS)
    return f"- Without a net, a [nearest neighbour](neighbours.md) among blurred grids of points: {scores}."


def _section(shots: int, found: Found, known: Known) -> list[str]:
    own = {seed: 100 * score for seed, score in found.tests[shots].items()}
    cells, blur = found.chosen(shots)
    lines = [
        f"## {few_or_all(shots)}",
        "",
        "| classifier | test %, mean ± std | draws | gap over the neighbour, mean ± half of the 95 % interval | pairs |",
        "|---|---|---|---|---|",
        f"| nearest neighbour, {cells}³ cells, blurred by {blur:g} | {mean_of(list(own.values()))} | {len(own)} | – | – |",
    ]
    for group, of in _nets(shots, known, found):
        for arm in LEARNERS:
            if arm in of and (mean := of[arm].test) is not None and (over := paired(of[arm].tests, own)) is not None:
                told = f"**{over.interval}**" if over.decided else over.interval
                lines.append(f"| {NETWORKS[group.network]}, {SHORT[arm]} | {mean} | {mean.count} | {told} | {over.count} |")
    grids = sorted(found.tried[shots].items(), key=lambda pair: -sum(pair[1]))
    tried = ", ".join(f"{side}³ by {std:g}: {' / '.join(f'{100 * score:.1f}' for score in scores)}" for (side, std), scores in grids)
    return [*lines, "", f"Grids that were tried, held-out % on one draw / on another, the best mean first: {tried}.", ""]


def _nets(shots: int, known: Known, found: Found) -> list[tuple[Group, dict[str, Result]]]:
    """Those of the table `fewshot` that saw the same clouds, at the budget at which nets are compared."""
    groups = [(group, results(group, known)) for group in TABLES["fewshot"] if group.shots == shots and has_usual_budget(group)]
    return [(group, of) for group, of in groups if all(_same(result, found) for result in of.values())]


def _same(result: Result, found: Found) -> bool:
    seen = [(record.inputs["train"], record.inputs["test"]) for record in result.records.values()]
    return all(each == (found.train, found.test) for each in seen)
