"""`fip data`: what the user's own clouds hold, and data sets brought into the form that training reads.

Only click is imported here; the work is imported when a command runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from models.errors import FipError
    from training.datasets.listing import Listing
    from training.datasets.report import DataReport
    from training.datasets.scene_report import SceneReport

FOLDER, LABELLED = "folder", "labelled"  # kinds of data sets, as recipes call them


@click.group()
def data() -> None:
    """Your own clouds: look them through before training on them; and data sets: prepare them."""


@data.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--kind",
    type=click.Choice([FOLDER, LABELLED]),
    help="Clouds of one class each, or with a label for every point. Default: the latter where there is a labels.yaml.",
)
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Look at about N files only, drawn by the seed.")
@click.option(
    "--test-share",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of every class set aside as test clouds, where no folder is named train or test.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the sample and of the test clouds.")
@click.option("--write-labels", is_flag=True, help="Write a labels.yaml for the ids in labelled clouds, to put names into; then report.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(path: Path, kind: str | None, sample: int | None, test_share: float, seed: int, write_labels: bool, as_json: bool) -> None:
    """Report what the folder PATH holds: classes, sizes, copies, unusable files, and the input options they lead to.

    PATH is ROOT/CLASS/FILES, ROOT/CLASS/{train,val,test}/FILES or ROOT/{train,val,test}/CLASS/FILES. Or it holds labelled clouds
    and a labels.yaml, ROOT/FILES or ROOT/{train,val,test}/FILES; labels are a column of a file, or FILE.label beside it. Exits
    with 5 if nothing in it can be trained on; single unusable files are listed.
    """
    import json

    from models.errors import BadDataset

    if write_labels:
        from training.datasets.labelled_folder import write_template

        click.echo(f"written: {write_template(path)}; give its classes names of your own", err=True)
    chosen = kind or (LABELLED if (path / "labels.yaml").exists() else FOLDER)
    look = look_through_scenes if chosen == LABELLED else look_through
    try:
        found = look(path, sample, test_share, seed)
    except BadDataset as error:
        if kind or chosen == LABELLED:
            raise
        raise BadDataset(f"{error.detail}\n(if its clouds have a label for every point: --kind {LABELLED})", where=error.where) from error
    if as_json:
        problem = {"code": found.problem.code, "detail": str(found.problem)} if found.problem else None
        derived = {"notes": found.notes, "input": found.derived, "reasons": found.reasons, "problem": problem}
        click.echo(json.dumps({**found.report.to_json(), **derived}))
    else:
        click.echo(found.report)
        for note in found.notes:
            click.echo(f"- {note}")
        if found.reasons:
            click.echo("\n  ".join(["input derived from the training clouds:", *found.reasons]))
    if found.problem:
        raise found.problem


@data.command()
@click.argument("kind", type=click.Choice(["modelnet40", "s3dis", "semantickitti"]))
@click.argument("source", metavar="SRC", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(file_okay=False, path_type=Path))
def prepare(kind: str, source: Path, target: Path) -> None:
    """Bring a data set from its publishers' layout at SRC into the form that training reads fastest, at DST.

    S3DIS becomes one file a room, read from its text once; a preparation that was stopped goes on. ModelNet40 and SemanticKITTI
    are read as they are: they are looked through, and DST gets links to them. Train with --data DST.
    """
    from training.datasets.prepare import prepare_data

    click.echo(prepare_data(kind, source, target))


@dataclass(frozen=True)
class Inspection:
    """A report, and what training would begin with: notes on the splits, derived input options and why; or the problem."""

    report: "DataReport | SceneReport"
    notes: tuple[str, ...] = ()
    derived: Mapping[str, object] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    problem: "FipError | None" = None


def look_through(path: Path, sample: int | None, test_share: float, seed: int) -> Inspection:
    """Look at all files of a folder, or at a sample. Unusable ones are left out. Raises: BadDataset (not a folder of classes)."""
    from models.errors import BadDataset
    from training.datasets.defaults import derive_input
    from training.datasets.folder import all_clouds, folder_splits
    from training.datasets.listing import list_folder
    from training.datasets.report import DataReport
    from training.datasets.scan import scan_folder

    whole = list_folder(path)
    listing = _sampled(whole, sample, seed) if sample is not None and sample < len(whole) else whole
    scan = scan_folder(listing)
    of = None if listing is whole else whole
    try:
        splits = folder_splits(whole, scan if of is None else None, test_share=test_share, seed=seed, skip_bad=True)
        derived, reasons = derive_input(splits.train if of is None else all_clouds(listing, scan), seed)
    except BadDataset as error:
        return Inspection(DataReport.of(listing, scan, whole=of), problem=error)
    report = DataReport.of(listing, scan, splits, of)
    notes = tuple(note for note in splits.notes if note not in report.advice)
    return Inspection(report, notes, derived, tuple(reasons))


def look_through_scenes(path: Path, sample: int | None, test_share: float, seed: int) -> Inspection:
    """The same for a folder of labelled clouds. Raises: BadDataset (not one, or no labels.yaml), BadLabels (labels.yaml is damaged)."""
    import numpy as np

    from models.errors import BadDataset
    from training.datasets.labelled_folder import all_scenes, folder_label_map, scene_splits
    from training.datasets.scene_defaults import draw_sample, input_of
    from training.datasets.scene_listing import list_scenes
    from training.datasets.scene_report import SceneReport
    from training.datasets.scene_scan import scan_scenes

    whole = list_scenes(path)
    label_map = folder_label_map(whole)
    partly = sample is not None and sample < len(whole)
    listing = whole.take(np.sort(np.random.default_rng(seed).permutation(len(whole))[:sample])) if partly else whole
    scan = scan_scenes(listing, label_map)
    try:
        splits = None if partly else scene_splits(listing, scan, label_map, test_share=test_share, seed=seed, skip_bad=True)
        drawn = draw_sample(splits.train if splits else all_scenes(listing, scan, label_map), seed)
        derived, reasons = input_of(drawn)
    except BadDataset as error:
        return Inspection(SceneReport.of(listing, scan, label_map, None, None, len(whole)), problem=error)
    report = SceneReport.of(listing, scan, label_map, splits, drawn.spacing, len(whole))
    return Inspection(report, splits.notes if splits else (), derived, tuple(reasons))


def _sampled(listing: "Listing", count: int, seed: int) -> "Listing":
    """`count` files drawn by the seed, and one more of every class and split that is not among them."""
    import numpy as np

    from training.datasets.listing import Split

    order = np.random.default_rng(seed).permutation(len(listing))
    _, first = np.unique(listing.targets[order].astype(np.int64) * len(Split) + listing.splits[order], return_index=True)
    return listing.take(np.union1d(order[:count], order[first]))
