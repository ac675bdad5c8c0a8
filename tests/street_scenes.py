"""Made-up streets to learn from in seconds: ground, boxes and poles, with colour and intensity that tell them apart too."""

from pathlib import Path

import numpy as np

from models.labels import IGNORE
from tests.scene_folders import write_ply

CLASSES = ("ground", "box", "pole")
LABELS_YAML = """\
classes:
  - {name: ground, colour: [255, 0, 255], ids: [40]}
  - {name: box, colour: [255, 200, 0], ids: [50]}
  - {name: pole, colour: [255, 240, 150], ids: [80]}
ignore: [0]
"""
IDS = np.array([40, 50, 80, 0])  # of the classes, and of what has none
COLOURS = np.array([[90, 90, 90], [180, 90, 60], [40, 60, 160], [0, 0, 0]])


def street(seed: int, count: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """xyz (N, 3) float32 metres around a sensor 1 m above the ground, rgb (N, 3) uint8, intensity (N,) float32, classes (N,).

    Half of the points are ground, four in ten of boxes, the rest of poles; one in twenty has no class.
    """
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.choice(3, count, p=[0.5, 0.4, 0.1]))
    xyz = np.empty((count, 3))
    ground, box, pole = (classes == each for each in range(3))
    xyz[ground] = np.c_[rng.uniform(-8, 8, (ground.sum(), 2)), np.full(ground.sum(), -1.0)]
    corners = rng.uniform(-7, 5, (4, 2))
    faces = rng.uniform(0, 1, (box.sum(), 3))
    faces[np.arange(len(faces)), rng.integers(0, 3, len(faces))] = rng.integers(0, 2, len(faces))  # on the surface
    xyz[box] = faces * [2.0, 2.0, 1.5] + np.c_[corners[rng.integers(0, 4, len(faces))], np.full(len(faces), -1.0)]
    places = rng.uniform(-7, 7, (5, 2))
    xyz[pole] = np.c_[places[rng.integers(0, 5, pole.sum())] + rng.normal(0, 0.05, (pole.sum(), 2)), rng.uniform(-1, 3, pole.sum())]
    xyz += rng.normal(0, 0.02, xyz.shape)
    rgb = (COLOURS[classes] + rng.normal(0, 15, (count, 3))).clip(0, 255).astype(np.uint8)
    intensity = (np.array([0.2, 0.5, 0.8])[classes] + rng.normal(0, 0.05, count)).clip(0, 1).astype(np.float32)
    classes[rng.random(count) < 0.05] = IGNORE
    order = rng.permutation(count)
    return xyz[order].astype(np.float32), rgb[order], intensity[order], classes[order]


def write_street(path: Path, seed: int, count: int = 3000, *, unlabelled: bool = False, colour: bool = True) -> Path:
    """A PLY file of a street with the columns label and, unless told otherwise, colour. unlabelled: no point has a class."""
    xyz, rgb, intensity, classes = street(seed, count)
    columns = dict(zip("xyz", xyz.T, strict=True))
    if colour:
        columns |= dict(zip(("red", "green", "blue"), rgb.T, strict=True))
    labels = np.zeros(count, np.uint8) if unlabelled else IDS[classes].astype(np.uint8)
    return write_ply(path, {**columns, "intensity": intensity, "label": labels})


def write_streets(root: Path, *names: str, first: int = 0, count: int = 3000) -> Path:
    """A folder of labelled clouds with its labels.yaml, a street of its own for every name."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.yaml").write_text(LABELS_YAML)
    for seed, name in enumerate(names, start=first):
        write_street(root / name, seed, count)
    return root


def write_kitti(root: Path, *titles: str, first: int = 0, count: int = 3000) -> Path:
    """Streets as scans in SemanticKITTI's layout, `00/000000`, instances above the labels."""
    for seed, title in enumerate(titles, start=first):
        sequence, frame = title.split("/")
        xyz, _, intensity, classes = street(seed, count)
        folder = root / "sequences" / sequence
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        np.c_[xyz, intensity].astype("<f4").tofile(folder / "velodyne" / f"{frame}.bin")
        (IDS[classes] | (np.arange(count) % 9) << 16).astype("<u4").tofile(folder / "labels" / f"{frame}.label")
    return root
