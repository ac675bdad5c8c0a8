"""Folders of classes: layouts, order, what is refused and where."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadDataset
from training.datasets.listing import Listing, Split, list_folder
from training.datasets.paths import Paths, offsets_of, printable, sorted_names


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" if not name.endswith("/") else b"")
    return root


def table(listing: Listing) -> list[tuple[str, str, str]]:
    """(path, class, split) of every file."""
    return [(listing.relative(i), listing.names[listing.targets[i]], Split(listing.splits[i]).name.lower()) for i in range(len(listing))]


def test_classes_with_files_at_any_depth(tmp_path: Path) -> None:
    listing = list_folder(touch(tmp_path, "b/2.ply", "b/1.NPY", "b/deep/er/0.off", "a/z.bin", "a/z.pcd.bin", "a/s.npz"))
    assert table(listing) == [
        ("a/s.npz", "a", "none"),
        ("a/z.bin", "a", "none"),
        ("a/z.pcd.bin", "a", "none"),
        ("b/1.NPY", "b", "none"),
        ("b/2.ply", "b", "none"),
        ("b/deep/er/0.off", "b", "none"),
    ]
    assert not listing.has_splits
    assert listing.path(5) == tmp_path / "b/deep/er/0.off"
    assert listing.sizes.tolist() == [1] * 6
    assert listing.mtimes.tolist() == [(tmp_path / name).stat().st_mtime_ns for name, _, _ in table(listing)]


def test_splits_below_classes_and_classes_below_splits(tmp_path: Path) -> None:
    below = list_folder(touch(tmp_path / "one", "a/train/1.ply", "a/test/2.ply", "b/Train/x/3.ply", "b/valid/4.ply"))
    assert table(below) == [
        ("a/train/1.ply", "a", "train"),
        ("a/test/2.ply", "a", "test"),
        ("b/Train/x/3.ply", "b", "train"),
        ("b/valid/4.ply", "b", "validation"),
    ]
    above = list_folder(touch(tmp_path / "two", "train/a/1.ply", "testing/a/2.ply", "train/b/x/3.ply", "val/b/4.ply"))
    assert [row[1:] for row in table(above)] == [row[1:] for row in table(below)]


def test_other_files_are_counted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    names = ["README.md", ".hidden.ply", ".git/x.ply", "a/1.ply", "a/1.label", "a/2.LABEL", "a/.x.ply", "a/notes", "b/1.ply"]
    listing = list_folder(touch(tmp_path, *names))
    assert [row[0] for row in table(listing)] == ["a/1.ply", "b/1.ply"]
    assert listing.ignored == {".md": 1, ".label": 2, "(none)": 1}


def test_endings_that_are_shared_are_clouds_where_they_read_as_such(tmp_path: Path) -> None:
    """A readme, a list of splits and a camera's pose beside the scans are none."""
    touch(tmp_path, "a/scan.ply", "b/scan.ply")
    rows = "".join(f"{i} {i}.5 0.25\n" for i in range(6))
    others = {"readme.txt": "Scanned in May.\n" * 9, "split.csv": "file,part\na,train\n", "pose.txt": "1 0 0 0\n" * 4, "empty.txt": ""}
    for name, text in {"cloud.txt": rows, "cloud.csv": "x,y,z\n" + rows.replace(" ", ","), "cloud.asc": rows, **others}.items():
        (tmp_path / "a" / name).write_text(text)
    os.mkfifo(tmp_path / "b" / "pipe.txt")  # never opened: that would wait for a writer
    listing = list_folder(tmp_path)
    assert [path for path, *_ in table(listing)] == ["a/cloud.asc", "a/cloud.csv", "a/cloud.txt", "a/scan.ply", "b/pipe.txt", "b/scan.ply"]
    assert listing.ignored == {".txt": 3, ".csv": 1}


def test_endings_of_ignored_files_are_bounded(tmp_path: Path) -> None:
    listing = list_folder(touch(tmp_path, "a/1.ply", "b/1.ply", *(f"a/x.{i:04d}" for i in range(200))))
    assert len(listing.ignored) == 65
    assert sum(listing.ignored.values()) == 200


def hdf5(root: Path) -> Path:
    return touch(root, "ply_data_train0.h5", "shape_names.txt")


def loop(root: Path) -> Path:
    touch(root, "a/1.ply", "b/in/1.ply")
    (root / "b/in/again").symlink_to(root / "b")
    return root


def undecodable(root: Path) -> Path:
    touch(root, "a/1.ply")
    return touch(root, os.fsdecode(b"caf\xe9/1.ply"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root, "no folders in it"),
        (lambda root: touch(root, "notes.txt"), "no folders in it"),
        (lambda root: touch(root, "1.ply", "2.ply"), r"directly in it \(1.ply"),
        (lambda root: touch(root, "2.ply", "a/1.ply", "b/1.ply"), r"directly in it \(2.ply"),
        (lambda root: touch(root, "a/1.ply"), "a single class, a/"),
        (lambda root: touch(root, "a/1.ply", "b/1.stl"), r"b/ has no file of a readable format \(.*\.ply"),
        (lambda root: touch(root, "a/train/1.ply", "a/2.ply", "b/train/1.ply"), "a/ holds train/ and beside it 2.ply"),
        (lambda root: touch(root, "a/train/1.ply", "a/more/2.ply", "b/train/1.ply"), "a/ holds train/ and beside it more/"),
        (lambda root: touch(root, "a/train/1.ply", "b/1.ply"), "a/train/ is a split, while the class b/ has none"),
        (lambda root: touch(root, "a/1.ply", "test/1.ply", "b/1.ply"), "test/ lies beside folders of classes"),
        (lambda root: touch(root, "train/1.ply", "test/a/1.ply"), "train/ must hold a folder a class, found clouds"),
        (hdf5, "data.kind=modelnet40"),
        (loop, "b/in/again/ is a link to a folder that it lies in"),
        (undecodable, r"caf\\udce9/: the name of a class must be printable"),
        (lambda root: touch(root, "a\nb/1.ply", "c/1.ply"), r"a\\nb/: the name of a class must be printable"),
    ],
)
def test_what_is_no_folder_of_classes(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    with pytest.raises(BadDataset, match=says) as caught:
        list_folder(make(tmp_path))
    assert caught.value.where == str(tmp_path)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="cannot be read: No such file"):
        list_folder(tmp_path / "nowhere")


def test_all_problems_are_told_at_once_up_to_ten(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.ply", "b/1.ply", *(f"empty{i:02d}/x.txt" for i in range(14)))
    with pytest.raises(BadDataset) as caught:
        list_folder(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert "empty09/" in lines[9]
    assert "and 4 more" in lines[10]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.ply", "b/1.ply")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(BadDataset, match="b/ cannot be read: Permission denied"):
            list_folder(tmp_path)
    finally:
        (tmp_path / "b").chmod(stat.S_IRWXU)


def test_links_are_followed_and_what_leads_nowhere_is_kept_for_the_scan(tmp_path: Path) -> None:
    touch(tmp_path / "store", "x/1.ply")
    root = touch(tmp_path / "root", "b/1.ply")
    (root / "a").symlink_to(tmp_path / "store/x")
    (root / "b/gone.ply").symlink_to("nowhere")
    (root / "b/self.ply").symlink_to("self.ply")
    listing = list_folder(root)
    assert [row[0] for row in table(listing)] == ["a/1.ply", "b/1.ply", "b/gone.ply", "b/self.ply"]
    assert listing.sizes.tolist() == [1, 1, -1, -1]


def test_the_order_of_creation_does_not_matter_and_bytes_are_sorted(tmp_path: Path) -> None:
    names = [f"{kind}/{name}.ply" for kind in ("Z", "a", "é") for name in ("10", "9", "B", "b", "ä", "a-b", "a", "a b", "x" * 200)]
    listings = []
    for seed in range(3):
        root = tmp_path / str(seed)
        shuffled = names[:]
        random.Random(seed).shuffle(shuffled)
        listings.append(table(list_folder(touch(root, *shuffled))))
    assert listings[0] == listings[1] == listings[2]
    assert [row[0] for row in listings[0]] == [os.fsdecode(name) for name in sorted(map(os.fsencode, names))]


def test_files_of_a_folder_come_before_those_of_its_folders_in_turn(tmp_path: Path) -> None:
    expected = ["a/z.ply", *(f"a/{folder:02d}/{inner}/1.ply" for folder in range(12) for inner in "xy"), "b/1.ply"]
    for seed in range(3):
        shuffled = expected[:]
        random.Random(seed).shuffle(shuffled)
        assert [row[0] for row in table(list_folder(touch(tmp_path / str(seed), *shuffled)))] == expected


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name), unique=True))
def test_names_are_sorted_as_python_sorts_bytes(names: list[bytes]) -> None:
    order = sorted_names(b"".join(names), np.array([len(name) for name in names], np.int64))
    assert [names[row] for row in order] == sorted(names)


def test_the_digest_sees_a_change_of_name_size_and_time_and_nothing_else(tmp_path: Path) -> None:
    root = touch(tmp_path, "a/1.ply", "a/2.ply", "b/1.ply", "b/x.txt")
    first = list_folder(root).digest
    touch(root, "b/other.txt")
    assert list_folder(root).digest == first
    os.utime(root / "a/1.ply", ns=(1, 1))
    second = list_folder(root).digest
    (root / "a/2.ply").write_bytes(b"xx")
    third = list_folder(root).digest
    (root / "b/1.ply").rename(root / "b/3.ply")
    assert len({first, second, third, list_folder(root).digest}) == 4


def test_a_part_of_a_listing_keeps_only_its_paths(tmp_path: Path) -> None:
    listing = list_folder(touch(tmp_path, *(f"{kind}/{i}.ply" for kind in "ab" for i in range(5))))
    part = listing.take(np.array([7, 1]))
    assert table(part) == [("b/2.ply", "b", "none"), ("a/1.ply", "a", "none")]
    assert part.paths.blob == b"b/2.plya/1.ply"
    assert part.names == ("a", "b")


def test_names_are_printed_safely() -> None:
    assert printable("größe.ply".encode()) == "größe.ply"
    assert printable(b"\x1b[31m\xff\n") == r"\x1b[31m\udcff\n"
    paths = Paths(Path("/r"), b"a\xff", offsets_of(np.array([2])))
    assert os.fsencode(paths.path(0)) == b"/r/a\xff"
