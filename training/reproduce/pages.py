"""A Markdown page and its plots for every table, made of the records alone."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from training.evaluate import counted
from training.reproduce.explored import EXPLORED
from training.reproduce.gaps import bars, by_budget, each_once, few_or_all, gaps_of, is_of_scenes, score_of, setting, verdicts
from training.reproduce.labels import labels_plot
from training.reproduce.plots import plot_gaps
from training.reproduce.search import GRID, Exploration, Group, Known
from training.reproduce.speed import speed
from training.reproduce.stats import mean_of, paired
from training.reproduce.tables import TABLES
from training.reproduce.texts import DATA, NETWORKS, PAGES, QUANTISED, Page
from training.reproduce.trial import Record, kind_of
from training.reproduce.view import NAMES, SHORT, Result, cost, every_exploration, every_record, results
from training.runstate import write_text

OURS = "efa65ed7ed33"  # the train clouds that the records of this repository are of


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
    compared = [] if name == "speed" else each_once([(group, gaps_of(group, of)) for group, of in found])
    lines = [f"# {name}: {page.title}", "", page.about, "", *verdicts(compared), ""]
    if shown := bars(compared):
        plot_gaps(shown, out / name / "gaps.svg")
        lines += [f"![Paired gaps with their 95 % intervals]({name}/gaps.svg)", ""]
    labelled = "labelled scans" if is_of_scenes(groups[0]) else "labelled clouds a class"
    lines += labels_plot(found, labelled, f"{score_of(groups[0])} %", out / name / "labels.svg", f"{name}/labels.svg")
    for group, of in found:
        lines += [*_section(page, group, of, known, compare=name != "speed"), *speed(name, group, of, out)]
    lines += by_budget(compared)
    lines += [line for each in EXPLORED.get(name, ()) for line in _explored(each, known)]
    return "\n".join([*lines, *_footer(name, groups, known)])


def _explored(each: Exploration, known: Known) -> list[str]:
    """What was tried, the best first."""
    rows = []
    for arm, lr, epochs in each.tried:
        found = [100 * record.held_out for trial in each.trials(arm, lr, epochs) if (record := known(trial))]
        if (mean := mean_of(found)) is not None:
            draws = " / ".join(f"{score:.1f}" for score in found)
            rows.append((-len(found), -mean.mean, f"| {arm} | {lr:g} | {epochs} | {draws} | {mean.mean:.1f} |"))
    if not rows:
        return []
    return [
        f"## Tried: {NETWORKS[each.network]}, {few_or_all(each.shots)}",
        "",
        f"Held-out % of the train clouds, for each of up to {counted(each.draws, 'draw')} that are not reported; those that were tried on "
        "more draws first. A score is of 985 clouds, and by chance alone off by up to 3 points in 95 of 100 cases.",
        "",
        "| arm | learning rate | epochs | held-out % | mean |",
        "|---|---|---|---|---|",
        *(row for _, _, row in sorted(rows)),
        "",
    ]


def _section(page: Page, group: Group, of: dict[str, Result], known: Known, *, compare: bool) -> list[str]:
    title = f"## {setting(group)}" + (f": {group.part}" if group.part else "")
    if not any(result.records or result.choice.scores for result in of.values()):
        return [title, "", f"Not trained yet: {', '.join(of)}.", ""]
    beside = any(arm in page.paper for arm in of)
    lines = [
        title,
        "",
        f"| arm | learning rate | seeds | {score_of(group)} %, mean ± std | trained parameters | minutes a trial |"
        + f" paper: {page.of} |" * beside,
        "|---|---|---|---|---|---|" + "---|" * beside,
        *(_row(group, result) + f" {page.paper.get(arm, '–')} |" * beside for arm, result in of.items()),
        "",
    ]
    if compare and (gaps := gaps_of(group, of)):
        paper = any(each.paper for each in gaps)
        lines += [
            f"| gap, {score_of(group)} % | mean ± half of the 95 % interval | pairs |" + " paper |" * paper,
            "|---|---|---|" + "---|" * paper,
        ]
        lines += [f"| {each.what} | {each.value.interval} | {each.value.count} |" + f" {each.published} |" * paper for each in gaps]
        lines.append("")
    return [
        *lines,
        *_beside(of, "With votes over without", lambda record: record.unvoted),
        *_beside(of, "Over its teacher", lambda record: record.teacher),
        *_elsewhere(group, of, known),
        *_classes(of),
        *_grids(group, of),
    ]


def _beside(of: dict[str, Result], what: str, other: Callable[[Record], float | None]) -> list[str]:
    """What the test score of each arm has over another one of the same trial."""
    told = []
    for arm, result in of.items():
        found = {seed: 100 * score for seed, record in result.records.items() if (score := other(record)) is not None}
        if (gain := paired(result.tests, found)) is not None:
            told.append(f"{NAMES.get(arm, arm)} {gain.interval} over {mean_of(list(found.values()))} ({counted(gain.count, 'pair')})")
    return [f"{what}: {'; '.join(told)}.", ""] if told else []


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


def _elsewhere(group: Group, of: dict[str, Result], known: Known) -> list[str]:
    """Test scores at other rates than the chosen one, from before the search came to it: nothing that was measured is left out."""
    told = []
    for arm, result in of.items():
        for lr in GRID:
            tests = [100 * record.test for trial in group.reported(arm, lr) if (record := known(trial)) and record.test is not None]
            if tests and lr != result.choice.lr:
                told.append(f"{NAMES.get(arm, arm)}, rate {lr:g}: {mean_of(tests)} ({counted(len(tests), 'seed')})")
    return [f"Measured before the rule of the search was mended, and not used: {'; '.join(told)}.", ""] if told else []


def _grids(group: Group, of: dict[str, Result]) -> list[str]:
    """Whose learning rate was searched, over what, and what was found."""
    searched = {group.rate_of.get(arm, arm): result for arm, result in of.items() if result.choice.scores}
    if not searched:
        return []
    epochs = group.search_epochs or group.epochs
    about = f"Learning rates that were tried, held-out % after {counted(epochs, 'epoch')} on one draw"
    about += f" / on another; of those that were tried on {group.searches} draws the best mean was taken" * (group.searches > 1)
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
    share = f"{one.trained:,} ({100 * one.trained / one.parameters:.1f} %)"
    seeds = f"{len(result.records)} of {group.seeds_of(result.arm)}"
    return f"| {name} | {_rate(result)} | {seeds} | {reached} | {share} | {result.minutes} |"


def _rate(result: Result) -> str:
    return f"{result.choice.lr:g}" if result.choice.lr else "not chosen yet"


def _grid(result: Result) -> str:
    parts = []
    for lr, scores in sorted(result.choice.scores.items()):
        text = f"{lr:g}: " + " / ".join(f"{100 * score:.1f}" for score in scores)
        parts.append(f"**{text}**" if lr == result.choice.lr else text)
    at_edge = result.choice.lr in (GRID[0], GRID[-1])
    return ", ".join(parts) + (", at the end of all that is tried" if at_edge else "")


def _footer(name: str, groups: tuple[Group, ...], known: Known) -> list[str]:
    records = [*every_record(groups, known), *every_exploration(name, known)]
    hours = sum(map(cost, records)) / 3600
    if not records:
        return [f"Nothing is trained yet: `fip reproduce {name} --data MODELNET40_HDF5 --weights FOLDER_OF_2D_WEIGHTS`.", ""]
    codes = sorted({record.code for record in records})
    version, commits = codes[0].partition(", ")[0], ", ".join(code.rpartition("commit ")[2] for code in codes)
    machines = sorted({f"{record.machine}, engine {record.engine}" for record in records if record.engine})
    weights = sorted({f"`{record.weights}` (sha256 {str(record.inputs['weights'])[:12]}…)" for record in records if record.weights})
    one = next((record for record in records if record.test is not None), records[0])
    return [
        "## How",
        "",
        *(_how_of_scenes(groups, one) if is_of_scenes(groups[0]) else _how_of_clouds(groups, one)),
        "",
        f"2D weights: {', '.join(weights) or 'none'}." + f" {QUANTISED}" * any("_pq_" in each for each in weights),
        "",
        f"{len(records)} trials, {hours:.1f} hours of training. By {version}, of commits {commits}; {'; '.join(machines)}. Records: "
        f"[trials](trials). Again with: `fip reproduce {name} --data {DATA[kind_of(groups[0].base)]} --weights FOLDER_OF_2D_WEIGHTS`; one "
        f"trial: `--trial {one.trial}`.",
        "",
    ]


def _how_of_clouds(groups: tuple[Group, ...], one: Record) -> list[str]:
    data = f"train sha256 {str(one.inputs['train'])[:12]}…, test {str(one.inputs['test'])[:12]}…"
    data += ", z up, 12 bits an axis" * str(one.inputs["train"]).startswith(OURS)
    told = (
        "Learning rates were chosen on held-out *train* clouds, a tenth of them, of draws that are not reported, from a grid that goes on "
        "where the best rate lies at its end; the last epoch was then scored on the test clouds. The search for a rate costs three to "
        "twelve trainings more, as long as the grid says."
        if groups[0].lr is None
        else "Learning rates are those of the recipe, the same for all arms; what was tried for them is told above, if anything was. The "
        "last epoch was scored on the test clouds."
    )
    return [
        f"Recipe `{groups[0].base}` with what each arm changes (training/reproduce/arms.py), products in bfloat16. {told} Pairs share "
        "draw, held-out clouds and seed. Minutes are those of training steps alone, of one thread beside another, by several versions of "
        "the code, on the engine that computed most of an arm; those of two engines do not compare. Frozen image filters take less time "
        "than random 3D ones, because the engine sees that they repeat.",
        "",
        f"ModelNet40 with 1,024 points a cloud in the unit sphere ({data}); the paper had 2,048. With the publishers' files, whose y is "
        "up, say `--up y`, and `--out` for records of your own. The paper's figures are those of its submission to ICLR 2022.",
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
