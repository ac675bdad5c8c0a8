"""A Markdown page and its plots for every table, made of the records alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from training.datasets.kinds import SCENE_KINDS
from training.evaluate import counted
from training.reproduce.plots import Bar, plot_curves, plot_gaps
from training.reproduce.search import GRID, Group, Known
from training.reproduce.stats import Mean, mean_of, paired
from training.reproduce.tables import TABLES
from training.reproduce.texts import DATA, FIRST_EPOCH, NETWORKS, PAGES, PAIRS, PUBLISHED, QUANTISED
from training.reproduce.trial import FULL, PAPER, Record, kind_of
from training.reproduce.view import NAMES, SHORT, Result, cost, every_record, gap, results
from training.runstate import write_text

FEW_PAIRS = 5


def write_pages(names: Iterable[str], known: Known, out: Path, tables: Mapping[str, tuple[Group, ...]] = TABLES) -> list[Path]:
    """The pages of these tables. Returns where they are."""
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
    compared = [] if name == "speed" else _each_once([(group, gaps_of(group, of)) for group, of in found])
    lines = [f"# {name}: {page.title}", "", page.about, "", *_verdicts(compared), ""]
    if bars := _bars(compared):
        plot_gaps(bars, out / name / "gaps.svg")
        lines += [f"![Paired gaps with their 95 % intervals]({name}/gaps.svg)", ""]
    for group, of in found:
        lines += [*_section(group, of, compare=name != "speed"), *_speed(name, group, of, out)]
    return "\n".join([*lines, *_footer(name, groups, known)])


def setting(group: Group) -> str:
    if is_of_scenes(group):
        return f"{NETWORKS[group.network]} U-Net, {counted(group.shots, 'scan') if group.shots else 'all scans'}, {group.epochs} epochs"
    few = "all clouds" if group.shots is None else f"{counted(group.shots, 'cloud')} a class"
    return f"{NETWORKS[group.network]}, {few}, {group.epochs} epochs"


def is_of_scenes(group: Group) -> bool:
    return kind_of(group.base) in SCENE_KINDS


def score_of(group: Group) -> str:
    """What its scores are called."""
    return "test mIoU" if is_of_scenes(group) else "test"


def gaps_of(group: Group, of: dict[str, Result]) -> list[tuple[str, Mean, str]]:
    """(what, gap, the paper's figure)."""
    gaps = [
        (what, gap(of, first, second), PUBLISHED.get((group.network, group.shots or 0, first, second), "–") if group.base == PAPER else "–")
        for first, second, what in PAIRS
    ]
    return [(what, value, paper) for what, value, paper in gaps if value is not None]


Compared = list[tuple[Group, list[tuple[str, Mean, str]]]]


def _each_once(compared: Compared) -> Compared:
    """Of gaps that two groups of one setting have, that of the most pairs."""
    best: dict[tuple[str, str], Mean] = {}
    for group, gaps in compared:
        for what, value, _ in gaps:
            key = setting(group), what
            best[key] = value if key not in best or value.count > best[key].count else best[key]
    return [(group, [gap for gap in gaps if gap[1] is best[setting(group), gap[0]]]) for group, gaps in compared]


def _verdicts(compared: Compared) -> list[str]:
    """One line for every gap of several seeds: what can be said, and what cannot."""
    lines = [
        f"- {setting(group)}: {what} "
        + (f"**{value.interval}**" if value.decided else f"{value.interval}: not told apart from nothing")
        + f" ({value.count} pairs)."
        for group, gaps in compared
        for what, value, _ in gaps
        if value.count > 2
    ]
    if not lines:
        return []
    what = "test mIoU, with 95 % intervals of the paired gaps, over draws of scans"
    if not is_of_scenes(compared[0][0]):
        what = "test accuracy, with 95 % intervals of the paired gaps, over draws of clouds"
    about = (
        f"In points of {what} and seeds. Each interval stands for itself: of these {len(lines)}, one in twenty would miss zero by chance "
        "where there is nothing."
    )
    if min(value.count for _, gaps in compared for _, value, _ in gaps if value.count > 2) < FEW_PAIRS:
        about += " The spread of three or four pairs is itself uncertain: an interval of theirs may be narrow, or wide, by luck."
    return [about, "", *lines]


def _bars(compared: Compared) -> list[Bar]:
    return [
        Bar(f"{setting(group)}: {what}", value.mean, value.half) for group, gaps in compared for what, value, _ in gaps if value.count > 2
    ]


def _section(group: Group, of: dict[str, Result], *, compare: bool) -> list[str]:
    title = f"## {setting(group)}" + (f": {group.part}" if group.part else "")
    if not any(result.records or result.choice.scores for result in of.values()):
        return [title, "", f"Not trained yet: {', '.join(of)}.", ""]
    lines = [
        title,
        "",
        f"| arm | learning rate | seeds | {score_of(group)} %, mean ± std | trained parameters | minutes a trial |",
        "|---|---|---|---|---|---|",
        *(_row(group, result) for result in of.values()),
        "",
    ]
    if compare and (gaps := gaps_of(group, of)):
        lines += [f"| gap, {score_of(group)} % | mean ± half of the 95 % interval | pairs | paper |", "|---|---|---|---|"]
        lines += [f"| {what} | {value.interval} | {value.count} | {paper} |" for what, value, paper in gaps]
        lines.append("")
    return [*lines, *_classes(of), *_grids(group, of)]


def _classes(of: dict[str, Result]) -> list[str]:
    """IoU of every class, where points have classes: the mean and spread over the trials of each arm."""
    found = {arm: [record.classes for record in result.records.values() if record.classes] for arm, result in of.items()}
    found = {arm: each for arm, each in found.items() if each}
    names = list(dict.fromkeys(name for records in found.values() for classes in records for name in classes))
    if not names:
        return []
    lines = [f"| IoU % | {' | '.join(SHORT.get(arm, arm) for arm in found)} |", "|---|" + "---|" * len(found)]
    for name in names:
        values = [mean_of([100 * classes[name] for classes in records if name in classes]) for records in found.values()]
        lines.append(f"| {name} | " + " | ".join("–" if value is None else str(value) for value in values) + " |")
    return [*lines, ""]


def _grids(group: Group, of: dict[str, Result]) -> list[str]:
    """Whose learning rate was searched, over what, and what was found."""
    searched = {group.rate_of.get(arm, arm): result for arm, result in of.items() if result.choice.scores}
    if not searched:
        return []
    epochs = group.search_epochs or group.epochs
    draws = f"; each on one draw of clouds at least, those among which it was chosen on {group.searches}" * (group.searches > 1)
    about = f"Learning rates that were tried, held-out % after {epochs} epoch{'s' * (epochs > 1)}{draws}"
    if borrowed := sum(source != arm for arm, source in group.rate_of.items()):
        about += f" ({borrowed} arms take the rate of another, which may favour that one)"
    return [f"{about}:", "", *(f"- {arm}: {_grid(result)}" for arm, result in searched.items()), ""]


def _row(group: Group, result: Result) -> str:
    name = NAMES.get(result.arm, result.arm)
    if not result.records:
        return f"| {name} | {_rate(result)} | 0 of {group.seeds_of(result.arm)} | – | – | – |"
    one = next(iter(result.records.values()))
    diverged = sum(record.diverged for record in result.records.values())
    reached = f"{result.test}{f' ({diverged} diverged)' if diverged else ''}"
    share = f"{one.trained:,} ({one.trained / one.parameters:.1%})"
    return (
        f"| {name} | {_rate(result)} | {len(result.records)} of {group.seeds_of(result.arm)} | {reached} | {share} | {result.minutes:.1f} |"
    )


def _rate(result: Result) -> str:
    return f"{result.choice.lr:g}" if result.choice.lr else "not chosen yet"


def _grid(result: Result) -> str:
    parts = []
    for lr, scores in sorted(result.choice.scores.items()):
        text = f"{lr:g}: " + " / ".join(f"{100 * score:.1f}" for score in scores)
        parts.append(f"**{text}**" if lr == result.choice.lr else text)
    at_edge = result.choice.lr in (GRID[0], GRID[-1])
    return ", ".join(parts) + (", at the end of all that is tried" if at_edge else "")


def _speed(name: str, group: Group, of: dict[str, Result], out: Path) -> list[str]:
    """The curves of a group that is trained on all clouds; on the page about speed also what they tell."""
    curves = {NAMES.get(arm, arm): [_accuracies(record) for record in result.records.values()] for arm, result in of.items()}
    curves = {label: found for label, found in curves.items() if found and all(found)}
    if not group.curve or not curves:
        return []
    picture = f"{name}/{group.network}-{group.shots or FULL}.svg"
    plot_curves(curves, setting(group), out / picture)
    lines = [f"![Accuracy on held-out clouds by epoch]({picture})", ""]
    return [*lines, *epochs_to(of), *first_epochs(of)] if name == "speed" else lines


def first_epochs(of: dict[str, Result]) -> list[str]:
    """What the schedule does to the first epoch, and what the weights do."""
    firsts = {
        arm: {seed: _accuracies(record)[0] for seed, record in result.records.items() if _accuracies(record)} for arm, result in of.items()
    }
    gaps = [(what, paired(firsts.get(first, {}), firsts.get(second, {}))) for first, second, what in FIRST_EPOCH]
    rows = [f"| {what} | {value.interval} | {value.count} |" for what, value in gaps if value]
    return (
        ["| gap after the first epoch, held-out % | mean ± half of the 95 % interval | pairs |", "|---|---|---|", *rows, ""] if rows else []
    )


def _accuracies(record: Record) -> list[float]:
    return [100 * row["val_accuracy"] for row in record.curve if "val_accuracy" in row]


def epochs_to(of: dict[str, Result], targets: tuple[float, ...] = (75.0, 80.0, 85.0)) -> list[str]:
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
            minutes = result.minutes / len(curves[0])
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
    records = every_record(groups, known)
    hours = sum(map(cost, records)) / 3600
    if not records:
        return [f"Nothing is trained yet: `fip reproduce {name} --data MODELNET40_HDF5 --weights FOLDER_OF_2D_WEIGHTS`.", ""]
    codes = sorted({record.code for record in records})
    machines = sorted({f"{record.machine}, engine {record.engine}" for record in records if record.engine})
    weights = sorted({f"`{record.weights}` (sha256 {str(record.inputs['weights'])[:12]}…)" for record in records if record.weights})
    one = next((record for record in records if record.test is not None), records[0])
    return [
        "## How",
        "",
        *(_how_of_scenes(groups, one) if is_of_scenes(groups[0]) else _how_of_clouds(one)),
        "",
        f"2D weights: {', '.join(weights) or 'none'}. {QUANTISED}",
        "",
        f"{len(records)} trials, {hours:.1f} hours of training. By {' and '.join(codes)}; {'; '.join(machines)}. Records: "
        f"[trials](trials). Again with: `fip reproduce {name} --data {DATA[kind_of(groups[0].base)]} --weights FOLDER_OF_2D_WEIGHTS`; one "
        f"trial: `--trial {one.trial}`.",
        "",
    ]


def _how_of_clouds(one: Record) -> list[str]:
    return [
        f"Recipe `{PAPER}` with what each arm changes (training/reproduce/arms.py), products in bfloat16. Learning rates were chosen on "
        "held-out *train* clouds, a tenth of them, of draws that are not reported, from a grid that goes on where the best rate lies at "
        "its end; the last epoch was then measured once on the test clouds. Pairs share draw, held-out clouds and seed. Minutes are those "
        "of training steps.",
        "",
        "ModelNet40 with 1,024 points a cloud in the unit sphere, z up, 12 bits an axis (train sha256 "
        f"{str(one.inputs['train'])[:12]}…, test {str(one.inputs['test'])[:12]}…); the paper had 2,048. With the publishers' files, whose "
        "y is up, say `--up y`. The paper's figures are those of its submission to ICLR 2022.",
    ]


def _how_of_scenes(groups: tuple[Group, ...], one: Record) -> list[str]:
    return [
        f"Recipe `{groups[0].base}` with what each arm changes (training/reproduce/arms.py). Learning rates were chosen on half of the "
        "training street, a run of successive scans, from a grid that goes on where the best rate lies at its end; the last epoch was "
        "then measured once, per point, on the scans of sequence 08. Pairs share their scans and seed. Voxel size, augmentation and "
        "losses were chosen with image weights, on a half of the street. Minutes are those of training steps.",
        "",
        f"SemanticKITTI: the scans of sequence 00 that were at hand, all of one street (sha256 {str(one.inputs['train'])[:12]}…), and five "
        f"of sequence 08 (sha256 {str(one.inputs['test'])[:12]}…). The paper trained on all 19,130.",
    ]
