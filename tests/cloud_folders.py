"""Small folders of clouds in several formats, for tests of what is done with them."""

from pathlib import Path

import numpy as np

from training.datasets.folder import FileClouds, FolderSplits, folder_splits
from training.datasets.listing import list_folder
from training.datasets.scan import scan_folder


def points(seed: int, count: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype("<f4")


def write(path: Path, seed: int, count: int = 20) -> Path:
    """A real cloud in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    xyz = points(seed, count)
    if path.suffix == ".ply":
        head = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n" + "".join(f"property float {axis}\n" for axis in "xyz")
        path.write_bytes((head + "end_header\n").encode() + xyz.tobytes())
    elif path.suffix == ".off":
        path.write_text(f"OFF\n{count} 0 0\n" + "\n".join(" ".join(f"{value:.9g}" for value in row) for row in xyz) + "\n")
    elif path.suffix == ".npy":
        np.save(path, xyz)
    elif path.suffix == ".npz":
        np.savez(path, xyz=xyz, rgb=np.zeros((count, 3), np.uint8))
    elif path.suffix == ".bin":
        np.hstack([xyz, np.ones((count, 1), "<f4")]).tofile(path)
    else:
        raise ValueError(path.suffix)
    return path


ENDINGS = (".ply", ".off", ".npy", ".npz", ".bin")


def make(root: Path, *names: str) -> Path:
    """One different cloud a name."""
    for seed, name in enumerate(names):
        write(root / name, seed)
    return root


def whole(root: Path, classes: int = 3, count: int = 10) -> Path:
    return make(root, *(f"c{target}/{i}{ENDINGS[i % 5]}" for target in range(classes) for i in range(count)))


def split(root: Path, *, test_share: float = 0.2, seed: int = 0, skip_bad: bool = False) -> FolderSplits:
    listing = list_folder(root)
    return folder_splits(listing, scan_folder(listing), test_share=test_share, seed=seed, skip_bad=skip_bad)


def files(clouds: FileClouds | None) -> list[str]:
    assert clouds is not None
    return [clouds.paths.relative(int(row)) for row in clouds.rows]


def truncated(path: Path) -> None:
    data = write(path, 0).read_bytes()
    path.write_bytes(data[:-5])
