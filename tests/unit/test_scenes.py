"""Scenes on disk, and SemanticKITTI in its publishers' layout."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadDataset, BadLabels, FileError, TruncatedFile
from models.io import read_cloud
from models.labels import IGNORE, load_label_map
from tests.scene_folders import points, scan
from training.datasets import FileScenes, read_scenes


def kitti(root: Path, *titles: str) -> Path:
    for seed, title in enumerate(titles):
        scan(root / "sequences", title, seed)
    return root


def opened(root: Path, split: str = "train", **options: object) -> FileScenes:
    scenes = read_scenes("semantickitti", root, split, **options)
    assert isinstance(scenes, FileScenes)
    return scenes


# SemanticKITTI


def test_a_scan_is_what_the_service_reads_with_the_class_of_every_point(tmp_path: Path) -> None:
    root = kitti(tmp_path, "00/000000")
    (scene,) = (opened(root).scene(0),)
    served = read_cloud(root / "sequences/00/velodyne/000000.bin")
    assert scene.cloud.xyz.tobytes() == served.xyz.tobytes()
    assert served.intensity is not None
    assert scene.cloud.intensity is not None
    assert scene.cloud.intensity.tobytes() == served.intensity.tobytes()
    names = load_label_map("semantickitti19").names
    ids = np.fromfile(root / "sequences/00/labels/000000.label", "<u4") & 0xFFFF
    wanted = {0: IGNORE, 10: names.index("car"), 252: names.index("car"), 40: names.index("road")}
    assert scene.labels.tolist() == [wanted[int(number)] for number in ids]
    assert set(scene.labels) == set(wanted.values())


def test_the_splits_are_the_official_sequences_that_exist(tmp_path: Path) -> None:
    root = kitti(tmp_path, "10/000001", "00/000001", "00/000000", "08/000003", "08/000002", "11/000000")
    assert opened(root).titles == ("00/000000", "00/000001", "10/000001")
    assert opened(root, "val").titles == opened(root, "test").titles == ("08/000002", "08/000003")
    assert opened(root / "sequences").titles == opened(root).titles
    assert opened(root / "sequences").digest == opened(root).digest


def test_the_maps_differ_where_the_reference_departs_from_the_benchmark(tmp_path: Path) -> None:
    scan(tmp_path, "00/000000", 0, np.full(40, 13))  # a bus
    assert set(opened(tmp_path).scene(0).labels) == {load_label_map("semantickitti19").names.index("other-vehicle")}
    assert set(opened(tmp_path, label_map="semantickitti19-reference").scene(0).labels) == {IGNORE}


def test_a_label_map_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("classes: [{name: thing, colour: [1, 1, 1], ids: [10, 40, 252]}]\nignore: [0]\n")
    scenes = opened(kitti(tmp_path, "00/000000"), label_map=str(own))
    assert set(scenes.scene(0).labels) == {0, IGNORE}
    assert scenes.label_map.names == ("thing",)
    with pytest.raises(BadLabels, match="did you mean 'semantickitti19'"):
        opened(tmp_path, label_map="semantickiti19")


def test_scans_without_labels_or_with_too_few_are_all_named(tmp_path: Path) -> None:
    root = kitti(tmp_path, "00/000000", "00/000001", "00/000002", "01/000000")
    (root / "sequences/00/labels/000001.label").unlink()
    (root / "sequences/00/labels/000002.label").write_bytes(bytes(4 * 39))
    (root / "sequences/01/labels/000000.label").write_bytes(bytes(4 * 40 + 2))
    with pytest.raises(BadDataset) as caught:
        opened(root)
    assert caught.value.detail.splitlines() == [
        "3 of the 4 scans of the train split cannot be used:",
        "  00/labels/000001.label is missing",
        "  00/labels/000002.label holds 156 bytes, 39 labels, for a scan of 40 points",
        "  01/labels/000000.label holds 162 bytes, 40.5 labels, for a scan of 40 points",
    ]


def test_of_many_missing_label_files_ten_are_listed(tmp_path: Path) -> None:
    root = kitti(tmp_path, *(f"00/{frame:06d}" for frame in range(13)))
    for path in (root / "sequences/00/labels").iterdir():
        path.unlink()
    (root / "sequences/00/labels").rmdir()
    with pytest.raises(BadDataset, match=r"13 of the 13 scans(?s:.*)00/labels/000009.label is missing\n  and 3 more$"):
        opened(root)


def test_a_label_file_without_a_scan_is_noted(tmp_path: Path) -> None:
    root = kitti(tmp_path, "00/000000", "00/000001")
    (root / "sequences/00/velodyne/000001.bin").unlink()
    scenes = opened(root)
    assert scenes.titles == ("00/000000",)
    assert scenes.notes == ("label files without a scan, passed over: 00/labels/000001.label",)


def test_what_is_no_semantickitti_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="needs sequences/NN/velodyne"):
        opened(tmp_path)
    with pytest.raises(BadDataset, match=r"no sequence of the val split \(08\); there are 00"):
        opened(kitti(tmp_path, "00/000000"), "val")
    with pytest.raises(BadDataset, match="not a folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "sequences/03/velodyne").mkdir(parents=True)
    (tmp_path / "sequences/00/velodyne/000000.bin").unlink()
    with pytest.raises(BadDataset, match="no scans in the sequences 00, 03"):
        opened(tmp_path)


def test_excluded_titles_are_left_out(tmp_path: Path) -> None:
    root = kitti(tmp_path, "00/000000", "00/000001", "08/000000")
    exclude = ["00/000000", "08/000000"]  # one list serves both splits
    assert opened(root, exclude=exclude).titles == ("00/000001",)
    with pytest.raises(BadDataset, match="all 1 scenes are excluded"):
        opened(root, "val", exclude=exclude)
    with pytest.raises(BadDataset, match="no scene to exclude of the title 00/00000; did you mean '00/00000"):
        opened(root, exclude=["00/00000"])


# Scenes on disk


def test_taking_scenes_keeps_their_order_and_titles(tmp_path: Path) -> None:
    scenes = opened(kitti(tmp_path, *(f"00/{frame:06d}" for frame in range(5))))
    taken = scenes.take(np.array([4, 1])).take(np.array([1, 0]))
    assert len(taken) == 2
    assert taken.titles == ("00/000001", "00/000004")
    assert taken.scene(1).cloud.xyz.tobytes() == points(4).tobytes()


def test_the_digest_is_of_paths_classes_and_bytes(tmp_path: Path) -> None:
    first, second = (kitti(tmp_path / name, "00/000000", "00/000001") for name in "ab")
    whole = opened(first).digest
    assert whole == opened(second).digest
    pair = opened(first)
    assert pair.take(np.array([1, 0])).digest != whole
    assert pair.take(np.array([1])).digest != pair.take(np.array([0])).digest
    assert opened(first, label_map="semantickitti19-reference").digest != whole
    for place in ("velodyne/000000.bin", "labels/000001.label"):
        path = second / "sequences/00" / place
        old = path.read_bytes()
        path.write_bytes(bytes([old[0] ^ 1]) + old[1:])
        assert opened(second).digest != whole
        path.write_bytes(old)
    assert opened(second).digest == whole
    for folder, ending in (("velodyne", "bin"), ("labels", "label")):
        (second / f"sequences/00/{folder}/000001.{ending}").rename(second / f"sequences/00/{folder}/000002.{ending}")
    assert opened(second).digest != whole


def test_a_known_digest_of_the_bytes_is_not_computed_again(tmp_path: Path) -> None:
    scenes = opened(kitti(tmp_path, "00/000000"))
    digest = scenes.digest
    assert len(digest) == hashlib.sha256().digest_size * 2
    (tmp_path / "sequences/00/velodyne/000000.bin").unlink()
    assert scenes.digest == digest
    with pytest.raises(FileError, match=r"^00/velodyne/000000\.bin: cannot be read: No such file"):
        _ = scenes.take(np.array([0])).digest


def test_the_digest_of_a_large_set_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kitti(tmp_path / "data", "00/000000", "00/000001")
    digest = opened(root).digest
    monkeypatch.setenv("FIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("training.datasets.file_scenes.KEPT_FROM_BYTES", 1)
    assert opened(root).digest == digest
    (kept,) = (tmp_path / "cache/scenes/digests").iterdir()
    kept.write_text("f" * 64)  # that it is this one that is read
    assert opened(root).digest == "f" * 64
    kept.write_text("damaged")
    assert opened(root).digest == digest
    path = root / "sequences/00/labels/000001.label"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert opened(root).digest == digest
    assert len(list(kept.parent.iterdir())) == 2
    path.unlink()
    (root / "sequences/00/velodyne/000001.bin").unlink()
    assert opened(root).digest not in (digest, "f" * 64)
    monkeypatch.setenv("FIP_CACHE", str(path.parent / "000000.label"))  # a file: nothing can be kept there
    assert opened(root).digest == opened(root).digest


def test_scenes_travel_to_other_processes_as_a_few_arrays(tmp_path: Path) -> None:
    scenes = opened(kitti(tmp_path, *(f"00/{frame:06d}" for frame in range(40))))
    sent = pickle.dumps(scenes)
    assert len(sent) < 10_000
    assert pickle.loads(sent).scene(3).labels.tolist() == scenes.scene(3).labels.tolist()


def test_a_file_that_changed_since_is_named_when_it_is_read(tmp_path: Path) -> None:
    scenes = opened(kitti(tmp_path, "00/000000", "00/000001", "00/000002", "00/000003"))
    base = tmp_path / "sequences/00"
    (base / "velodyne/000000.bin").write_bytes(b"123")
    with pytest.raises(TruncatedFile, match=r"^00/velodyne/000000\.bin: 3 bytes"):
        scenes.scene(0)
    (base / "labels/000001.label").write_bytes(bytes(4))
    with pytest.raises(BadLabels, match=r"^00/labels/000001\.label: 1 labels for the 40 points of 00/velodyne/000001.bin"):
        scenes.scene(1)
    (base / "labels/000002.label").write_bytes(np.full(40, 77, "<u4").tobytes())
    with pytest.raises(BadLabels, match=r"^00/labels/000002\.label, id 77: id 77 is neither"):
        scenes.scene(2)
    (base / "labels/000003.label").unlink()
    with pytest.raises(FileError, match=r"^00/labels/000003\.label: cannot be read: No such file"):
        scenes.scene(3)


def test_a_mistyped_kind_or_split_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="'semantickiti'; did you mean 'semantickitti'") as caught:
        read_scenes("semantickiti", tmp_path, "train")
    assert "labelled" in caught.value.known
    with pytest.raises(BadDataset, match="semantickitti has no split 'valid'; it has train, val, test"):
        read_scenes("semantickitti", tmp_path, "valid")
