"""A folder of the user's own clouds: read when asked for, split, and scored."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadDataset, InputError, TruncatedFile
from tests.cloud_folders import files, make, points, split, truncated, whole, write
from training.datasets import LabelledClouds, few_shot, hold_out
from training.datasets.duplicates import group_ids, repeated, spanning
from training.datasets.folder import FileClouds, folder_splits
from training.datasets.listing import list_folder
from training.sources import clouds_to_score

# Clouds on disk


def test_clouds_are_read_when_asked_for(tmp_path: Path) -> None:
    train = split(whole(tmp_path), test_share=0).train
    assert len(train) == 30
    assert train.names == ("c0", "c1", "c2")
    assert train.targets.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    np.testing.assert_allclose(train.cloud(13).xyz, points(13), rtol=1e-6)
    part = train.take(np.array([29, 3]))
    np.testing.assert_allclose(part.cloud(0).xyz, points(29), rtol=1e-6)
    assert part.targets.tolist() == [2, 0]


def test_an_error_while_reading_keeps_its_kind_and_names_the_file(tmp_path: Path) -> None:
    train = split(make(tmp_path, "a/1.ply", "b/1.ply"), test_share=0).train
    truncated(tmp_path / "a/1.ply")
    with pytest.raises(TruncatedFile) as caught:
        train.cloud(0)
    assert caught.value.where == "a/1.ply"
    (tmp_path / "b/1.ply").unlink()
    with pytest.raises(InputError, match=r"b/1\.ply: cannot be opened"):
        train.cloud(1)


def test_the_digest_is_of_paths_classes_and_bytes_in_order(tmp_path: Path) -> None:
    root = make(tmp_path / "one", "a/1.ply", "a/2.ply", "b/1.ply")
    first = split(root, test_share=0).train
    copied = shutil.copytree(root, tmp_path / "two")
    os.utime(copied / "a/1.ply", ns=(5, 5))
    assert split(copied, test_share=0).train.digest == first.digest
    assert first.take(np.array([0, 1, 2])).digest == first.digest
    unscanned = folder_splits(list_folder(root), None, test_share=0, seed=0, skip_bad=False).train
    assert unscanned.digest == first.digest
    assert unscanned.take(np.array([2, 0])).digest == first.take(np.array([2, 0])).digest
    changes = {first.digest, replace(first, names=("a", "other")).digest, first.take(np.array([1, 0, 2])).digest}
    write(copied / "a/1.ply", 77)
    changes.add(split(copied, test_share=0).train.digest)
    (root / "b").rename(root / "c")
    changes.add(split(root, test_share=0).train.digest)
    (root / "a/1.ply").rename(root / "a/0.ply")
    changes.add(split(root, test_share=0).train.digest)
    assert len(changes) == 6


def test_clouds_are_small_to_pass_on(tmp_path: Path) -> None:
    train = split(whole(tmp_path), test_share=0).train
    again = pickle.loads(pickle.dumps(train))
    assert again.digest == train.digest
    assert len(pickle.dumps(train)) < 1500 + 30 * (32 + 16 + 8 + 12)


# Splits


def test_folders_decide_where_they_exist(tmp_path: Path) -> None:
    names = [f"{kind}/{part}/{i}.ply" for kind in "ab" for part in ("train", "val", "test") for i in range(3)]
    splits = split(make(tmp_path, *names), test_share=0.5)
    assert files(splits.train) == [name for name in sorted(names) if "/train/" in name]
    assert files(splits.validation) == [name for name in sorted(names) if "/val/" in name]
    assert files(splits.test) == [name for name in sorted(names) if "/test/" in name]
    assert not splits.held_out
    assert splits.notes == ()


def test_train_folders_alone_leave_no_test(tmp_path: Path) -> None:
    splits = split(make(tmp_path, "a/train/1.ply", "a/train/2.ply", "b/train/1.ply"), test_share=0.5)
    assert splits.test is None
    assert len(splits.train) == 3
    assert splits.notes == ("no test clouds: scores are those of the validation clouds",)


def test_a_class_without_test_clouds_is_noted_and_one_without_train_clouds_refused(tmp_path: Path) -> None:
    splits = split(make(tmp_path / "one", "a/train/1.ply", "a/test/2.ply", "b/train/1.ply"))
    assert splits.notes == ("no test clouds of b",)
    with pytest.raises(BadDataset, match="no clouds in a train folder of b"):
        split(make(tmp_path / "two", "a/train/1.ply", "a/test/2.ply", "b/test/1.ply"))


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 3),
    copies=st.lists(st.integers(0, 11), max_size=6),
)
def test_a_drawn_test_split_is_whole_disjoint_stratified_and_seeded(sizes: list[int], share: float, seed: int, copies: list[int]) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    contents = np.arange(len(targets))
    for row in copies:  # some files are copies of others, also across classes
        contents[row % len(contents)] = contents[(row * 7) % len(contents)]
    sha256 = np.zeros((len(targets), 32), np.uint8)
    sha256[:, 3] = contents
    clouds = FileClouds(None, tuple(map(str, range(len(sizes)))), np.arange(len(targets)), targets, sha256)
    rest, held = hold_out(clouds, share, seed, smallest=3)
    assert sorted([*rest.rows, *held.rows]) == list(range(len(targets)))
    assert not set(contents[rest.rows]) & set(contents[held.rows])
    conflicts = [content for content in contents if len(set(targets[contents == content])) > 1]
    assert not set(contents[held.rows]) & set(conflicts)
    for target in range(len(sizes)):
        different = set(contents[targets == target]) - set(conflicts)
        drawn = set(contents[held.rows]) & different
        assert (len(drawn) >= 1) == (len(different) >= 3)
        assert set(contents[rest.rows]) & set(contents[targets == target])
        assert len(drawn) <= max(1, round(share * len(different)))
    again = hold_out(clouds, share, seed, smallest=3)
    assert np.array_equal(again[1].rows, held.rows)


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5), share=st.floats(0, 0.9), seed=st.integers(0, 9))
def test_knowing_of_no_copies_changes_nothing(sizes: list[int], share: float, seed: int) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    names = tuple(map(str, range(len(sizes))))
    rows = np.arange(len(targets))
    sha256 = np.random.default_rng(0).integers(0, 256, (len(targets), 32)).astype(np.uint8)
    in_memory = LabelledClouds(np.tile(rows[:, None, None], (1, 2, 3)).astype(np.float32), targets, names)
    expected = hold_out(in_memory, share, seed)
    for known in (None, sha256):
        found = hold_out(FileClouds(None, names, rows, targets, known), share, seed)
        for one, other in zip(expected, found, strict=True):
            assert one.xyz[:, 0, 0].tolist() == other.rows.tolist()


def test_the_test_split_follows_the_seed_and_not_the_disk(tmp_path: Path) -> None:
    root = whole(tmp_path / "one")
    first = split(root)
    assert first.held_out
    assert len(files(first.test)) == 6
    assert files(split(root).test) == files(first.test)
    assert files(split(shutil.copytree(root, tmp_path / "two")).test) == files(first.test)
    assert files(split(root, seed=1).test) != files(first.test)
    unscanned = folder_splits(list_folder(root), None, test_share=0.2, seed=0, skip_bad=False)
    assert files(unscanned.test) == files(first.test)


def test_few_shot_and_hold_out_work_on_files(tmp_path: Path) -> None:
    train = split(whole(tmp_path), test_share=0).train
    assert np.bincount(few_shot(train, 4, 0).targets).tolist() == [4, 4, 4]
    rest, held = hold_out(train, 0.2, 0)
    assert (len(rest), len(held)) == (24, 6)


# Files of equal bytes


def test_groups_are_named_by_their_first_file() -> None:
    sha256 = np.zeros((6, 32), np.uint8)
    sha256[:, 31] = [3, 1, 3, 0, 1, 3]
    groups = group_ids(sha256)
    assert groups.tolist() == [0, 1, 0, 3, 1, 0]
    assert repeated(groups).tolist() == [0, 1]
    assert spanning(groups, np.array([5, 5, 5, 5, 6, 5])).tolist() == [1]
    assert spanning(groups, np.array([5, 5, 6, 5, 5, 5])).tolist() == [0]


def test_a_copy_in_test_of_a_training_file_is_told_loudly(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"{kind}/{part}/{i}.ply" for kind in "ab" for part in ("train", "test") for i in range(2)))
    shutil.copy(root / "a/train/0.ply", root / "a/test/9.ply")
    notes = split(root).notes
    assert notes[0] == "copies of other files, byte for byte: 1"
    assert notes[1].startswith("LEAK: the same bytes lie in more than one split")
    assert notes[1].endswith("a/train/0.ply = a/test/9.ply")


def test_one_file_under_two_classes_is_a_conflict_and_stays_in_train(tmp_path: Path) -> None:
    root = whole(tmp_path, classes=2)
    shutil.copy(root / "c0/0.ply", root / "c1/other.ply")
    for seed in range(10):
        splits = split(root, seed=seed, test_share=0.5)
        assert splits.notes[-1].startswith("CONFLICT: the same bytes lie under more than one class: c0/0.ply = c1/other.ply")
        assert {"c0/0.ply", "c1/other.ply"} <= set(files(splits.train))


# The door that `fip evaluate` takes


def scored(root: Path, split: str, **more: bool) -> FileClouds:
    clouds = clouds_to_score(root, split, "folder", None, "", **more)[0]
    assert isinstance(clouds, FileClouds)
    return clouds


def test_what_a_model_is_scored_on(tmp_path: Path) -> None:
    root = make(tmp_path / "split", *(f"{kind}/{part}/{i}.ply" for kind in "ab" for part in ("train", "test") for i in range(2)))
    assert files(scored(root, "test")) == ["a/test/0.ply", "a/test/1.ply", "b/test/0.ply", "b/test/1.ply"]
    assert len(scored(root, "train")) == 4
    unsplit = whole(tmp_path / "whole")
    assert len(scored(unsplit, "train")) == len(scored(unsplit, "test")) == 30
    only = make(tmp_path / "only", "a/train/1.ply", "b/train/1.ply")
    with pytest.raises(BadDataset, match="no folder named test in it"):
        scored(only, "test")
    assert len(scored(make(tmp_path / "tests", "a/test/1.ply", "b/test/1.ply"), "test")) == 2
    (root / "a/train/0.ply").write_bytes(b"ply\n")
    assert len(scored(root, "test")) == 4  # what is asked for is whole
    with pytest.raises(BadDataset, match=r"a/train/0\.ply"):
        scored(root, "train")
    assert len(scored(root, "train", skip_bad=True)) == 3
