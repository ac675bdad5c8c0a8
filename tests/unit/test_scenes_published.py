"""nuScenes lidarseg and ScanNet in their publishers' layouts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.errors import BadDataset, BadLabels, MissingCoordinates
from models.io import read_cloud
from models.labels import IGNORE
from tests.scene_folders import ids, nuscenes, scannet, write_ply
from training.datasets import SCENE_READERS, FileScenes, read_scenes
from training.datasets.kinds import LABELLED, SCENE_KINDS
from training.datasets.nuscenes import MINI_VALIDATION, VALIDATION

MINI = {"scene-0061": 2, "scene-0103": 1, "scene-0553": 1, "scene-0916": 2}


def opened(kind: str, root: Path, split: str = "train", **options: object) -> FileScenes:
    scenes = read_scenes(kind, root, split, **options)
    assert isinstance(scenes, FileScenes)
    return scenes


def test_recipes_know_the_kinds_that_can_be_read() -> None:
    assert {*SCENE_READERS, LABELLED} == set(SCENE_KINDS)


# nuScenes


def test_a_lidarseg_scan_is_what_the_service_reads_with_the_class_of_every_point(tmp_path: Path) -> None:
    nuscenes(tmp_path, "v1.0-mini", MINI)
    scenes = opened("nuscenes", tmp_path)
    assert scenes.titles == (
        "scene-0061/n015-2018__LIDAR_TOP__000000",
        "scene-0061/n015-2018__LIDAR_TOP__000001",
        "scene-0553/n015-2018__LIDAR_TOP__000200",
    )
    scene = scenes.scene(1)
    served = read_cloud(tmp_path / "samples/LIDAR_TOP/n015-2018__LIDAR_TOP__000001.pcd.bin")
    assert scene.cloud.xyz.tobytes() == served.xyz.tobytes()
    assert scene.cloud.intensity is not None
    assert scene.cloud.intensity.tolist() == [1.0] * 40
    names = scenes.label_map.names
    wanted = {0: IGNORE, 17: names.index("car"), 24: names.index("driveable_surface")}
    assert scene.labels.tolist() == [wanted[int(number)] for number in ids(1, 40, np.array([0, 17, 24]))]


def test_the_official_scenes_make_the_splits(tmp_path: Path) -> None:
    nuscenes(tmp_path, "v1.0-mini", MINI)
    validation = opened("nuscenes", tmp_path, "val")
    assert {title.split("/")[0] for title in validation.titles} == {"scene-0103", "scene-0916"}
    assert opened("nuscenes", tmp_path / "v1.0-mini", "test").digest == validation.digest
    nuscenes(tmp_path / "whole", "v1.0-trainval", {"scene-0001": 1, "scene-0003": 1, "scene-0103": 1, "scene-1110": 1})
    assert [title[:10] for title in opened("nuscenes", tmp_path / "whole").titles] == ["scene-0001", "scene-1110"]
    assert [title[:10] for title in opened("nuscenes", tmp_path / "whole", "val").titles] == ["scene-0003", "scene-0103"]


def test_the_list_of_validation_scenes_is_the_official_one() -> None:
    assert len(VALIDATION) == len(set(VALIDATION)) == 150  # and 700 of the 850 are to train on
    assert list(VALIDATION) == sorted(VALIDATION)
    assert sum(VALIDATION) == 88_948
    assert set(MINI_VALIDATION) <= set(VALIDATION)


def test_a_list_of_ones_own_decides(tmp_path: Path) -> None:
    tables = nuscenes(tmp_path, "v1.0-mine", MINI)
    with pytest.raises(
        BadDataset, match=r"no list of scenes is known for v1.0-mine; put splits.json beside it: \{\"train\": \[\"scene-0001\""
    ):
        opened("nuscenes", tmp_path)
    own = tmp_path / "splits.json"
    own.write_text(json.dumps({"train": ["scene-0103"], "val": ["scene-0916", "scene-9999"]}))
    assert [title[:10] for title in opened("nuscenes", tables).titles] == ["scene-0103"]
    assert len(opened("nuscenes", tmp_path, "val")) == 2
    own.write_text(json.dumps({"train": "scene-0103", "val": []}))
    with pytest.raises(BadDataset, match="no such list under 'train'"):
        opened("nuscenes", tmp_path)
    with pytest.raises(BadDataset, match="no labelled scans of the val split"):
        opened("nuscenes", tmp_path, "val")
    own.write_text("{")
    with pytest.raises(BadDataset, match=r"splits\.json: cannot be read: Expecting"):
        opened("nuscenes", tmp_path)


def test_scans_excluded_by_title(tmp_path: Path) -> None:
    nuscenes(tmp_path, "v1.0-mini", MINI)
    exclude = ["scene-0061/n015-2018__LIDAR_TOP__000000", "scene-0103/n015-2018__LIDAR_TOP__000100"]
    assert len(opened("nuscenes", tmp_path, exclude=exclude)) == 2
    with pytest.raises(BadDataset, match="no scene to exclude of the title scene-0061/n"):
        opened("nuscenes", tmp_path, exclude=["scene-0061/n"])


def test_scans_and_labels_that_are_missing_or_of_wrong_length_are_named(tmp_path: Path) -> None:
    nuscenes(tmp_path, "v1.0-mini", MINI)
    (tmp_path / "lidarseg/v1.0-mini/d0-0_lidarseg.bin").unlink()
    (tmp_path / "lidarseg/v1.0-mini/d0-1_lidarseg.bin").write_bytes(bytes(39))
    (tmp_path / "samples/LIDAR_TOP/n015-2018__LIDAR_TOP__000200.pcd.bin").unlink()
    with pytest.raises(BadDataset) as caught:
        opened("nuscenes", tmp_path)
    assert caught.value.detail.splitlines() == [
        "3 of the 3 scans of the train split cannot be used:",
        "  lidarseg/v1.0-mini/d0-0_lidarseg.bin is missing",
        "  lidarseg/v1.0-mini/d0-1_lidarseg.bin holds 39 labels, for a scan of 40 points",
        "  samples/LIDAR_TOP/n015-2018__LIDAR_TOP__000200.pcd.bin is missing",
    ]
    assert len(opened("nuscenes", tmp_path, "val")) == 3


def test_versions_without_labels_and_several_versions_are_told(tmp_path: Path) -> None:
    tables = nuscenes(tmp_path, "v1.0-mini", MINI)
    shutil.copytree(tables, tmp_path / "v1.0-trainval")
    with pytest.raises(BadDataset, match=r"more than one version in it, v1\.0-mini, v1\.0-trainval: name the folder of one"):
        opened("nuscenes", tmp_path)
    assert len(opened("nuscenes", tables)) == 3
    for version in ("v1.0-mini", "v1.0-trainval"):
        (tmp_path / version / "lidarseg.json").unlink()
    with pytest.raises(BadDataset, match=r"needs v1.0-\*/lidarseg.json"):
        opened("nuscenes", tmp_path)


def test_damaged_tables_are_told(tmp_path: Path) -> None:
    tables = nuscenes(tmp_path, "v1.0-mini", MINI)
    table = tables / "sample_data.json"
    whole = table.read_text()
    for content, message in (
        (whole[:-100], "the table is cut off"),
        (whole.replace('"sample_token"', '"sample"', 8), "a record without 'sample_token'"),
        (whole.replace('"height": 0', '"height": ?'), "not a table of nuScenes: Expecting value"),
        (whole.replace('"d0-0"', '"d9-9"'), "1 label files are of no scan of LIDAR_TOP: lidarseg/v1.0-mini/d0-0_lidarseg.bin"),
    ):
        table.write_text(content)
        with pytest.raises(BadDataset, match=message):
            opened("nuscenes", tmp_path)
    table.write_text(whole)
    (tables / "sample.json").write_text("[]")
    with pytest.raises(BadDataset, match="is of no scene"):
        opened("nuscenes", tmp_path)
    (tables / "scene.json").unlink()
    with pytest.raises(BadDataset, match=r"scene\.json: cannot be read: No such file"):
        opened("nuscenes", tmp_path)


def test_a_table_is_read_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nuscenes(tmp_path, "v1.0-mini", MINI)
    whole = opened("nuscenes", tmp_path).titles
    monkeypatch.setattr("training.datasets.nuscenes._BLOCK_BYTES", 200)
    assert opened("nuscenes", tmp_path).titles == whole
    (tmp_path / "v1.0-mini/sample_data.json").write_text("x" * 1000)
    with pytest.raises(BadDataset, match="no records in it"):
        opened("nuscenes", tmp_path)


# ScanNet


def lists(folder: Path, train: str, validation: str) -> None:
    (folder / "scannetv2_train.txt").write_text(train.replace(" ", "\n") + "\n")
    (folder / "scannetv2_val.txt").write_text(validation.replace(" ", "\n") + "\n")


def test_a_scene_is_its_vertices_with_the_class_of_each(tmp_path: Path) -> None:
    scannet(tmp_path, "scene0000_00", "scene0001_00")
    lists(tmp_path, "scene0001_00 scene0002_00", "scene0000_00")
    scenes = opened("scannet", tmp_path)
    assert scenes.titles == ("scene0001_00",)
    assert scenes.notes == ("1 of the 2 scenes of the train split are not there",)
    scene = scenes.scene(0)
    served = read_cloud(tmp_path / "scene0001_00/scene0001_00_vh_clean_2.ply")
    assert scene.cloud.xyz.tobytes() == served.xyz.tobytes()
    assert served.rgb is not None
    assert scene.cloud.rgb is not None
    assert scene.cloud.rgb.tobytes() == served.rgb.tobytes()
    names = scenes.label_map.names
    wanted = {0: IGNORE, 13: IGNORE, 1: names.index("wall"), 39: names.index("otherfurniture")}
    assert scene.labels.tolist() == [wanted[int(number)] for number in ids(1, 40, np.array([0, 1, 13, 39]))]
    assert opened("scannet", tmp_path, "val").titles == opened("scannet", tmp_path, "test").titles == ("scene0000_00",)


def test_the_lists_may_lie_beside_the_scenes(tmp_path: Path) -> None:
    scannet(tmp_path / "data/scans", "scene0000_00", "scene0001_00")
    with pytest.raises(BadDataset, match=r"no scannetv2_train\.txt in it or beside it"):
        opened("scannet", tmp_path / "data")
    for folder in (tmp_path, tmp_path / "data", tmp_path / "data/scans"):
        lists(folder, "scene0000_00", "scene0001_00")
        for root in (tmp_path / "data", tmp_path / "data/scans"):
            if not (folder == tmp_path and root.name == "scans"):
                assert opened("scannet", root).titles == ("scene0000_00",)
        for path in folder.glob("*.txt"):
            path.unlink()


def test_numbers_that_are_no_ids_are_no_labels(tmp_path: Path) -> None:
    scannet(tmp_path, "scene0270_00")
    lists(tmp_path, "scene0270_00", "")
    scenes = opened("scannet", tmp_path)
    path = tmp_path / "scene0270_00/scene0270_00_vh_clean_2.labels.ply"
    columns = dict.fromkeys("xyz", np.zeros(40, np.float32))
    write_ply(path, {**columns, "label": np.array([50] * 20 + [1] * 20, np.uint16)})
    assert scenes.scene(0).labels.tolist() == [IGNORE] * 20 + [scenes.label_map.names.index("wall")] * 20
    write_ply(path, {**columns, "label": np.ones(40, np.float32)})
    with pytest.raises(BadLabels, match=r"^scene0270_00/scene0270_00_vh_clean_2\.labels\.ply: no column `label`"):
        scenes.scene(0)
    write_ply(path, {**dict.fromkeys("xyz", np.zeros(39, np.float32)), "label": np.ones(39, np.uint16)})
    with pytest.raises(BadLabels, match=r"39 labels for the 40 points of scene0270_00/scene0270_00_vh_clean_2\.ply"):
        scenes.scene(0)
    write_ply(path, {"label": np.ones(40, np.uint16)})
    with pytest.raises(MissingCoordinates, match=r"^scene0270_00/.*labels\.ply"):
        scenes.scene(0)


def test_what_is_no_scannet_or_lacks_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"needs scene0000_00/scene0000_00_vh_clean_2\.ply"):
        opened("scannet", tmp_path)
    scannet(tmp_path, "scene0000_00", "scene0001_00")
    lists(tmp_path, "scene0000_00 scene0001_00", "scene0700_00")
    with pytest.raises(BadDataset, match="none of the 1 scenes of the val split; there are scene0000_00, scene0001_00"):
        opened("scannet", tmp_path, "val")
    assert opened("scannet", tmp_path, exclude=["scene0000_00"]).titles == ("scene0001_00",)
    (tmp_path / "scene0001_00/scene0001_00_vh_clean_2.labels.ply").unlink()
    with pytest.raises(BadDataset, match=r"1 files of the 2 scenes(?s:.*)scene0001_00/scene0001_00_vh_clean_2\.labels\.ply is missing"):
        opened("scannet", tmp_path)
