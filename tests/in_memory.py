"""Clouds and files for tests of answers: a file that is only in memory, and an answer as bytes."""

import io
from pathlib import Path
from types import MappingProxyType

import numpy as np

from models.answers import Labelled, check_answer, write_answer
from models.io import CloudFile, open_cloud
from models.io.records import records_of_columns
from models.io.source import Source
from models.labels import LabelClass, LabelMap
from models.pointcloud import PointCloud

MEMORY = "memory"  # the format of a file that is not one, and so never that of an answer


def many_classes(count: int) -> LabelMap:
    classes = (LabelClass(name=f"class {i}", colour=(i % 256, i // 256 % 256, 7), ids=(i + 1000,)) for i in range(count))
    return LabelMap(classes=tuple(classes))


def cloud_of(n: int = 200, kind: str = "f4", **extra: np.ndarray) -> PointCloud:
    """Coordinates, colours, intensity and what is given."""
    rng = np.random.default_rng(0)
    return PointCloud(
        rng.normal(size=(n, 3)).astype(kind) * 1e3,
        rgb=rng.integers(0, 256, (n, 3), np.uint8),
        intensity=rng.random(n).astype(np.float32),
        extra=MappingProxyType(extra),
    )


def file_of(cloud: PointCloud, colours: tuple[str, str, str] = ("red", "green", "blue")) -> CloudFile:
    """A file with the columns x, y, z, colour, intensity and the extra ones of a cloud."""
    columns: dict[str, np.ndarray] = dict(zip("xyz", cloud.xyz.T, strict=True))
    if cloud.rgb is not None:
        columns |= dict(zip(colours, cloud.rgb.T, strict=True))
    if cloud.intensity is not None:
        columns["intensity"] = cloud.intensity
    return CloudFile(Source(io.BytesIO(), 0), MEMORY, records_of_columns(columns | dict(cloud.extra)))


def answered(name: str, file: CloudFile, labels: np.ndarray, confidence: np.ndarray, label_map: LabelMap) -> bytes:
    """The answer that would be sent for a file, once it was checked whether there can be one."""
    check_answer(name, file, label_map)
    out = io.BytesIO()
    write_answer(name, Labelled(file, file.cloud(extra=False), labels, confidence, label_map), out)
    return out.getvalue()


def encode(name: str, cloud: PointCloud, labels: np.ndarray, confidence: np.ndarray, label_map: LabelMap) -> bytes:
    """The answer for a cloud that came from a file of another format."""
    return answered(name, file_of(cloud), labels, confidence, label_map)


def guessed(n: int = 200, classes: int = 19, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and confidences (n,) as a net could give them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, n).astype(np.uint16), rng.random(n).astype(np.float32)


def answer_to(path: Path, name: str, label_map: LabelMap, fmt: str | None = None) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The answer for a file on disk, and the labels and confidences in it, which are guessed."""
    with open_cloud(path, fmt) as file:
        labels, confidence = guessed(file.records.count, len(label_map))
        return answered(name, file, labels, confidence, label_map), labels, confidence
