"""Where a run's clouds come from: a data set of a known layout, or the user's folder, looked through before it is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadDataset
from training.datasets import Clouds, read_split
from training.datasets.defaults import derive_input
from training.datasets.folder import folder_splits
from training.datasets.listing import list_folder
from training.datasets.report import DataReport
from training.datasets.scan import Scan, scan_folder
from training.recipe import DataSpec

SCAN = "scan.npz"
FOLDER = "folder"


@dataclass(frozen=True)
class Source:
    """name: for people and cards. validation: where the data set comes with one. test: reads the test clouds when called; None
    where there are none. derive: keys of InputSpec, and why. notes: what whoever uses a model of these clouds must know.
    """

    name: str
    train: Clouds
    test: Callable[[], Clouds | None]
    derive: Callable[[], "Derived"]
    validation: Clouds | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derived:
    """Values for keys of InputSpec that the data decided, and a line that says why for each."""

    values: Mapping[str, object]
    reasons: tuple[str, ...]


def open_source(data: DataSpec, root: Path, seed: int, run_dir: Path, say: Callable[[object], None], *, skip_bad: bool = False) -> Source:
    """Open the data set at `root`. Of a folder every file is read once; what was found is said, and kept in `run_dir`.

    Raises: BadDataset (says what is wrong with which file; unreadable ones are left out with `skip_bad`).
    """
    if data.kind != FOLDER:
        train = read_split(data.kind, root, "train")
        return Source(data.kind, train, lambda: read_split(data.kind, root, "test"), lambda: _derived(train, seed))
    listing = list_folder(root)
    scan = Scan.load(run_dir / SCAN, listing)
    if scan is None:
        scan = scan_folder(listing)
        run_dir.mkdir(parents=True, exist_ok=True)
        scan.save(run_dir / SCAN)
    try:
        splits = folder_splits(listing, scan, test_share=data.test, seed=seed, skip_bad=skip_bad)
    except BadDataset:
        say(DataReport.of(listing, scan))
        raise
    say(DataReport.of(listing, scan, splits))
    return Source(
        root.resolve().name,
        splits.train,
        lambda: splits.test,
        lambda: _derived(splits.train, seed),
        splits.validation,
        splits.notes,
    )


def _derived(clouds: Clouds, seed: int) -> Derived:
    values, reasons = derive_input(clouds, seed)
    return Derived(values, tuple(reasons))
