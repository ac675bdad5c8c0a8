"""ModelNet40 as it is stored under FIP_DATA: 12 bits an axis, points sorted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.datasets import LabelledClouds


def read(data_dir: Path, split: str, pick: Callable[[np.ndarray], np.ndarray]) -> LabelledClouds:
    """Clouds of a split, `train` or `test`: those rows that a function picks from the labels (D,)."""
    stored = np.load(data_dir / "modelnet40" / f"modelnet40_{split}.npz", allow_pickle=False)
    rows = pick(stored["label"])
    dx, y_lo, z_lo, yz_hi = (stored[name][rows].astype(np.int32) for name in ("dx", "y_lo", "z_lo", "yz_hi"))
    grid = np.stack([np.cumsum(dx, 1), y_lo | (yz_hi & 15) << 8, z_lo | (yz_hi >> 4) << 8], axis=-1)
    names = tuple(str(name) for name in stored["class_names"])
    return LabelledClouds(grid.astype(np.float32) / np.float32(2047.5) - 1, stored["label"][rows].astype(np.int64), names)
