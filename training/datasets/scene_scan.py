"""One pass over the clouds of a user's folder: what each holds, which ids its points have, or why it cannot be used.

F files, K ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, BadLabels, InputError
from models.io import read_cloud
from models.labels import LabelMap
from models.pointcloud import PointCloud
from training.datasets.file_scenes import NO_ID, SHOWN, file_hashes, listed, naming, refuse
from training.datasets.point_labels import COLUMNS, LABEL_FILE, column_ids, label_file_ids
from training.datasets.scene_listing import LABELS_YAML, SceneListing
from training.progress import progress

REASON_CHARS = 300
MANY_IDS = 256  # more of them are no classes: an instance column, or a wrong type


@dataclass(frozen=True)
class SceneFile:
    """What a file holds. low, high: corners of the bounding box in file units; counts: points of every id; source: a key of COLUMNS.

    sha256 (64,) uint8 of the cloud's and the label file's bytes. code, reason: of the error it met, else empty.
    """

    points: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    counts: Mapping[int, int] | None = None
    has_rgb: bool = False
    has_intensity: bool = False
    source: str = ""
    sha256: npt.NDArray[np.uint8] | None = None
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class SceneScan:
    """The files of a listing, in its order. Those of unknown ids or of another source of labels than most are unusable too."""

    files: tuple[SceneFile, ...]

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """(F,)"""
        return np.array([not each.code for each in self.files], np.bool_)

    def counts(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> dict[int, int]:
        """Points of every id in the files of these rows, by id."""
        total: dict[int, int] = {}
        for row in rows:
            for number, count in (self.files[row].counts or {}).items():
                total[number] = total.get(number, 0) + count
        return dict(sorted(total.items()))


def scan_scenes(listing: SceneListing, label_map: LabelMap | None) -> SceneScan:
    """Read every file of a listing once. A file that cannot be used is noted, not raised. label_map: None takes every id."""
    files = []
    for row in progress(range(len(listing)), "looking at files", len(listing)):
        try:
            with naming(listing.clouds.relative(row)):
                files.append(_look_at(listing.clouds.path(row), listing.labels.path(row), listing.labels.relative(row)))
        except (InputError, BadLabels) as error:
            text = str(error).removeprefix(listing.clouds.relative(row)).removeprefix(":").removeprefix(",").strip()
            reason = "".join(char if char.isprintable() else " " for char in text)[:REASON_CHARS]
            files.append(SceneFile(code=error.code, reason=reason))
    if label_map is not None:
        known = {*label_map.known_ids, NO_ID}
        files = [_with_known_ids(file, known) for file in files]
    return SceneScan(tuple(_of_one_source(files)))


def refuse_unusable(listing: SceneListing, scan: SceneScan, remedy: str = "") -> None:
    """Raises: BadDataset, naming the first ten unusable files with code and reason, if there are any."""
    bad = np.flatnonzero(~scan.usable)
    lines = [f"{listing.clouds.relative(row)} [{scan.files[row].code}]: {scan.files[row].reason}" for row in map(int, bad)]
    refuse(listing.root, f"{len(bad):,} of {len(listing):,} files cannot be used{remedy}:", lines)


def missing_map(listing: SceneListing, scan: SceneScan) -> BadDataset:
    """What to say to a folder of labelled clouds without labels.yaml: the ids in it, and a file to begin with."""
    counts = scan.counts(range(len(listing)))
    if not counts:
        text = "no labels.yaml, and no file with a label for every point: not a folder of labelled clouds; the first files say"
        bad = [f"{listing.clouds.relative(row)}: {file.reason}" for row, file in enumerate(scan.files) if file.code]
        return BadDataset("\n  ".join([text, *bad[:SHOWN]]), where=str(listing.root))
    if len(counts) > MANY_IDS:
        text = f"no labels.yaml, and {len(counts):,} ids in the files, which are no classes: {listed([str(number) for number in counts])}"
        return BadDataset(text, where=str(listing.root))
    head = (
        f"no labels.yaml in it: what are the ids of its points called? Put this there, with names of your own, as {LABELS_YAML} "
        "(`fip data inspect DIR --write-labels` does):"
    )
    return BadDataset("\n".join([head, "", template(counts)]), where=str(listing.root))


def template(counts: Mapping[int, int]) -> str:
    """A labels.yaml for ids with these numbers of points: colours spread round the wheel, names to be replaced."""
    numbers = [number for number in counts if number != NO_ID]
    total = sum(counts.values())
    lines = ["classes:"]
    for place, number in enumerate(numbers):
        colour = ", ".join(map(str, wheel_colour(place)))
        share = f"# {counts[number]:,} points, {counts[number] / total:.1%}"
        lines.append(f"  - {{name: class-{number}, colour: [{colour}], ids: [{number}]}}  {share}")
    return "\n".join([*lines, "ignore: []  # move ids here whose points no loss and no score should count\n"])


def wheel_colour(place: int) -> tuple[int, int, int]:
    """RGB of the place-th of colours that go round the wheel by the golden angle, so that neighbours differ."""
    hue = 6 * ((place * 0.618034) % 1)
    ramp = [abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4)]
    red, green, blue = (round(255 * min(max(each, 0.0), 1.0)) for each in ramp)
    return red, green, blue


def _look_at(cloud_path: Path, label_path: Path, label_name: str) -> SceneFile:
    """Raises: InputError, BadLabels, OSError."""
    cloud = read_cloud(cloud_path).checked()
    beside = label_path != cloud_path
    source, ids = (LABEL_FILE, label_file_ids(cloud, label_path)) if beside else column_ids(cloud)
    if len(ids) != len(cloud):
        raise BadLabels(f"{label_name} holds {len(ids):,} labels for {len(cloud):,} points")
    if beside:
        _refuse_other_labels(cloud, ids, label_name)
    numbers, counts = np.unique(ids, return_counts=True)
    return SceneFile(
        points=len(cloud),
        low=tuple(float(column.min()) for column in cloud.xyz.T),
        high=tuple(float(column.max()) for column in cloud.xyz.T),
        counts=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        has_rgb=cloud.rgb is not None,
        has_intensity=cloud.intensity is not None,
        source=source,
        sha256=np.frombuffer(file_hashes(cloud_path, label_path), np.uint8),
    )


def _refuse_other_labels(cloud: PointCloud, ids: npt.NDArray[np.integer], label_name: str) -> None:
    """Raises: BadLabels, if a cloud with a `.label` file has a column of other labels too."""
    try:
        kind, others = column_ids(cloud)
    except BadLabels:
        return
    if not np.array_equal(ids, others):
        raise BadLabels(f"its column {kind} and {label_name} both look like its labels, and differ; leave one")


def _with_known_ids(file: SceneFile, known: set[int]) -> SceneFile:
    strange = [f"{number} ({count:,} points)" for number, count in (file.counts or {}).items() if number not in known]
    if not strange:
        return file
    return replace(file, code=BadLabels.code, reason=f"ids that {LABELS_YAML} gives neither to a class nor to ignore: {listed(strange)}")


def _of_one_source(files: list[SceneFile]) -> list[SceneFile]:
    """Files whose labels come from another kind of column than those of most are refused: their ids need not mean the same."""
    kinds = [file.source for file in files if not file.code]
    usual = max(COLUMNS, key=kinds.count)
    text = f"its labels are a column {{}}, those of most files are called {usual}: mixed labels"
    return [
        replace(file, code=BadLabels.code, reason=text.format(file.source)) if not file.code and file.source != usual else file
        for file in files
    ]
