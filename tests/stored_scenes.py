"""The labelled scenes under FIP_DATA, written in the layouts in which their publishers distribute them."""

import json
import shutil
from pathlib import Path

import numpy as np

from tests.scene_folders import write_ply

RAW_IDS = np.array([0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81], np.uint32)  # of the 20 train ids


def semantickitti(data_dir: Path, out: Path) -> Path:
    """The 4 full scans, and the 26 thinned ones as frames 900000 and up."""
    shutil.copytree(data_dir / "semantickitti/sequences", out / "sequences", copy_function=shutil.copyfile)
    stored = np.load(data_dir / "lidar_seg/semantickitti_range_26.npz", allow_pickle=False)
    for frame, split in enumerate(stored["split"]):
        rows = slice(stored["offsets"][frame], stored["offsets"][frame + 1])
        xyz = stored["xyz"][rows].astype(np.float32) * stored["scale"]
        intensity = stored["intensity"][rows].astype(np.float32)[:, None] * stored["intensity_scale"]
        folder = out / "sequences" / ("00" if split == "train" else "08")
        np.hstack([xyz, intensity]).astype("<f4").tofile(folder / f"velodyne/{900_000 + frame}.bin")
        RAW_IDS[stored["label"][rows]].astype("<u4").tofile(folder / f"labels/{900_000 + frame}.label")
    return out


def s3dis_pieces(data_dir: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]]:
    """Of every piece (title): xyz (N, 3) float32, rgb (N, 3) uint8 (128 where it has none), labels (N,) and the names of the classes."""
    pieces = {}
    for title, file in (("Area_1/room_1", "room_labelled_xyz.npz"), ("Area_5/crop_1", "crop_labelled_xyzrgb.npz")):
        stored = np.load(data_dir / "s3dis" / file, allow_pickle=False)
        xyz = stored["xyz"].astype(np.float32) * (stored["scale"] if "scale" in stored.files else np.float32(1))
        rgb = stored["rgb"] if "rgb" in stored.files else np.full((len(xyz), 3), 128, np.uint8)
        pieces[title] = (xyz, rgb, stored["label"], tuple(str(name) for name in stored["class_names"]))
    return pieces


def s3dis(data_dir: Path, out: Path) -> Path:
    """Both pieces as text, millimetres, one annotation file a class."""
    for title, (xyz, rgb, labels, names) in s3dis_pieces(data_dir).items():
        folder = out / title / "Annotations"
        folder.mkdir(parents=True)
        for place, name in enumerate(names):
            rows = np.flatnonzero(labels == place)
            if len(rows):
                np.savetxt(folder / f"{name}_1.txt", np.hstack([xyz[rows], rgb[rows]]), fmt="%.3f %.3f %.3f %d %d %d")
    return out


def nuscenes(data_dir: Path, out: Path) -> Path:
    """The one scan, of scene-0061 as the layout wants some scene. Its labels are made up: road below 1.5 m under the sensor, else cars."""
    scan = "samples/LIDAR_TOP/nuscenes_n015.pcd.bin"
    (out / scan).parent.mkdir(parents=True)
    shutil.copyfile(data_dir / "lidar_camera/nuscenes_n015.pcd.bin", out / scan)
    height = np.fromfile(out / scan, "<f4").reshape(-1, 5)[:, 2]
    label = "lidarseg/v1.0-mini/d_lidarseg.bin"
    (out / label).parent.mkdir(parents=True)
    np.where(height < -1.5, 24, 17).astype(np.uint8).tofile(out / label)
    tables = {
        "scene": [{"token": "s", "name": "scene-0061"}],
        "sample": [{"token": "a", "scene_token": "s"}],
        "sample_data": [{"token": "d", "sample_token": "a", "filename": scan}],
        "lidarseg": [{"token": "d", "sample_data_token": "d", "filename": label}],
    }
    (out / "v1.0-mini").mkdir()
    for name, records in tables.items():
        (out / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))
    return out


def scannet(data_dir: Path, out: Path) -> Path:
    """100 points of one scene with their NYU40 ids."""
    tiny = data_dir / "tiny_fixtures/scannet"
    records = np.fromfile(tiny / "points/scene0000_00.bin", "<f4").reshape(-1, 6)
    ids = np.fromfile(tiny / "semantic_mask/scene0000_00.bin", "<i8")
    colours = {name: records[:, 3 + place].astype(np.uint8) for place, name in enumerate(("red", "green", "blue"))}
    columns = {**dict(zip("xyz", records[:, :3].T, strict=True)), **colours}
    write_ply(out / "scene0000_00/scene0000_00_vh_clean_2.ply", columns)
    write_ply(out / "scene0000_00/scene0000_00_vh_clean_2.labels.ply", {**columns, "label": ids.astype(np.uint16)})
    (out / "scannetv2_train.txt").write_text("scene0000_00\n")
    return out
