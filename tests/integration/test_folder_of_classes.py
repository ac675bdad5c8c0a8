"""Real clouds in a folder of classes: all of ModelNet40 as files, and the PLY files that many programs wrote."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from models.cli import run
from training.datasets import LabelledClouds
from training.datasets.defaults import derive_input
from training.datasets.folder import FileClouds, FolderSplits, folder_splits
from training.datasets.listing import Listing, list_folder
from training.datasets.scan import Scan, scan_folder

pytestmark = [pytest.mark.data, pytest.mark.slow]
Modelnet = Callable[[str, Callable[[np.ndarray], np.ndarray]], LabelledClouds]


def write_ply(path: Path, xyz: np.ndarray) -> None:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    path.write_bytes((head + "end_header\n").encode() + xyz.astype("<f4").tobytes())


@pytest.fixture(scope="module")
def stored(modelnet: Modelnet) -> dict[str, LabelledClouds]:
    return {split: modelnet(split, lambda labels: np.argsort(labels, kind="stable")) for split in ("train", "test")}


@pytest.fixture(scope="module")
def on_disk(stored: dict[str, LabelledClouds], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """CLASS/{train,test}/NUMBER.ply of all 12,311 clouds, numbered within a split in the order of `stored`."""
    root = tmp_path_factory.mktemp("modelnet40")
    for split, clouds in stored.items():
        for number, (xyz, target) in enumerate(zip(clouds.xyz, clouds.targets, strict=True)):
            folder = root / clouds.names[target] / split
            folder.mkdir(parents=True, exist_ok=True)
            write_ply(folder / f"{number:05}.ply", xyz)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def looked_at(on_disk: Path) -> tuple[Listing, Scan, FolderSplits]:
    listing = list_folder(on_disk)
    scan = scan_folder(listing)
    return listing, scan, folder_splits(listing, scan, test_share=0.2, seed=0, skip_bad=False)


def test_all_of_modelnet40_comes_back_from_its_files(
    looked_at: tuple[Listing, Scan, FolderSplits], stored: dict[str, LabelledClouds]
) -> None:
    listing, scan, splits = looked_at
    assert listing.names == stored["train"].names
    assert scan.points.tolist() == [1024] * 12_311
    assert splits.test is not None
    for clouds, expected in ((splits.train, stored["train"]), (splits.test, stored["test"])):
        assert np.array_equal(clouds.targets, expected.targets)
        for row in range(0, len(clouds), 97):
            assert np.array_equal(clouds.cloud(row).xyz, expected.xyz[row])


def test_its_copies_are_those_that_comparing_the_arrays_finds(
    looked_at: tuple[Listing, Scan, FolderSplits], stored: dict[str, LabelledClouds]
) -> None:
    _, _, splits = looked_at
    owners: dict[bytes, list[tuple[str, int]]] = {}
    for split, clouds in stored.items():
        for xyz, target in zip(clouds.xyz, clouds.targets, strict=True):
            owners.setdefault(xyz.tobytes(), []).append((split, int(target)))
    extra = sum(len(group) - 1 for group in owners.values())
    leaks = sum(len({split for split, _ in group}) > 1 for group in owners.values())
    conflicts = sum(len({target for _, target in group}) > 1 for group in owners.values())
    text = "\n".join(splits.notes)
    for count, word in ((extra, "byte for byte"), (leaks, "LEAK"), (conflicts, "CONFLICT")):
        assert (word in text) == bool(count)


def test_its_input_options_are_those_of_its_recipes(looked_at: tuple[Listing, Scan, FolderSplits]) -> None:
    for seed in range(3):
        values, _ = derive_input(looked_at[2].train, seed)
        assert values == {"normalise": "unit_sphere", "point_budget": 1024, "voxel_size": 0.05}


def test_classes_of_a_held_out_split_keep_their_share(on_disk: Path, looked_at: tuple[Listing, Scan, FolderSplits]) -> None:
    listing, scan, _ = looked_at
    unsplit = Listing(
        listing.paths, listing.names, listing.targets, np.zeros_like(listing.splits), listing.sizes, listing.mtimes, listing.ignored
    )
    splits = folder_splits(unsplit, scan, test_share=0.2, seed=0, skip_bad=False)
    assert splits.test is not None
    counts, held = (np.bincount(clouds.targets, minlength=40) for clouds in (_all(splits), splits.test))
    assert np.abs(held / counts - 0.2).max() < 0.02
    assert not {bytes(row) for row in _digests(splits.train)} & {bytes(row) for row in _digests(splits.test)}


def _all(splits: FolderSplits) -> FileClouds:
    assert splits.test is not None
    rows = np.sort(np.concatenate([splits.train.rows, splits.test.rows]))
    targets = np.concatenate([splits.train.targets, splits.test.targets])
    return FileClouds(splits.train.paths, splits.train.names, rows, targets)


def _digests(clouds: FileClouds) -> np.ndarray:
    assert clouds.sha256 is not None
    return clouds.sha256


def test_a_messy_folder_is_reported_file_by_file(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The PLY zoo and the meshes as classes: unusable are exactly those that its expectations say, and clouds of one place."""
    for name, source in {"ply": "ply-zoo", "off": "meshes/off", "modelnet": "meshes/modelnet"}.items():
        shutil.copytree(data_dir / source, tmp_path / name)
    assert run(["data", "inspect", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with (data_dir / "ply-zoo/expected.csv").open(encoding="utf-8") as file:
        refused = {f"ply/{row['file']}" for row in csv.DictReader(file) if row["expected"] == "refuse"}
    assert report["num_unusable"] == len(report["unusable"])
    assert {each["path"] for each in report["unusable"]} == refused
    assert report["ignored"] == {".csv": 1, ".md": 1}
    assert ["modelnet/bathtub_0154.ply", "ply/Open3D__bathtub_0154.ply"] in report["duplicates"]
    assert any("are the units mixed" in line for line in report["advice"])
