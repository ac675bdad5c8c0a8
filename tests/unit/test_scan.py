"""One pass over the files of a folder: what it finds, what it refuses, and how it is kept."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadDataset
from tests.cloud_folders import ENDINGS, files, make, points, split, truncated, write
from training.datasets.listing import list_folder
from training.datasets.scan import REASONS_KEPT, Scan, scan_folder

# What the scan finds


def test_the_scan_finds_what_the_files_hold(tmp_path: Path) -> None:
    listing = list_folder(make(tmp_path, *(f"c/{i}{ending}" for i, ending in enumerate(ENDINGS)), "d/5.ply"))
    scan = scan_folder(listing)
    assert scan.usable.all()
    assert scan.points.tolist() == [20] * 6
    for row in range(6):
        xyz = points(row).astype(float)
        np.testing.assert_allclose(scan.facts["low"][row], xyz.min(0), rtol=1e-6)
        np.testing.assert_allclose(scan.facts["high"][row], xyz.max(0), rtol=1e-6)
        assert scan.facts["radius"][row] == pytest.approx(np.linalg.norm(xyz - xyz.mean(0), axis=1).max(), rel=1e-5)
    assert scan.facts["has_rgb"].tolist() == [False, False, False, True, False, False]
    assert scan.facts["has_intensity"].tolist() == [False, False, False, False, True, False]


def not_finite(path: Path) -> None:
    np.save(path, np.full((4, 3), np.nan, np.float32))


def one_place(path: Path) -> None:
    np.save(path, np.ones((4, 3), np.float32))


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def python_objects(path: Path) -> None:
    np.save(path, np.array([{}, {}], object), allow_pickle=True)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("x.ply", lambda path: path.write_bytes(b""), "empty_file"),
    "truncated": ("x.ply", truncated, "truncated_file"),
    "header": ("x.ply", lambda path: path.write_bytes(b"ply\nformat ascii 1.0\nelement vertex many\n"), "bad_header"),
    "no points": ("x.off", lambda path: path.write_bytes(b"OFF\n0 0 0\n"), "no_points"),
    "text": ("x.off", lambda path: path.write_bytes(b"OFF\n2 0 0\n1 2 x\n1 2 3\n"), "bad_body"),
    "nan": ("x.npy", not_finite, "non_finite"),
    "one place": ("x.npy", one_place, "degenerate_cloud"),
    "objects": ("x.npy", python_objects, "bad_body"),
    "flat": ("x.npy", lambda path: np.save(path, np.zeros((9, 2))), "missing_coordinates"),
    "odd size": ("x.bin", lambda path: path.write_bytes(b"123"), "truncated_file"),
    "pipe": ("x.ply", a_fifo, "bad_file"),
    "dead link": ("x.ply", lambda path: path.symlink_to("nowhere"), "bad_file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_used_is_named_with_code_and_reason(tmp_path: Path, kind: str) -> None:
    name, spoil, code = BAD[kind]
    root = make(tmp_path / "root", "a/1.ply", "a/2.ply", "b/1.ply", "b/2.ply")
    spoil(root / "a" / name)
    scan = scan_folder(list_folder(root))
    (row,) = np.flatnonzero(~scan.usable)
    assert scan.code(int(row)) == code
    reason = scan.reason(int(row))
    assert reason.isprintable()
    assert str(tmp_path) not in reason
    with pytest.raises(BadDataset, match=rf"1 of 5 files cannot be used \(--skip-bad leaves them out\):\n  a/{name} \[{code}\]: "):
        split(root)
    assert f"a/{name}" not in files(split(root, skip_bad=True).train)


def test_of_many_bad_files_ten_are_listed(tmp_path: Path) -> None:
    root = make(tmp_path, "a/1.ply", "b/1.ply")
    for i in range(25):
        (root / f"a/bad{i:02d}.ply").write_bytes(b"ply\n")
    with pytest.raises(BadDataset) as caught:
        split(root)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert "25 of 27" in lines[0]
    assert lines[-1].strip() == "and 15 more"
    splits = split(root, skip_bad=True, test_share=0)
    assert files(splits.train) == ["a/1.ply", "b/1.ply"]
    assert "25 files that cannot be used are left out" in splits.notes


def test_reasons_of_very_many_bad_files_are_bounded(tmp_path: Path) -> None:
    root = make(tmp_path, "a/1.ply", "b/1.ply")
    for i in range(REASONS_KEPT + 5):
        (root / f"a/bad{i:04d}.ply").touch()
    scan = scan_folder(list_folder(root))
    assert len(scan.reasons) == REASONS_KEPT
    assert scan.reason(int(np.flatnonzero(~scan.usable)[-1])) == "empty_file"


def test_a_class_that_loses_all_its_clouds_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, "a/1.ply", "b/1.ply")
    (root / "a/1.ply").write_bytes(b"ply\n")
    with pytest.raises(BadDataset, match="no clouds that can be used of a: nothing to train the class on"):
        split(root, skip_bad=True)


# A scan is kept


def test_a_scan_comes_back_as_it_was_until_a_file_changes(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "a/1.ply", "a/2.ply", "b/1.ply")
    (root / "a/2.ply").write_bytes(b"ply\n")
    listing = list_folder(root)
    scan, kept = scan_folder(listing), tmp_path / "scan.npz"
    assert Scan.load(kept, listing) is None
    scan.save(kept)
    again = Scan.load(kept, listing)
    assert again is not None
    assert again.facts.tobytes() == scan.facts.tobytes()
    assert (again.codes, again.reasons) == (scan.codes, scan.reasons)
    assert [path.name for path in tmp_path.iterdir() if "scan" in path.name] == ["scan.npz"]
    write(root / "a/2.ply", 9)
    assert Scan.load(kept, list_folder(root)) is None


@pytest.mark.parametrize("damage", ["cut", "other", "objects", "text"])
def test_a_damaged_scan_counts_as_none(tmp_path: Path, damage: str) -> None:
    listing = list_folder(make(tmp_path / "root", "a/1.ply", "b/1.ply"))
    kept = tmp_path / "scan.npz"
    scan_folder(listing).save(kept)
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:700])
    elif damage == "other":
        np.savez(kept, something=np.zeros(3))
    elif damage == "objects":
        np.savez(kept, words=np.array([{}], object), facts=np.array([{}], object))
    else:
        kept.write_text("not a scan")
    assert Scan.load(kept, listing) is None


def test_a_flipped_byte_of_a_scan_is_noticed(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "a/1.ply", "b/1.ply")
    (root / "b/2.ply").touch()
    listing, kept = list_folder(root), tmp_path / "scan.npz"
    scan = scan_folder(listing)
    scan.save(kept)
    data = kept.read_bytes()
    noticed = 0
    for place in range(0, len(data), 3):
        kept.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        found = Scan.load(kept, listing)
        noticed += found is None
        if found is not None:  # a byte that nothing is read from: a time, padding
            assert (found.facts.tobytes(), found.codes, found.reasons) == (scan.facts.tobytes(), scan.codes, scan.reasons)
    assert noticed > len(data) / 6
