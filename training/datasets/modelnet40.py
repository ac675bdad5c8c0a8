"""ModelNet40 in its publishers' HDF5 layout: ply_data_{train,test}{0..}.h5 with `data` (n, N, 3) and `label` (n, 1).

Class names come from shape_names.txt beside the files, one a line in the order of the labels.
"""

from pathlib import Path

import h5py
import numpy as np

from models.errors import BadDataset
from training.datasets.labelled import LabelledClouds


def read_modelnet40(root: Path, split: str) -> LabelledClouds:
    """All clouds of a split, files in the order of their numbers. Raises: BadDataset (missing or unfit files)."""
    names_file = root / "shape_names.txt"
    files = sorted(root.glob(f"ply_data_{split}*.h5"), key=lambda path: (len(path.name), path.name))
    if not files or not names_file.is_file():
        wanted = f"needs ply_data_{split}*.h5 and shape_names.txt (ModelNet40 in its HDF5 release)"
        raise BadDataset(f"{wanted}; a folder of your own, with one for each class: --set data.kind=folder", where=str(root))
    names = tuple(line.strip() for line in names_file.read_text(encoding="utf-8").splitlines() if line.strip())
    parts = [_read_file(path, len(names)) for path in files]
    if not sum(len(targets) for _, targets in parts):
        raise BadDataset(f"the {split} split has no clouds", where=str(root))
    if len({xyz.shape[1] for xyz, _ in parts}) > 1:
        raise BadDataset("the files hold clouds of different sizes", where=str(root))
    return LabelledClouds(np.concatenate([xyz for xyz, _ in parts]), np.concatenate([targets for _, targets in parts]), names)


def _read_file(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, N, 3) float32 and (n,) int64 of one file."""
    try:
        with h5py.File(path, "r") as file:
            xyz, targets = np.asarray(file["data"], "<f4"), np.asarray(file["label"], "<i8").reshape(-1)
    except (OSError, KeyError) as error:
        raise BadDataset(f"cannot read `data` and `label`: {error}", where=str(path)) from error
    if xyz.ndim != 3 or xyz.shape[2] != 3 or len(xyz) != len(targets):
        raise BadDataset(f"data has shape {xyz.shape} for {len(targets)} labels, expected (n, N, 3)", where=str(path))
    if len(targets) and (targets.min() < 0 or targets.max() >= num_classes):
        raise BadDataset(f"labels run from {targets.min()} to {targets.max()}, there are {num_classes} names", where=str(path))
    return xyz, targets
