"""A user's own folder of labelled clouds: where labels are found, how it is split, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from models.errors import BadDataset, BadLabels
from models.io import read_cloud
from models.labels import IGNORE, read_label_map
from tests.scene_folders import expected, ids, labelled, labelled_bin, labelled_ply, points, write_ply
from training.datasets import FileScenes, read_scenes
from training.datasets.labelled_folder import draw_test, open_labelled, write_template
from training.datasets.scene_scan import wheel_colour


def titles(scenes: FileScenes | None) -> list[str]:
    assert scenes is not None
    return list(scenes.titles)


# Where labels are found


@pytest.mark.parametrize("column", ["label", "Classification", "scalar_Label", "scalar_Classification", "class", "semantic", "labels"])
@pytest.mark.parametrize("dtype", ["u1", "i4", "f4", "f8"])
def test_labels_come_from_a_column(tmp_path: Path, column: str, dtype: str) -> None:
    root = labelled(tmp_path)
    labelled_ply(root / "a.ply", 3, column, ids(3).astype(dtype))
    scene = open_labelled(root).train.scene(0)
    assert scene.labels.tolist() == expected(3).tolist()
    assert scene.cloud.xyz.tobytes() == points(3).tobytes()
    assert not scene.cloud.extra  # the net is not to see the answer


def test_labels_come_from_npz_and_from_label_files(tmp_path: Path) -> None:
    root = labelled(tmp_path, "0.npz", "1.bin")
    labelled_bin(root / "seq/velodyne/2.bin", 2, root / "seq/labels/2.label")
    np.save(root / "3.npy", points(3))
    ids(3).astype("<u4").tofile(root / "3.label")
    np.hstack([points(4), np.ones((40, 2), "<f4")]).tofile(root / "4.pcd.bin")
    ids(4).astype("<u4").tofile(root / "4.label")
    scenes = open_labelled(root, test_share=0).train
    assert titles(scenes) == ["0.npz", "1.bin", "3.npy", "4.pcd.bin", "seq/velodyne/2.bin"]
    for place, seed in enumerate((0, 1, 3, 4, 2)):
        assert scenes.scene(place).labels.tolist() == expected(seed).tolist()


def test_minus_one_is_no_label(tmp_path: Path) -> None:
    root = labelled(tmp_path)
    values = ids(0)
    values[10:20] = -1
    labelled_ply(root / "a.ply", 0, labels=values)
    assert (open_labelled(root).train.scene(0).labels[10:20] == IGNORE).all()


BAD_LABELS = {
    "fraction": ("label", ids(0) + 0.5, r"point 0: label must hold whole numbers .* found 0.5"),
    "nan": ("label", np.full(40, np.nan, np.float32), "point 0: label must hold whole numbers"),
    "negative": ("label", ids(0) - 2, r"point 0: .* found -2"),
    "huge": ("label", np.full(40, 1e12), "point 0: .* found 1000000000000.0"),
    "none": (
        "number",
        ids(0),
        "no labels: neither a .label file beside it nor a column label, classification, class, semantic; its columns",
    ),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_what_is_no_label_is_refused(tmp_path: Path, kind: str) -> None:
    column, values, message = BAD_LABELS[kind]
    root = labelled(tmp_path, "good.ply")
    labelled_ply(root / "bad.ply", 1, column, values)
    with pytest.raises(
        BadDataset, match=rf"1 of 2 files cannot be used \(--skip-bad leaves them out\):\n  bad.ply \[bad_labels\]: {message}"
    ):
        open_labelled(root)
    assert titles(open_labelled(root, skip_bad=True).train) == ["good.ply"]


def test_two_columns_that_differ_are_refused_and_equal_ones_are_not(tmp_path: Path) -> None:
    root = labelled(tmp_path)
    xyz = points(0)
    columns = {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], "label": ids(0).astype("i4"), "classification": ids(0).astype("u1")}
    write_ply(root / "a.ply", columns)
    assert open_labelled(root).train.scene(0).labels.tolist() == expected(0).tolist()
    write_ply(root / "a.ply", {**columns, "classification": ids(1).astype("u1")})
    with pytest.raises(BadDataset, match="the columns label and classification both look like labels, and differ"):
        open_labelled(root)


def test_a_label_file_and_a_column_must_not_differ(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply")
    ids(0).astype("<u4").tofile(root / "a.label")
    assert len(open_labelled(root).train) == 1
    ids(1).astype("<u4").tofile(root / "a.label")
    with pytest.raises(BadDataset, match=r"its column label and a\.label both look like its labels, and differ"):
        open_labelled(root)
    (root / "a.label").write_bytes(bytes(12))
    with pytest.raises(BadDataset, match=r"a.ply \[bad_labels\]: a.label holds 3 labels for 40 points"):
        open_labelled(root)
    (root / "a.label").write_bytes(bytes(13))
    with pytest.raises(BadDataset, match="13 bytes are no whole number of labels"):
        open_labelled(root)


def test_files_whose_labels_are_called_otherwise_are_mixed(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply", "b.ply")
    labelled_ply(root / "c.ply", 2, "classification")
    with pytest.raises(
        BadDataset, match=r"c.ply \[bad_labels\]: its labels are a column classification, those of most files are called label"
    ):
        open_labelled(root)


# What is refused


def test_unreadable_unlabelled_and_unknown_are_listed_at_once(tmp_path: Path) -> None:
    root = labelled(tmp_path, *(f"{name}.ply" for name in "abcdef"))
    (root / "a.ply").write_bytes(b"")
    labelled_ply(root / "b.ply", 1, "nothing")
    strange = ids(2)
    strange[5:8] = 99
    labelled_ply(root / "c.ply", 2, labels=strange)
    with pytest.raises(BadDataset) as caught:
        open_labelled(root)
    lines = caught.value.detail.splitlines()
    assert lines[0] == "3 of 6 files cannot be used (--skip-bad leaves them out):"
    assert lines[1] == "  a.ply [empty_file]: the file is empty"
    assert lines[2].startswith("  b.ply [bad_labels]: no labels")
    assert lines[3] == "  c.ply [bad_labels]: ids that labels.yaml gives neither to a class nor to ignore: 99 (3 points)"
    splits = open_labelled(root, skip_bad=True)
    assert len(splits.train) + len(splits.test or ()) == 3
    assert "3 files that cannot be used are left out" in splits.notes


def test_of_many_bad_files_ten_are_listed(tmp_path: Path) -> None:
    root = labelled(tmp_path, *(f"{i:02d}.ply" for i in range(12)))
    for path in root.glob("*.ply"):
        path.write_bytes(b"")
    with pytest.raises(BadDataset, match=r"09.ply \[empty_file\]: the file is empty\n  and 2 more$"):
        open_labelled(root)
    with pytest.raises(BadDataset, match="no file in it can be trained on"):
        open_labelled(root, skip_bad=True)


def test_without_labels_yaml_the_error_brings_one_to_paste(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply", "b.ply")
    (root / "labels.yaml").unlink()
    with pytest.raises(BadDataset) as caught:
        open_labelled(root)
    head, _, text = caught.value.detail.partition("\n\n")
    assert "no labels.yaml in it" in head
    counts = np.bincount(np.concatenate([ids(0), ids(1)]))
    assert f"{{name: class-7, colour: [255, 0, 223], ids: [7]}}  # {counts[7]} points, {counts[7] / 80:.1%}" in text
    (root / "labels.yaml").write_text(text)
    label_map = read_label_map(root / "labels.yaml")
    assert label_map.names == ("class-0", "class-2", "class-5", "class-7")
    assert len({tuple(colour) for colour in label_map.colours}) == 4
    assert len(open_labelled(root).train) == 1


def test_ids_that_are_no_classes_get_no_template(tmp_path: Path) -> None:
    root = tmp_path
    labelled_ply(root / "a.ply", 0, labels=np.arange(40))
    write_ply(root / "b.ply", {**dict.fromkeys("xyz", np.arange(300, dtype="f4")), "label": np.arange(300, dtype="i4")})
    with pytest.raises(BadDataset, match="300 ids in the files, which are no classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 290 more"):
        open_labelled(root)


def test_a_folder_without_any_labels_says_what_was_looked_for(tmp_path: Path) -> None:
    labelled_ply(tmp_path / "a.ply", 0, "nothing")
    with pytest.raises(BadDataset, match=r"no labels.yaml, and no file with a label(?s:.*)a.ply: no labels: neither a .label file"):
        open_labelled(tmp_path)


def test_a_damaged_labels_yaml_says_where(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply")
    (root / "labels.yaml").write_text("classes: [{name: a, colour: [0, 0, 256], ids: [1]}]")
    with pytest.raises(BadLabels, match=r"labels.yaml: classes.0.colour.2: Input should be less than or equal to 255"):
        open_labelled(root)


# How it is split


def test_folders_make_the_splits(tmp_path: Path) -> None:
    root = labelled(tmp_path, "train/a.ply", "train/deep/b.npz", "Validation/c.bin", "test/d.ply", "test/e.ply")
    splits = open_labelled(root)
    assert titles(splits.train) == ["train/a.ply", "train/deep/b.npz"]
    assert titles(splits.validation) == ["Validation/c.bin"]
    assert titles(splits.test) == ["test/d.ply", "test/e.ply"]
    assert not splits.held_out
    assert not splits.notes
    for split, count in (("train", 2), ("val", 1), ("test", 2)):
        assert len(read_scenes("labelled", root, split)) == count
    assert read_scenes("labelled", root, "test", exclude=["test/d.ply", "train/a.ply"]).titles == ("test/e.ply",)
    with pytest.raises(BadDataset, match=r"no scene to exclude of the title test/x\.ply"):
        read_scenes("labelled", root, "test", exclude=["test/x.ply"])


def test_without_folders_a_seeded_share_is_set_aside(tmp_path: Path) -> None:
    root = labelled(tmp_path, *(f"{i}.ply" for i in range(10)))
    splits = open_labelled(root, seed=1)
    assert splits.held_out
    assert len(titles(splits.test)) == 2
    assert sorted(titles(splits.train) + titles(splits.test)) == [f"{i}.ply" for i in range(10)]
    assert titles(open_labelled(root, seed=1).test) == titles(splits.test)
    assert len({tuple(titles(open_labelled(root, seed=seed).test)) for seed in range(8)}) > 3
    assert splits.notes == ("no test folder: 2 of 10 files are set aside to test on by the seed",)
    assert read_scenes("labelled", root, "test").titles == tuple(titles(open_labelled(root, seed=0).test))
    assert open_labelled(root, test_share=0).test is None
    with pytest.raises(BadDataset, match="no val split"):
        read_scenes("labelled", root, "val")


def test_a_single_file_has_no_test_split(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply")
    splits = open_labelled(root)
    assert splits.test is None
    assert not splits.held_out
    assert "a single file, and points cannot be set aside file by file" in splits.notes[0]
    with pytest.raises(BadDataset, match="no test split: a single file"):
        read_scenes("labelled", root, "test")


def test_the_only_file_of_a_class_and_copies_stay_on_one_side() -> None:
    only = np.array([[5, 0], [5, 0], [0, 5], [5, 0]])  # the third is the only one of its class
    copies = np.repeat(np.arange(4, dtype=np.uint8)[[0, 0, 2, 3], None], 64, axis=1)  # the first two are one file
    for seed in range(30):
        assert 2 not in draw_test(only, None, 0.5, seed)
        drawn = set(draw_test(only, copies, 0.25, seed).tolist())
        assert drawn in ({0, 1}, {3})
    assert not len(draw_test(np.eye(3, dtype=np.int64), None, 0.3, 0))


def test_classes_without_points_are_noted(tmp_path: Path) -> None:
    root = labelled(tmp_path, "train/a.ply", "test/b.ply")
    labelled_ply(root / "test/b.ply", 1, labels=np.full(40, 7))
    assert open_labelled(root).notes == ("no test points of ground",)
    labelled_ply(root / "train/a.ply", 0, labels=np.full(40, 2))
    assert open_labelled(root).notes == ("no train points of tree", "no test points of ground")


def test_clouds_outside_of_splits_are_refused(tmp_path: Path) -> None:
    root = labelled(tmp_path, "train/a.ply", "b.ply")
    with pytest.raises(BadDataset, match=r"b\.ply lies beside train/ and is in no split"):
        open_labelled(root)
    (root / "b.ply").rename(root / ".b.ply")
    assert len(open_labelled(root).train) == 1
    labelled_ply(root / "more/b.ply", 2)
    with pytest.raises(BadDataset, match=r"more/ holds clouds and lies beside train/"):
        open_labelled(root)


def test_folders_without_clouds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"no file of a readable format in it \(.*\.ply"):
        open_labelled(labelled(tmp_path))
    (tmp_path / "test").mkdir()
    labelled_ply(tmp_path / "train/a.ply", 0)
    with pytest.raises(BadDataset, match="no file of a readable format in test/"):
        open_labelled(tmp_path)
    with pytest.raises(BadDataset, match="it cannot be read: No such file"):
        open_labelled(tmp_path / "nowhere")


def test_stray_label_files_are_noted(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.bin")
    (root / "b.label").write_bytes(bytes(4))
    (root / ".hidden.label").write_bytes(bytes(4))
    assert open_labelled(root).notes[-1] == "label files without a cloud, passed over: b.label"


def test_the_digest_needs_no_second_look(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply", "b.bin")
    scenes = open_labelled(root, test_share=0).train
    before = scenes.digest
    (root / "b.label").write_bytes(np.full(40, 7, "<u4").tobytes())
    assert scenes.take(np.array([0, 1])).digest == before
    assert open_labelled(root, test_share=0).train.digest != before


def test_colours_of_a_template_are_told_apart() -> None:
    colours = np.array([wheel_colour(place) for place in range(12)], int)
    distances = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(12, dtype=int)
    assert distances.min() > 60


def test_a_labels_yaml_is_written_to_begin_with(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply", "b.ply")
    (root / "labels.yaml").write_text("")  # as a redirected command leaves it
    path = write_template(root)
    found = read_label_map(path)
    assert {number for each in found.classes for number in each.ids} == set(expected_ids(root))
    assert len(open_labelled(root).train) == 1
    with pytest.raises(BadDataset, match="is there already"):
        write_template(root)


def test_a_folder_in_which_all_is_ignored_is_refused(tmp_path: Path) -> None:
    root = labelled(tmp_path, "a.ply", "b.ply")
    numbers = sorted(expected_ids(root))
    (root / "labels.yaml").write_text(f"classes: [{{name: other, colour: [1, 2, 3], ids: [999]}}]\nignore: {numbers}\n")
    with pytest.raises(BadDataset, match="no point of the files to train on has a class"):
        open_labelled(root)


def expected_ids(root: Path) -> set[int]:
    return {int(number) for path in root.glob("*.ply") for number in read_cloud(path).extra["label"]}
