"""ScanNet in its publishers' layout: SCENE/SCENE_vh_clean_2.ply, and SCENE/SCENE_vh_clean_2.labels.ply with a class for every vertex.

Source: Dai et al., ScanNet, CVPR 2017; ids of NYU40; the lists of scenes are scannetv2_train.txt and scannetv2_val.txt.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, BadLabels
from models.io import read_cloud
from models.labels import LabelMap
from models.pointcloud import PointCloud
from training.datasets.file_scenes import NO_ID, FileScenes, as_paths, listed, refuse

LABEL_MAP = "scannet20"
SPLITS = {"train": "train", "val": "val", "test": "val"}  # the scenes of the benchmark's test come without labels
CLOUD, LABELS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply"
LARGEST_ID = 40


def read_scannet(root: Path, split: str, label_map: LabelMap, exclude: tuple[str, ...] = ()) -> FileScenes:
    """Those scenes of a split that are there; titles are `scene0000_00`. root: the folder of the scenes, or the one above `scans`.

    The list of the split, scannetv2_*.txt, lies in root or beside it. exclude: titles to leave out, of any split. Raises:
    BadDataset (no scenes, no list, a cloud or its labels missing).
    """
    base = root / "scans" if (root / "scans").is_dir() else root
    there = {path.name for path in base.glob("scene*") if path.is_dir()}
    if not there:
        raise BadDataset(f"needs scene0000_00/scene0000_00{CLOUD} and …{LABELS} (ScanNet)", where=str(root))
    names = _list(root, base, f"scannetv2_{SPLITS[split]}.txt")
    titles = [name for name in names if name in there]
    if not titles:
        raise BadDataset(f"none of the {len(names):,} scenes of the {split} split; there are {listed(sorted(there))}", where=str(base))
    files = [f"{title}/{title}{ending}" for title in titles for ending in (CLOUD, LABELS)]
    problems = [f"{name} is missing" for name in files if not (base / name).is_file()]
    refuse(base, f"{len(problems):,} files of the {len(titles):,} scenes of the {split} split are missing:", problems)
    absent = len(names) - len(titles)
    scenes = FileScenes(
        as_paths(base, files[::2]),
        as_paths(base, files[1::2]),
        as_paths(base, titles),
        np.arange(len(titles)),
        label_map,
        vertex_ids,
        notes=(f"{absent:,} of the {len(names):,} scenes of the {split} split are not there",) if absent else (),
    )
    return scenes.without(exclude, there.__contains__)


def vertex_ids(cloud: PointCloud, path: Path) -> npt.NDArray[np.int64]:
    """The NYU40 id (N,) of every vertex; numbers above 40, of which three scenes have some (50, 149), are no ids.

    Source: github.com/ScanNet/ScanNet/issues/20. Raises: BadLabels (no column `label`), InputError (not a PLY file), OSError.
    """
    labels = read_cloud(path).extra.get("label")
    if labels is None or labels.dtype.kind not in "iu":
        raise BadLabels("no column `label` of whole numbers in it")
    ids = labels.astype(np.int64)
    return np.where(ids > LARGEST_ID, NO_ID, ids)


def _list(root: Path, base: Path, name: str) -> list[str]:
    """The scenes that a list in root, or beside it, names, sorted. Raises: BadDataset."""
    places = [folder / name for folder in dict.fromkeys((root, base, root.resolve().parent))]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise BadDataset(f"no {name} in it or beside it; it comes with ScanNet's code, in Tasks/Benchmark", where=str(root))
    return sorted(set(path.read_text(encoding="utf-8").split()))
