"""Labelled PLY files of many programs: without what was added they are the files that came, byte for byte, and plyfile reads them."""

import io
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyListProperty, PlyParseError

from models.errors import InputError
from models.io import read_cloud
from models.labels import load_label_map
from tests.in_memory import answer_to
from tests.ply_dropped import dropped

pytestmark = pytest.mark.data
KITTI = load_label_map("semantickitti19")
ADDED = ["label", "confidence", "label_red", "label_green", "label_blue"]


def real_files(data_dir: Path) -> list[Path]:
    return [*sorted((data_dir / "ply-zoo").glob("*.ply")), data_dir / "rgbd" / "redwood_frag_115.ply"]


def test_without_what_was_added_it_is_the_file_that_came(data_dir: Path) -> None:
    answered = 0
    for path in real_files(data_dir):
        try:
            read_cloud(path)
        except InputError:
            continue  # files that are no clouds are for the reader tests
        answer, _, _ = answer_to(path, "ply", KITTI)
        assert dropped(answer, len(KITTI)) == (path.read_bytes(), ADDED), path.name
        answered += 1
    assert answered == 41


def test_plyfile_finds_the_answer_and_all_that_was_there(data_dir: Path, tmp_path: Path) -> None:
    compared = 0
    for path in real_files(data_dir):
        try:
            before = PlyData.read(str(path))
            read_cloud(path)
        except (PlyParseError, UnicodeDecodeError, InputError):
            continue  # not read by plyfile, or not by us
        answer, labels, confidence = answer_to(path, "ply", KITTI)
        (tmp_path / "answer.ply").write_bytes(answer)  # plyfile's bytes and file readers differ; both are common
        for after in (PlyData.read(io.BytesIO(answer)), PlyData.read(str(tmp_path / "answer.ply"))):
            _same_elements(before, after)
            vertex = after["vertex"]
            np.testing.assert_array_equal(vertex["label"], labels)
            np.testing.assert_allclose(vertex["confidence"], confidence, rtol=0, atol=6e-7 if after.text else 0)  # text has six decimals
            for i, colour in enumerate(("red", "green", "blue")):
                np.testing.assert_array_equal(vertex[f"label_{colour}"], KITTI.colours[labels, i])
        compared += 1
    assert compared == 37


def _same_elements(before: PlyData, after: PlyData) -> None:
    assert (after.text, after.byte_order, after.obj_info) == (before.text, before.byte_order, before.obj_info)
    assert [element.name for element in after] == [element.name for element in before]
    for old, new in zip(before, after, strict=True):
        assert [str(each) for each in new.properties][: len(old.properties)] == [str(each) for each in old.properties]
        for each in old.properties:
            if isinstance(each, PlyListProperty):
                assert all(np.array_equal(a, b) for a, b in zip(old[each.name], new[each.name], strict=True))
            else:
                assert old[each.name].dtype == new[each.name].dtype
                assert old[each.name].tobytes() == new[each.name].tobytes()


def test_answers_are_read_and_answered_again(data_dir: Path, tmp_path: Path) -> None:
    answered = 0
    for path in real_files(data_dir):
        try:
            cloud = read_cloud(path)
        except InputError:
            continue
        first, labels, _ = answer_to(path, "ply", KITTI)
        (tmp_path / "first.ply").write_bytes(first)
        again = read_cloud(tmp_path / "first.ply")
        assert again.xyz.tobytes() == cloud.xyz.tobytes()
        np.testing.assert_array_equal(again.extra["label"], labels)
        second, _, _ = answer_to(tmp_path / "first.ply", "ply", KITTI)
        assert dropped(second, len(KITTI)) == (first, [f"fip_{name}" for name in ADDED]), path.name
        answered += 1
    assert answered == 41
