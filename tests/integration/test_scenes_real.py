"""Real labelled scenes in the layouts of their publishers: every point has its class, and training sees what the service sees."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from models.io import read_cloud
from models.labels import BUNDLED, IGNORE, load_label_map
from models.manifest import InputSpec
from models.voxelize import prepare, voxelize
from tests import stored_scenes
from training.data_cli import data
from training.datasets import FileScenes, read_scenes
from training.datasets.scene_defaults import derive_scene_input

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def kitti(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_scenes.semantickitti(data_dir, tmp_path_factory.mktemp("kitti") / "dataset")


@pytest.fixture(scope="module")
def rooms(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored_scenes.s3dis(data_dir, tmp_path_factory.mktemp("s3dis") / "dataset")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIP_CACHE", str(tmp_path_factory.getbasetemp() / "scene-cache"))


def opened(kind: str, root: Path, split: str = "train", **options: object) -> FileScenes:
    scenes = read_scenes(kind, root, split, **options)
    assert isinstance(scenes, FileScenes)
    return scenes


# SemanticKITTI


def test_scans_have_the_classes_of_the_official_map(kitti: Path, data_dir: Path) -> None:
    train, validation = opened("semantickitti", kitti), opened("semantickitti", kitti, "val")
    assert len(train) == 3 + 21
    assert train.titles[:4] == ("00/000000", "00/000001", "00/000002", "00/900000")
    assert validation.titles == ("08/000000", *(f"08/{900_021 + place}" for place in range(5)))
    official = json.loads((data_dir / "semantickitti/label_map.json").read_text())
    assert list(train.label_map.names) == official["train_class_names"][1:]
    classes = {int(raw): number - 1 for raw, number in official["learning_map"].items()}  # 0, unlabeled, is ignored: IGNORE is -1
    for scenes, index, points in ((train, 0, 124_668), (train, 1, 124_605), (train, 2, 124_478), (validation, 0, 123_389)):
        scene = scenes.scene(index)
        ids = np.fromfile(scenes.labels.path(int(scenes.rows[index])), "<u4") & 0xFFFF
        assert len(scene.labels) == points
        np.testing.assert_array_equal(scene.labels, np.vectorize(classes.__getitem__)(ids))


def test_the_map_of_the_reference_ignores_more(kitti: Path) -> None:
    official, reference = (opened("semantickitti", kitti, label_map=name) for name in ("semantickitti19", "semantickitti19-reference"))
    ids = np.fromfile(official.labels.path(0), "<u4") & 0xFFFF
    one, other = official.scene(0).labels, reference.scene(0).labels
    differ = np.isin(ids, [13, 16, 60, 256, 257])  # buses, what runs on rails, lane markings
    assert differ.any()
    np.testing.assert_array_equal(one[~differ], other[~differ])
    assert (other[differ] == IGNORE).all()
    assert (one[differ] != IGNORE).all()


def test_thinned_scans_keep_their_classes(kitti: Path, data_dir: Path) -> None:
    stored = np.load(data_dir / "lidar_seg/semantickitti_range_26.npz", allow_pickle=False)
    scenes = opened("semantickitti", kitti, "val", exclude=["08/000000"])
    for place, frame in enumerate(range(21, 26)):
        labels = stored["label"][stored["offsets"][frame] : stored["offsets"][frame + 1]].astype(int) - 1
        np.testing.assert_array_equal(scenes.scene(place).labels, labels)


# S3DIS


def test_rooms_have_their_points_colours_and_classes(rooms: Path, data_dir: Path) -> None:
    for title, (xyz, rgb, labels, names) in stored_scenes.s3dis_pieces(data_dir).items():
        scenes = opened("s3dis", rooms, "test" if title.startswith("Area_5") else "train")
        assert scenes.titles == (title,)
        scene = scenes.scene(0)
        order = np.argsort(np.array(names)[labels], kind="stable")  # files are read by name
        np.testing.assert_allclose(scene.cloud.xyz, xyz[order], atol=0.00051)
        assert scene.cloud.rgb is not None
        np.testing.assert_array_equal(scene.cloud.rgb, rgb[order])
        assert names == scenes.label_map.names
        np.testing.assert_array_equal(scene.labels, labels[order])
        reference = opened("s3dis", rooms, "test" if title.startswith("Area_5") else "train", label_map="s3dis14-reference")
        wanted = np.array([reference.label_map.names.index(name) for name in names])
        np.testing.assert_array_equal(reference.scene(0).labels, wanted[labels[order]])


def test_points_of_a_published_room_survive_their_text(data_dir: Path, tmp_path: Path) -> None:
    tiny = data_dir / "tiny_fixtures/s3dis"
    records = np.fromfile(tiny / "points/Area_1_office_2.bin", "<f4").reshape(-1, 6)
    labels = np.fromfile(tiny / "semantic_mask/Area_1_office_2.bin", "<i8")
    names = load_label_map("s3dis13").names
    folder = tmp_path / "Area_1/office_2/Annotations"
    folder.mkdir(parents=True)
    for place in np.unique(labels):
        np.savetxt(folder / f"{names[place]}_1.txt", records[labels == place], fmt="%.3f %.3f %.3f %d %d %d")
    scene = opened("s3dis", tmp_path).scene(0)
    order = np.argsort(np.array(names)[labels], kind="stable")
    np.testing.assert_allclose(scene.cloud.xyz, records[order, :3], atol=0.00051)
    np.testing.assert_array_equal(scene.labels, labels[order])


# The others


def test_a_scannet_scene_has_the_classes_of_its_ids(data_dir: Path, tmp_path: Path) -> None:
    scenes = opened("scannet", stored_scenes.scannet(data_dir, tmp_path))
    ids = np.fromfile(data_dir / "tiny_fixtures/scannet/semantic_mask/scene0000_00.bin", "<i8")
    wanted = {each.ids[0]: place for place, each in enumerate(load_label_map("scannet20").classes)}
    assert scenes.scene(0).labels.tolist() == [wanted.get(int(number), IGNORE) for number in ids]


def test_a_user_folder_of_real_scans_has_the_same_classes(data_dir: Path, kitti: Path, tmp_path: Path) -> None:
    root = tmp_path / "street"
    shutil.copytree(data_dir / "semantickitti/sequences/00", root, copy_function=shutil.copyfile)
    shutil.copyfile(BUNDLED / "semantickitti19.yaml", root / "labels.yaml")
    shown = CliRunner().invoke(data, ["inspect", str(root), "--json"], catch_exceptions=False)
    report = json.loads(shown.stdout)
    assert (report["files"], report["num_unusable"], report["labels"]) == (3, 0, {".label files": 3})
    assert 0.02 < report["spacing"] < 0.06  # metres, of a scanner with 64 beams
    own, official = opened("labelled", root), opened("semantickitti", kitti)
    assert len(own) == 2
    for place, title in enumerate(own.titles):
        wanted = official.scene(official.titles.index(f"00/{Path(title).stem}")).labels
        np.testing.assert_array_equal(own.scene(place).labels, wanted)


# What training sees is what the service sees

LAYOUTS: dict[str, tuple[Callable[[Path, Path], Path], tuple[str, ...]]] = {
    "semantickitti": (stored_scenes.semantickitti, ("train", "val")),
    "s3dis": (stored_scenes.s3dis, ("train", "test")),
    "nuscenes": (stored_scenes.nuscenes, ("train",)),
    "scannet": (stored_scenes.scannet, ("train",)),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_same_bytes_become_the_same_voxels(kind: str, data_dir: Path, tmp_path: Path) -> None:
    write, splits = LAYOUTS[kind]
    root = write(data_dir, tmp_path / "dataset")
    for split in splits:
        scenes = opened(kind, root, split)
        values, _ = derive_scene_input(scenes)
        spec = InputSpec.model_validate(values)
        for index in range(min(len(scenes), 4)):
            trained = prepare(scenes.scene(index).cloud, spec)
            served = prepare(read_cloud(scenes.clouds.path(int(scenes.rows[index]))), spec)
            one, other = voxelize(trained, spec), voxelize(served, spec)
            assert len(one) > 0
            for array in ("coords", "feats", "inverse"):
                assert getattr(one, array).tobytes() == getattr(other, array).tobytes()


def test_every_point_of_a_real_nuscenes_scan_has_a_class(data_dir: Path, tmp_path: Path) -> None:
    scene = opened("nuscenes", stored_scenes.nuscenes(data_dir, tmp_path)).scene(0)
    assert len(scene.labels) == 34_688
    names = np.array(load_label_map("nuscenes16").names)
    np.testing.assert_array_equal(names[scene.labels] == "driveable_surface", scene.cloud.xyz[:, 2] < -1.5)


def test_derived_sizes_gather_several_points_in_a_voxel(kitti: Path, rooms: Path) -> None:
    """The reference uses 0.05 m for both, of which most voxels of a scan hold one point."""
    full = opened("semantickitti", kitti).take(np.arange(3))
    assert derive_scene_input(full)[0]["voxel_size"] == pytest.approx(0.125, rel=0.25)
    assert derive_scene_input(opened("s3dis", rooms))[0]["voxel_size"] == pytest.approx(0.05, rel=0.25)
