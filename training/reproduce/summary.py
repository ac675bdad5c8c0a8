"""docs/results/README.md: what a practitioner may take from all records, on one page."""

from collections.abc import Mapping
from pathlib import Path

from training.reproduce.advice import Found, advice, controls, known_well, networks
from training.reproduce.besides import besides
from training.reproduce.gaps import setting
from training.reproduce.labels import labels_plot
from training.reproduce.neighbours import line_of, read_found
from training.reproduce.plots import Point, plot_costs
from training.reproduce.search import Group, Known
from training.reproduce.stats import paired
from training.reproduce.tables import TABLES, by_amount
from training.reproduce.texts import PAGES
from training.reproduce.trial import PAPER
from training.reproduce.view import SHORT, Result, cost, every_record, in_short, results
from training.runstate import write_text

OTHERS = {
    "bundled-model.md": "the bundled classifier, as the service answers",
    "bundled-lidar19.md": "the bundled LiDAR model",
    "analyse/modes.md": "distances to the image net and tightness of classes, by what is trained",
    "analyse/fwd-modelnet40.md": "how far the bundled classifier is from its image net, layer by layer",
    "analyse/cdnv-modelnet40.md": "how tight its classes are",
    "analyse/tsne-modelnet40.md": "its features in the plane",
    "analyse/dissect-modelnet40.md": "what its units answer",
    "neighbours.md": "what a nearest neighbour says of the same few clouds, without a net",
    "robustness.md": "what the bundled classifier still knows of damaged clouds",
    "bench-first-model.md": "one's own first model, timed",
    "bench-segment.md": "segmentation as served",
    "bench-tiling.md": "large clouds",
    "bench-io.md": "reading files",
    "bench-listing.md": "large folders",
    "bench-page.md": "the page in a browser",
    "fuzz.md": "damaged files",
}


def write_summary(known: Known, out: Path, tables: Mapping[str, tuple[Group, ...]] = TABLES) -> Path:
    """The page and its plot."""
    every = [group for of in tables.values() for group in of if group.base == PAPER]
    found = sorted(_settings(every, known), key=lambda pair: by_amount(pair[0].shots))
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
        "Every learning rate was chosen on 985 labelled train clouds a draw, which nobody with few labels has. A gap holds for these rates "
        "and these test clouds; its interval is over draws of training clouds and seeds. The paper had 2,048 points a cloud, took "
        "the epoch that is best on the test clouds, and repeats filters along another axis; its intervals follow from its three runs.",
        "",
        "| mode | what is trained |",
        "|---|---|",
        "| scratch | everything, from random weights |",
        "| FIP-ALL | everything, from image weights |",
        "| FIP-IO+BN | stem, head and all batch norms; image filters stay |",
        "| FIP-IOms | stem and head; the statistics of the norms follow the clouds |",
        "| FIP-IO | stem and head; filters and norms stay as images left them |",
        "",
        "## Which network",
        "",
        "Test % in the best of the modes:",
        "",
        *networks(found),
        *([line_of(control)] if (control := read_found(out)) is not None else []),
        "",
        *labels_plot(found, "labelled clouds a class", "test %", out / "labels.svg", "labels.svg"),
        "## Which mode, when",
        "",
        *advice(found),
        *_modes(found),
        "",
    ]
    if points := [point for group, of in found for point in _points(group, of)]:
        plot_costs(points, out / "summary.svg")
        lines += ["![Test accuracy against the cost of a training](summary.svg)", ""]
    lines += ["## Image filters against filters that nobody trained, both frozen", "", *controls(found), ""]
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


def _modes(found: Found) -> list[str]:
    """Every mode against scratch, pair by pair, and what it costs."""
    rows = []
    for group, of in found:
        for result in known_well(group, of):
            value = paired(result.tests, of["scratch"].tests) if "scratch" in of and result.arm != "scratch" else None
            over = "–" if value is None else f"{f'**{value.interval}**' if value.decided else value.interval} ({value.count})"
            row = [
                setting(group),
                SHORT[result.arm],
                f"{result.choice.lr:g}",
                str(result.test),
                str(len(result.tests)),
                over,
                result.minutes,
            ]
            rows.append(f"| {' | '.join(row)} |")
    if not rows:
        return ["No setting has three trials of a mode yet."]
    networks_of = dict.fromkeys(group.network for group, of in found if any(result.records for result in of.values()))
    return [
        "Over scratch: the mean of the gaps of the seeds that both have (how many), and half of its 95 % interval; bold where that "
        "excludes zero, uncorrected. Where one of the two has more seeds, it is not the difference of their means. Minutes of training "
        "steps, one thread, by several versions of the code, with the engine that computed most of them: `amx` is up to three times as "
        f"fast as `avx512`. The search for a rate adds three to twelve such trainings{_shorter(found)}.",
        "",
        "| labels and network | mode | learning rate | test % | seeds | over scratch | minutes |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"To train so: `fip train paper-modelnet40 --data DIR --shots N --set network={'|'.join(networks_of)} --set optim.lr=RATE --set "
        "epochs=E` and `--init image --mode all|iobn|ioms|io --weights FILE`, or `--init scratch`. `finetune-resnet18` and "
        "`finetune-cifar20`, for your own folder, take the same options, but have recipes of their own: these rates were not tried there.",
    ]


def _shorter(found: Found) -> str:
    """Whose rates were searched over fewer epochs, in words."""
    fewer = [
        f"{setting(group)} ({group.search_epochs})"
        for group, of in found
        if group.search_epochs not in (None, group.epochs) and any(result.records for result in of.values())
    ]
    return f"; of fewer epochs for {'; '.join(fewer)}" if fewer else ""


def _points(group: Group, of: dict[str, Result]) -> list[Point]:
    return [
        Point(setting(group), SHORT[result.arm], result.timed[0], result.test.mean, result.test.std, in_short(result.timed[1]))
        for result in known_well(group, of)
        if result.test is not None and result.timed is not None
    ]
