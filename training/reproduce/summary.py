"""docs/results/README.md: what a practitioner may take from all records, on one page."""

from collections.abc import Mapping
from pathlib import Path

from training.reproduce.besides import besides
from training.reproduce.gaps import gaps_of, setting
from training.reproduce.plots import Point, plot_costs
from training.reproduce.search import Group, Known
from training.reproduce.stats import paired
from training.reproduce.tables import TABLES
from training.reproduce.texts import PAGES, UNTRAINED
from training.reproduce.trial import PAPER
from training.reproduce.view import SHORT, Result, cost, every_record, gap, in_minutes, results
from training.runstate import write_text

FEWEST = 3  # trials of an arm, for a statement
OTHERS = {
    "bundled-model.md": "the bundled classifier, as the service answers",
    "bundled-lidar19.md": "the bundled LiDAR model",
    "analyse/modes.md": "distances to the image net and tightness of classes, by what is trained",
    "analyse/fwd-modelnet40.md": "how far the bundled classifier is from its image net, layer by layer",
    "analyse/cdnv-modelnet40.md": "how tight its classes are",
    "analyse/tsne-modelnet40.md": "its features in the plane",
    "analyse/dissect-modelnet40.md": "what its units answer",
    "robustness.md": "what the bundled classifier still knows of damaged clouds",
    "lidar.md": "image weights for LiDAR segmentation from a few scans",
    "bench-first-model.md": "one's own first model, timed",
    "bench-segment.md": "segmentation as served",
    "bench-tiling.md": "large clouds",
    "bench-io.md": "reading files",
    "bench-listing.md": "large folders",
    "bench-page.md": "the page in a browser",
    "fuzz.md": "damaged files",
}
Found = list[tuple[Group, dict[str, Result]]]


def write_summary(known: Known, out: Path, tables: Mapping[str, tuple[Group, ...]] = TABLES) -> Path:
    """The page and its plot."""
    every = [group for of in tables.values() for group in of if group.base == PAPER]
    found = _settings(every, known)
    records = every_record(tuple(every), known)
    hours = sum(map(cost, records)) / 3600
    lines = [
        "# What image pretraining is worth",
        "",
        "ModelNet40 (1,024 points a cloud), networks inflated from 2D weights as in Image2Point, against the same networks from random "
        f"weights, and against random filters that are frozen. {len(records)} trials, {hours:.1f} hours of training so far; every figure "
        "comes from the records in [trials](trials), and each page says how it was made.",
        "",
        "What it rests on: one file of weights a network; those of ImageNet are product-quantised (ResNet18 65.8 % top-1, not 69.8 %). "
        "985 labelled clouds that nothing was trained on chose every learning rate: with few labels of your own, take the rates of the "
        "table. A gap holds for these rates and these test clouds; its interval is over draws of training clouds and seeds.",
        "",
        "| mode | what is trained |",
        "|---|---|",
        "| scratch | everything, from random weights |",
        "| FIP-ALL | everything, from image weights |",
        "| FIP-IO+BN | stem, head and all batch norms; image filters stay |",
        "| FIP-IOms | stem and head; the statistics of the norms follow the clouds |",
        "| FIP-IO | stem and head; filters and norms stay as images left them |",
        "",
        "## Which mode, when",
        "",
        *_advice(found),
        *_modes(found),
        "",
    ]
    if points := [point for group, of in found for point in _points(group, of)]:
        plot_costs(points, out / "summary.svg")
        lines += ["![Test accuracy against the cost of a training](summary.svg)", ""]
    lines += ["## Image filters against filters that nobody trained, both frozen", "", *_controls(found), ""]
    if more := besides(tables, known):
        lines += ["## Does it train faster, along which axis, from which stages?", "", *more, ""]
    lines += ["## Pages", ""]
    lines += [f"- [{name}]({name}.md): {page.title}" for name, page in PAGES.items() if (out / f"{name}.md").is_file()]
    lines += [f"- [{name.removesuffix('.md')}]({name}): {what}" for name, what in OTHERS.items() if (out / name).is_file()]
    lines += ["", "Again with: `fip reproduce --all --budget 2h --data MODELNET40_HDF5 --weights FOLDER_OF_2D_WEIGHTS`.", ""]
    path = out / "README.md"
    write_text(path, "\n".join(lines))
    return path


def _settings(groups: list[Group], known: Known) -> Found:
    """Each setting once, whichever tables it is in: of every arm the most trials."""
    found: dict[str, tuple[Group, dict[str, Result]]] = {}
    for group in groups:
        _, of = found.setdefault(setting(group), (group, {}))
        for arm, result in results(group, known).items():
            if arm not in of or len(result.records) > len(of[arm].records):
                of[arm] = result
    return list(found.values())


def _chosen(of: dict[str, Result]) -> list[Result]:
    """What a user can choose and is known well enough; the other arms are controls."""
    return [of[arm] for arm in SHORT if arm in of and len(of[arm].tests) >= FEWEST]


def _modes(found: Found) -> list[str]:
    """Every mode against scratch, pair by pair, and what it costs."""
    rows = []
    for group, of in found:
        for result in _chosen(of):
            value = paired(result.tests, of["scratch"].tests) if "scratch" in of and result.arm != "scratch" else None
            over = "–" if value is None else f"{f'**{value.interval}**' if value.decided else value.interval} ({value.count})"
            row = [setting(group), SHORT[result.arm], f"{result.choice.lr:g}", str(result.test), str(len(result.tests)), over]
            rows.append(f"| {' | '.join(row)} | {in_minutes(result.minutes)} |")
    if not rows:
        return ["No setting has three trials of a mode yet."]
    return [
        "Over scratch: the mean of the gaps of the seeds that both have (how many), and half of its 95 % interval; bold where that "
        "excludes zero. Minutes of training steps, one thread, by several versions of the code, on the kind of processor that computed "
        "most of a setting: a rough guide, to which the search for a rate adds five to twelve trainings.",
        "",
        "| labels and network | mode | learning rate | test % | seeds | over scratch | minutes |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "To train so: `fip train paper-modelnet40 --data DIR --shots N --set network=resnet18|cifar_resnet20 --set optim.lr=RATE --set "
        "epochs=E` and `--init image --mode all|iobn|ioms|io --weights FILE`, or `--init scratch`; on your own folder `fip train "
        "finetune-resnet18` or `finetune-cifar20` take the same options.",
    ]


def _advice(found: Found) -> list[str]:
    """A line a setting: what to do, why, what the paper says, and what freezing costs and saves."""
    lines = []
    for group, of in found:
        known = {result.arm: result for result in _chosen(of)}
        gain = next((each for each in gaps_of(group, known) if (each.first, each.second) == ("fip-all", "scratch")), None)
        if gain is None:
            continue
        start = "image or random weights alike" if not gain.value.decided else "image weights" if gain.value.mean > 0 else "random weights"
        lines.append(f"- {setting(group)}: train everything, from {start}; FIP-ALL over scratch {gain.told}{_frozen(known)}.{_scaled(of)}")
    return [*lines, ""] if lines else []


def _frozen(known: dict[str, Result]) -> str:
    """What FIP-IO+BN costs and saves."""
    loss = gap(known, "fip-iobn", "fip-all")
    if loss is None:
        return ""
    one, frozen, whole = next(iter(known["fip-iobn"].records.values())), known["fip-iobn"].minutes, known["fip-all"].minutes
    time = f"about {frozen / whole:.1f} of its time and " if frozen and whole else ""
    return (
        f". FIP-IO+BN over FIP-ALL {loss.interval} ({loss.count} pairs), for {time}"
        f"{100 * one.trained / one.parameters:.1f} % of its trained parameters"
    )


def _scaled(of: dict[str, Result]) -> str:
    """What FIP-IO gains where filters are divided by the number of copies."""
    gain = gap(of, "fip-io-mean", "fip-io")
    if gain is None or not gain.decided:
        return ""
    return f" Who freezes the norms too should scale the filters (`--set inflate.scale=mean`): FIP-IO {gain.interval} ({gain.count} pairs)."


def _points(group: Group, of: dict[str, Result]) -> list[Point]:
    return [
        Point(setting(group), SHORT[result.arm], result.minutes, result.test.mean, result.test.std)
        for result in _chosen(of)
        if result.test is not None and result.minutes is not None
    ]


def _controls(found: Found) -> list[str]:
    """Random 3D filters differ from image ones in structure too, random 2D ones that are inflated in nothing but the training."""
    lines = [
        f"- {setting(group)}: {each.what}: {each.told}."
        for group, of in found
        for each in gaps_of(group, of)
        if each.second in UNTRAINED and each.value.count >= FEWEST
    ]
    return lines or ["Image filters against random ones, both frozen: not measured yet."]
