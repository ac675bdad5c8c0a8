"""Labelled CSV of files of every kind; CSV files themselves are in test_answer_text.py."""

import csv
import io

import numpy as np
import pytest

from models.io import read_cloud
from tests.in_memory import answer_to, cloud_of, encode, guessed, many_classes


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_every_column_comes_back(save, kind):
    extra: dict[str, np.ndarray] = {
        "label": np.arange(300) * (1 << 40),
        "a, b": np.linspace(0, 1, 300),
        'say "c"': np.linspace(0, 1, 300, dtype=np.float32),
    }
    cloud = cloud_of(300, kind, **extra)
    labels, confidence = guessed(300)
    answer = encode("csv", cloud, labels, confidence, many_classes(19))
    names, *rows = csv.reader(io.StringIO(answer.decode(), newline=""))
    added = ["fip_label", "confidence", "label_red", "label_green", "label_blue"]
    assert names == ["x", "y", "z", "red", "green", "blue", "intensity", *extra, *added]
    table = dict(zip(names, zip(*rows, strict=True), strict=True))
    np.testing.assert_array_equal(np.stack([np.array(table[axis], kind) for axis in "xyz"], axis=1), cloud.xyz)
    np.testing.assert_array_equal(np.array(table["intensity"], np.float32), cloud.intensity)
    for name, values in extra.items():
        np.testing.assert_array_equal(np.array(table[name]).astype(values.dtype), values)
    assert table["fip_label"] == tuple(map(str, labels.tolist()))
    assert table["confidence"] == tuple(f"{value:.6f}" for value in confidence.tolist())
    again = read_cloud(save("a.csv", answer))
    np.testing.assert_array_equal(again.xyz.astype(kind), cloud.xyz)
    np.testing.assert_array_equal(again.rgb, cloud.rgb)
    np.testing.assert_array_equal(again.extra["fip_label"], labels)


def test_text_of_another_kind_becomes_csv(save):
    path = save("a.txt", b"//X Y Z R G B Class\n1.50 2 -3 255 0 9 4\n0.1 5 6e-7 7 8 9 4\n")
    answer, labels, confidence = answer_to(path, "csv", many_classes(3))
    behind = [f"{label},{sure:.6f},{label},0,7" for label, sure in zip(labels.tolist(), confidence.tolist(), strict=True)]
    assert answer.decode().splitlines() == [
        "x,y,z,red,green,blue,Class,label,confidence,label_red,label_green,label_blue",
        f"1.5,2,-3,255,0,9,4,{behind[0]}",
        f"0.1,5,6e-7,7,8,9,4,{behind[1]}",
    ]
