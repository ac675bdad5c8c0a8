"""Answers to LAS and other files, as laspy reads them: what tests of them ask."""

import io
from pathlib import Path

import laspy
import numpy as np

from models.answers import SAME, Labelled, check_answer, write_answer
from models.io import open_cloud
from models.labels import LabelMap, load_label_map
from tests.in_memory import guessed
from tests.las_files import columns_of

KITTI = load_label_map("semantickitti19")
ADDED = ["label", "confidence", "label_red", "label_green", "label_blue"]


def answer_to(path: Path, name: str, label_map: LabelMap = KITTI) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The answer for a file, with guessed labels and confidences, and those."""
    with open_cloud(path) as file:
        check_answer(name, file, label_map)
        labels, confidence = guessed(file.records.count, len(label_map))
        out = io.BytesIO()
        answer = Labelled(file, file.cloud(extra=False), labels, confidence, label_map, same=name == SAME)
        write_answer(name, answer, out)
        assert out.tell() == len(out.getvalue())
    return out.getvalue(), labels, confidence


def has_answer(las: laspy.LasData, labels: np.ndarray, confidence: np.ndarray, prefix: str = "") -> None:
    expected = [labels, confidence, *KITTI.colours[labels].T]
    for name, column in zip(ADDED, expected, strict=True):
        np.testing.assert_array_equal(las[prefix + name], column)


def has_all_of(found: laspy.LasData, before: laspy.LasData, without: tuple[str, ...] = ()) -> None:
    """Every value, as laspy gives it and as it is stored; scales, offsets; records."""
    columns = columns_of(found)
    for name, column in columns_of(before).items():
        if name not in without:
            assert columns[name].dtype == column.dtype
            assert columns[name].tobytes() == column.tobytes(), name
    for axis in "XYZ":
        np.testing.assert_array_equal(found[axis], before[axis])
    assert found.header.scales.tobytes() == before.header.scales.tobytes()
    assert found.header.offsets.tobytes() == before.header.offsets.tobytes()
