"""The labelled LiDAR frames of FIP_DATA in layouts that training reads.

    python -m tests.stored_lidar FIP_DATA OUT

OUT/sequences is SemanticKITTI's own layout: 4 full scans, and 25 that were thinned to a range image. Those are numbered from 900000;
00/900000 to 00/900002 are thinned copies of the full scans; that of 08/000000 is left out, so that no scan is scored twice.
OUT/nuscenes and OUT/vlp32 are folders of labelled clouds: the training frames of two other sensors, labelled with fewer classes, so
that most labels leave open which of SemanticKITTI's it is. They have no intensity: its scale differs from sensor to sensor.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from models.labels import load_label_map
from tests.scene_folders import write_ply

FIRST_THINNED = 900_000
COPY = 21  # the frame of the range images that is 08/000000
WRITTEN_AS = np.array([0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81], "<u4")  # official learning_map_inv

GROUND, WALK = ("road", "parking"), ("sidewalk", "parking", "other-ground")
BUILT, GREEN = ("building", "fence", "pole", "traffic-sign"), ("vegetation", "trunk", "terrain")
WHEELS, LORRY, BUS = ("bicycle", "motorcycle", "bicyclist", "motorcyclist"), ("truck", "other-vehicle"), ("truck", "other-vehicle")
COARSE: dict[str, tuple[str, dict[int, tuple[str, ...]]]] = {  # folder -> file, and what its class indices mean; others are ignored
    "nuscenes": (
        "nuscenes_range_36.npz",
        {0: GROUND, 1: WALK, 2: BUILT, 4: GREEN, 5: ("person",), 6: WHEELS, 7: ("car",), 8: LORRY, 9: BUS},
    ),
    "vlp32": ("ika_vlp32_range_35.npz", {0: GROUND, 1: WALK, 4: GREEN, 5: ("person",), 6: WHEELS, 7: ("car",), 8: LORRY, 9: BUS}),
}


def write(data: Path, out: Path) -> Path:
    """Everything. Returns out."""
    write_kitti(data, out)
    for folder, (name, meaning) in COARSE.items():
        write_coarse(data / "lidar_seg" / name, out / folder, meaning)
    return out


def write_coarse(stored_file: Path, folder: Path, meaning: Mapping[int, tuple[str, ...]]) -> None:
    """folder/labels.yaml and folder/train/NUMBER.ply, x, y, z and label, of the training frames."""
    stored = np.load(stored_file)
    (folder / "train").mkdir(parents=True, exist_ok=True)
    palette = {each.name: list(each.colour) for each in load_label_map("semantickitti19").classes}
    known = [{"name": names[0], "colour": palette[names[0]], "ids": [index]} for index, names in meaning.items() if len(names) == 1]
    groups = [{"classes": list(names), "ids": [index]} for index, names in meaning.items() if len(names) > 1]
    ignore = [index for index in range(len(stored["class_names"])) if index not in meaning]
    (folder / "labels.yaml").write_text(yaml.safe_dump({"classes": known, "groups": groups, "ignore": ignore}), encoding="utf-8")
    for number in np.flatnonzero(stored["split"] == "train"):
        rows = slice(stored["offsets"][number], stored["offsets"][number + 1])
        xyz = stored["xyz"][rows].astype(np.float32) * stored["scale"]
        write_ply(folder / "train" / f"{number:06d}.ply", {**dict(zip("xyz", xyz.T, strict=True)), "label": stored["label"][rows]})


def write_kitti(data: Path, out: Path) -> Path:
    """out/sequences/{00,08}/{velodyne,labels}. Returns out."""
    shutil.copytree(data / "semantickitti" / "sequences", out / "sequences", dirs_exist_ok=True)
    stored = np.load(data / "lidar_seg" / "semantickitti_range_26.npz")
    for number, split in enumerate(stored["split"]):
        if number == COPY:
            continue
        rows = slice(stored["offsets"][number], stored["offsets"][number + 1])
        xyz = stored["xyz"][rows].astype(np.float32) * stored["scale"]
        intensity = stored["intensity"][rows].astype(np.float32) * stored["intensity_scale"]
        folder = out / "sequences" / ("00" if str(split) == "train" else "08")
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        name = f"{FIRST_THINNED + number:06d}"
        np.column_stack([xyz, intensity]).astype("<f4").tofile(folder / "velodyne" / f"{name}.bin")
        WRITTEN_AS[stored["label"][rows]].tofile(folder / "labels" / f"{name}.label")
    return out


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
