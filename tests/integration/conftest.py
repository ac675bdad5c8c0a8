"""Made-up shapes and 2D weights to train on in seconds, real ModelNet40 clouds to judge on, and made-up streets to label."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.manifest import NetworkSpec
from models.zoo import build
from tests import stored_modelnet40
from tests.predicting import CLOUDS, save_cloud
from tests.training_runs import fitted
from tests.untrained_segmenter import save_segmenter
from training.datasets import LabelledClouds


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Spheres (0), cube surfaces (1) and rods (2) of 128 points."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 3
    xyz = rng.normal(size=(count, 128, 3))
    sphere = xyz / np.linalg.norm(xyz, axis=2, keepdims=True)
    cube = np.clip(sphere * 1.8, -1, 1) / np.sqrt(3)
    rod = sphere * [0.1, 0.1, 1]
    return np.choose(targets[:, None, None], [sphere, cube, rod]).astype("f4"), targets


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    (root / "shape_names.txt").write_text("sphere\ncube\nrod\n")
    for split, count, seed in (("train", 48, 0), ("test", 15, 1)):
        xyz, targets = shapes(count, seed)
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"], file["label"] = xyz, targets.astype("u1")[:, None]
    return root


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up 2D state dict with the names and shapes of the CIFAR ResNet20."""
    generator = torch.Generator().manual_seed(0)
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=10))
    state = {"conv1.weight": torch.randn(16, 3, 3, 3), "linear.weight": torch.randn(10, 64)}
    for name, tensor in net.state_dict().items():
        if name.startswith("layer") and tensor.dim() == 3:
            state[name] = torch.randn(tensor.shape[2], tensor.shape[1], 3, 3, generator=generator) * 0.1
        elif name.startswith("layer") and tensor.dim():
            state[name] = tensor.clone()
    path = tmp_path_factory.mktemp("weights") / "image.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def whole(data: Path, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was not stopped."""
    return fitted(data, image_file, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="session")
def modelnet(data_dir: Path) -> Callable[[str, Callable[[np.ndarray], np.ndarray]], LabelledClouds]:
    """Clouds of a split, `train` or `test`: those rows that a function picks from the labels (D,)."""
    return partial(stored_modelnet40.read, data_dir)


@pytest.fixture(scope="session")
def registry(tiny_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier `tiny` and two untrained segmenters, `streets` and `roads`."""
    registry = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_registry / "tiny", registry / "tiny")
    save_segmenter(registry / "streets" / "1", "streets")
    save_segmenter(registry / "roads" / "1", "roads", seed=1)
    return registry


@pytest.fixture
def use(registry: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`fip predict` with `streets`."""
    for name in ("FIP_MODEL", "FIP_TILE_VOXELS", "FIP_TILE_HALO"):
        monkeypatch.delenv(name, raising=False)
    return ["predict", "--registry", str(registry), "--model", "streets"]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Clouds of five formats in three folders."""
    for seed, (name, points) in enumerate(CLOUDS.items()):
        save_cloud(tmp_path / "scans" / name, points, seed)
    return tmp_path / "scans"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where answers go; it does not exist yet."""
    return tmp_path / "out"
