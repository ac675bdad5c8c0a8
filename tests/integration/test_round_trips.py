"""Files of other programs, answered in their own format and in others; judged by those programs' libraries, not by our readers."""

import io
from pathlib import Path

import laspy
import numpy as np
import pytest
from plyfile import PlyData, PlyParseError

from models.errors import BadOption, InputError
from models.io import read_cloud
from models.labels import load_label_map
from tests.conversions import INPUTS, TEXTS, assert_columns, assert_coordinates, columns_in
from tests.ply_dropped import dropped
from tests.round_trip import ADDED, SIX_DECIMALS, added_are, answer_file, check_same, npz_holds, same_npz
from tests.third_party import Writer, real, synthetic

KITTI, NUSCENES = load_label_map("semantickitti19"), load_label_map("nuscenes16")
AS_TEXT = {("ply-near", "ply"), ("pcd-ascii", "pcd")}  # the same file, which is text
TARGETS = ("ply", "las", "laz", "pcd", "csv", "xyz", "npz")


@pytest.mark.parametrize(("name", "write"), list(synthetic()), ids=[name for name, _ in synthetic()])
def test_a_file_comes_back_as_it_was_with_the_answer(tmp_path: Path, name: str, write: Writer) -> None:
    before = write(tmp_path / name)
    check_same(before, answer_file(before, tmp_path / f"after{before.suffix}", "same", KITTI))


@pytest.mark.data
def test_so_do_real_files(data_dir: Path, tmp_path: Path) -> None:
    """PLY files that plyfile does not read are compared byte for byte without it."""
    answered: dict[str, int] = {}
    for before in real(data_dir, tmp_path):
        try:
            read_cloud(before)
        except InputError:
            assert before.parent.name == "ply-zoo", before.name
            continue
        label_map = NUSCENES if before.name.endswith(".pcd.bin") else KITTI
        answer = answer_file(before, tmp_path / f"after{before.suffix}", "same", label_map)
        if answer.fmt == "ply":
            assert dropped(answer.path.read_bytes(), len(label_map)) == (before.read_bytes(), list(ADDED)), before.name
        if answer.fmt != "ply" or _is_read_by_plyfile(before):
            check_same(before, answer)
        answered[answer.fmt] = answered.get(answer.fmt, 0) + 1
    assert answered == {"ply": 42, "bin": 5, "nuscenes": 1, "npz": 4, "xyz": 1, "npy": 1, "pcd": 6, "las": 8}


def _is_read_by_plyfile(path: Path) -> bool:
    try:
        PlyData.read(io.BytesIO(path.read_bytes()))
    except (PlyParseError, UnicodeDecodeError):
        return False
    return True


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", INPUTS)
def test_any_file_as_any_other(tmp_path: Path, source: str, target: str) -> None:
    """Coordinates as exact as the format can hold, the answer, and every column of the file."""
    before, expected = INPUTS[source](tmp_path)
    answer = answer_file(before, tmp_path / f"after.{target}", target, KITTI)
    assert len(answer.labels) == len(expected["x"])
    if target == "npz":  # the answer alone, but in an npz file, which keeps what it has
        if answer.fmt == "npz":
            same_npz(before, answer)
        with np.load(answer.path) as arrays:
            npz_holds(arrays, answer)
        return
    found = columns_in(answer.path)
    added_are(found, answer, SIX_DECIMALS if answer.path.suffix in TEXTS or (source, target) in AS_TEXT else 0)
    if target in ("las", "laz"):
        np.testing.assert_array_equal(found["classification"], answer.labels)
        found["classification"] = found.get("original_classification", np.zeros_like(found["classification"]))
    if not (answer.fmt == "las" and target in ("las", "laz")):  # which keep the stored integers: see below
        assert_coordinates(answer.path, found, expected)
    assert_columns(answer.path, found, expected)


@pytest.mark.parametrize("source", ["las", "laz"])
@pytest.mark.parametrize("target", ["las", "laz"])
def test_las_as_laz_and_back_keeps_the_stored_integers(tmp_path: Path, source: str, target: str) -> None:
    before, _ = INPUTS[source](tmp_path)
    old, new = laspy.read(before), laspy.read(answer_file(before, tmp_path / f"after.{target}", target, KITTI).path)
    assert new.header.are_points_compressed == (target == "laz")
    for name in (name for name in old.points.array.dtype.names if "classification" not in name):
        np.testing.assert_array_equal(new.points.array[name], old.points.array[name])


@pytest.mark.parametrize("source", ["off", "e57"])
def test_meshes_and_e57_have_no_answer_of_their_own_kind(tmp_path: Path, source: str) -> None:
    before, _ = INPUTS[source](tmp_path)
    with pytest.raises(BadOption, match="ask for another format"):
        answer_file(before, tmp_path / "after", "same", KITTI)
