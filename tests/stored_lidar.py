"""The labelled LiDAR frames of FIP_DATA in SemanticKITTI's own layout: 4 full scans, and 26 that were thinned to a range image.

Frames of a range image are numbered from 900000; 00/900000 to 00/900002 and 08/900021 are full scans, too.
"""

import shutil
from pathlib import Path

import numpy as np

FIRST_THINNED = 900_000
COPY = "08/900021"  # of 08/000000: counted once
WRITTEN_AS = np.array([0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81], "<u4")  # official learning_map_inv


def write(data: Path, out: Path) -> Path:
    """out/sequences/{00,08}/{velodyne,labels}. Returns out."""
    shutil.copytree(data / "semantickitti" / "sequences", out / "sequences", dirs_exist_ok=True)
    stored = np.load(data / "lidar_seg" / "semantickitti_range_26.npz")
    for number, split in enumerate(stored["split"]):
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
