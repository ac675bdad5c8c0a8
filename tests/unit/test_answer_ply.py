"""Labelled PLY files: without what was added they are the files that came, byte for byte."""

import contextlib
import io
import re
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from models.answers import Labelled, write_answer
from models.answers.ply_lines import COMMENT_BYTES
from models.errors import BadOption, FipError, MissingCoordinates, UnsupportedFormat
from models.io import open_cloud, read_cloud
from models.io.columns import SPLAT_SCALE
from models.io.ply_header import HEADER_BYTES
from models.labels import load_label_map
from tests.fire import PROMPT_S
from tests.in_memory import answer_to, answered, guessed, many_classes
from tests.ply_dropped import dropped
from tests.ply_files import ply_files

KITTI = load_label_map("semantickitti19")
ADDED = ["label", "confidence", "label_red", "label_green", "label_blue"]
FORMS = ("ascii", "binary_little_endian", "binary_big_endian")
XYZ = ("property float x", "property float y", "property float z")


def header(form: str, *lines: str, end: str = "\n") -> bytes:
    return end.join(["ply", f"format {form} 1.0", *lines, "end_header", ""]).encode()


def six_decimals(confidence: np.ndarray) -> np.ndarray:
    """The confidences as text has them."""
    return np.array([f"{each:.6f}" for each in confidence], np.float32)


def comes_back(path: Path, data: bytes, classes: int = 19) -> bytes:
    """The answer, once it is seen that without what was added it is the file."""
    path.write_bytes(data)
    answer, labels, confidence = answer_to(path, "same", many_classes(classes))
    before, names = dropped(answer, classes)
    assert before == data
    path.write_bytes(answer)
    again = read_cloud(path)
    np.testing.assert_array_equal(again.extra[names[0]], labels)
    text = b"format ascii" in answer
    np.testing.assert_array_equal(again.extra[names[1]], six_decimals(confidence) if text else confidence)
    assert again.extra[names[1]].dtype == np.float32
    return answer


@given(ply_files(), st.sampled_from([3, 300]))
def test_without_what_was_added_it_is_the_file_that_came(tmp_path_factory, data, classes):
    comes_back(tmp_path_factory.getbasetemp() / "any.ply", data, classes)


@given(ply_files())
def test_answers_are_answered_again(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "again.ply"
    comes_back(path, comes_back(path, data))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", [True, False])
def test_plyfile_finds_what_it_wrote_and_the_answer(tmp_path, form, before):
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
    rng = np.random.default_rng(0)
    rows = np.empty(500, [("x", "f8"), ("y", "f4"), ("z", "i2"), *((f"c_{kind}", kind) for kind in kinds), ("l", "O")])
    for name in rows.dtype.names or ():
        rows[name] = rng.integers(0, 100, 500) if rows.dtype[name].kind in "iu" else rng.normal(size=500)
    rows["l"] = [rng.normal(size=n).astype("f4") for n in rng.integers(1, 4, 500)]  # an empty one is none to plyfile, in a text
    faces = np.empty(70, [("vertex_indices", "O"), ("red", "u1")])
    faces["vertex_indices"] = [np.arange(n, dtype="i4") for n in rng.integers(3, 6, 70)]
    faces["red"] = 9
    elements = [PlyElement.describe(rows, "vertex", comments=["of points"]), PlyElement.describe(faces, "face")]
    order = {"binary_big_endian": ">", "binary_little_endian": "<"}.get(form, "=")
    data = PlyData(elements[:: 1 if before else -1], form == "ascii", order, ["first"], ["second"])
    data.write(str(tmp_path / "a.ply"))
    answer, labels, confidence = answer_to(tmp_path / "a.ply", "ply", KITTI)
    found = PlyData.read(io.BytesIO(answer))
    written = PlyData.read(str(tmp_path / "a.ply"))
    assert [element.name for element in found] == [element.name for element in written]
    assert (found.comments, found.obj_info, found.text) == (written.comments, written.obj_info, written.text)
    for name in rows.dtype.names or ():
        assert [np.asarray(each).tobytes() for each in found["vertex"][name]] == [
            np.asarray(each).tobytes() for each in written["vertex"][name]
        ]
    assert [each.tolist() for each in found["face"]["vertex_indices"]] == [each.tolist() for each in faces["vertex_indices"]]
    np.testing.assert_array_equal(found["vertex"]["label"], labels)
    np.testing.assert_array_equal(found["vertex"]["confidence"], six_decimals(confidence) if found.text else confidence)
    np.testing.assert_array_equal(found["vertex"]["label_green"], KITTI.colours[labels, 1])
    assert [each.val_dtype for each in found["vertex"].properties[-5:]] == ["u1", "f4", "u1", "u1", "u1"]


def test_the_header_of_an_answer_to_the_letter(tmp_path):
    lines = ("comment first", "element vertex 1", *XYZ, "comment of faces", "element face 0", "property list uchar int i", "obj_info last")
    (tmp_path / "a.ply").write_bytes(header("binary_big_endian", *lines, end="\r\n") + bytes(12))
    answer, _, _ = answer_to(tmp_path / "a.ply", "ply", many_classes(2))
    added = [f"property {kind} {name}" for kind, name in zip(("uchar", "float", "uchar", "uchar", "uchar"), ADDED, strict=True)]
    comments = [f"comment label {i}: class {i} (id {i + 1000})" for i in range(2)]
    assert answer.startswith(header("binary_big_endian", *lines[:5], *added, *lines[5:], *comments, end="\r\n"))


def test_words_that_the_header_does_not_announce_shift_nothing(tmp_path):
    data = header("ascii", "element vertex 3", *XYZ) + b"1 2 3 99 98\n4 5 6\n 7\t8  9 more \n"
    comes_back(tmp_path / "a.ply", data)
    (tmp_path / "a.ply").write_bytes(data)
    answer, labels, _ = answer_to(tmp_path / "a.ply", "ply", KITTI)
    rows = [line.split() for line in answer.partition(b"end_header\n")[2].splitlines()]
    assert [row[:3] for row in rows] == [[b"1", b"2", b"3"], [b"4", b"5", b"6"], [b"7", b"8", b"9"]]
    assert [int(row[3]) for row in rows] == labels.tolist()
    assert [row[8:] for row in rows] == [[b"99", b"98"], [], [b"more"]]


@pytest.mark.parametrize("form", FORMS)
def test_a_later_element_that_is_cut_off_stays_so(tmp_path, form):
    """Two triangles of three are there, the third one half; its list is longer than what the header asks for at least."""
    lines = ("element vertex 1", *XYZ, "element face 3", "property list uchar int vertex_indices")
    if form == "ascii":
        body = b"1 2 3\n3 0 0 0\n3 0 0 0\n3 0"
    else:
        order = ">" if "big" in form else "<"
        body = struct.pack(order + "3f", 1, 2, 3) + struct.pack(order + "B3i", 3, 0, 0, 0) * 2 + b"\3\0\0"
    answer = comes_back(tmp_path / "a.ply", header(form, *lines) + body)
    assert answer.endswith(body[-20:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lists", ["none", "equal", "differing"])
def test_more_rows_than_a_block_and_more_bytes_than_a_piece(tmp_path, form, lists):
    n = 70_000
    rng = np.random.default_rng(0)
    sizes = {"none": [0] * n, "equal": [4] * n, "differing": rng.integers(0, 9, n).tolist()}[lists]
    values = rng.random((n, 3)).astype("f4").tolist()
    lines = (
        "element vertex " + str(n),
        *XYZ,
        *(["property list uchar double l"] if lists != "none" else []),
        "element edge 300000",
        "property int e",
    )
    if form == "ascii":
        word = [f"{size}{' 0' * size}" if lists != "none" else "" for size in sizes]
        body = "".join(f"{x} {y} {z} {each}\n" for (x, y, z), each in zip(values, word, strict=True)).encode() + b"12345\n" * 300_000
    else:
        order = ">" if "big" in form else "<"
        count = [bytes([size]) if lists != "none" else b"" for size in sizes]
        body = b"".join(struct.pack(order + "3f", *row) + c + bytes(8 * size) for row, c, size in zip(values, count, sizes, strict=True))
        body += rng.bytes(4 * 300_000)
    comes_back(tmp_path / "a.ply", header(form, *lines) + body)


def test_a_row_longer_than_a_piece(tmp_path):
    lists = [bytes(8 * size) for size in (0, 300_000, 1, 200_000)]
    body = b"".join(struct.pack("<3fI", 1, 2, 3, len(each) // 8) + each for each in lists)
    comes_back(tmp_path / "a.ply", header("binary_little_endian", "element vertex 4", *XYZ, "property list uint double l") + body)


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_that_of_a_block(tmp_path, form):
    """Of as many points with a list each as fit into many blocks, and of edges: not all of either is ever held."""
    n, lists = (300_000, []) if form == "ascii" else (300_000, ["property list uchar double l"])
    row = b"1.000 2.000 3.000 \n" if form == "ascii" else struct.pack("<3fB2d", 1, 2, 3, 2, 0, 0)
    edge = b"0.0000\n" if form == "ascii" else bytes(8)
    lines = (f"element vertex {n}", *XYZ, *lists, f"element edge {15 * n}", "property double e")
    (tmp_path / "a.ply").write_bytes(header(form, *lines) + row * n + edge * 15 * n)
    with open_cloud(tmp_path / "a.ply") as file, (tmp_path / "b.ply").open("wb") as out:
        answer = Labelled(file, file.cloud(extra=False), *guessed(n), KITTI)
        tracemalloc.start()
        try:
            write_answer("ply", answer, out)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert (tmp_path / "b.ply").stat().st_size > (tmp_path / "a.ply").stat().st_size > 36e6
    assert peak < (20e6 if form == "ascii" else 8e6)


def test_a_file_with_no_room_for_more_columns_is_refused(tmp_path):
    for columns in (251, 252):
        lines = (*XYZ, *(f"property uchar c{i}" for i in range(columns - 3)))
        data = header("binary_little_endian", "element vertex 1", *lines) + bytes(12 + columns - 3)
        if columns == 251:
            comes_back(tmp_path / "a.ply", data)
            continue
        (tmp_path / "a.ply").write_bytes(data)
        with pytest.raises(BadOption, match="257 columns, and PLY answers hold 256"):
            answer_to(tmp_path / "a.ply", "same", KITTI)


def test_a_header_with_little_room_gets_fewer_comments_and_with_none_is_refused(tmp_path):
    added = sum(len(f"property {kind} {name}\n") for kind, name in zip(("ushort", "float", "uchar", "uchar", "uchar"), ADDED, strict=True))
    for room in (COMMENT_BYTES + 5000, 5500, 60, 0, -1):
        empty = header("ascii", "element vertex 1", *XYZ, "comment ")
        filler = "x" * (HEADER_BYTES - 1 - added - room - len(empty))
        (tmp_path / "a.ply").write_bytes(header("ascii", "element vertex 1", *XYZ, "comment " + filler) + b"1 2 3\n")
        if room < 0:
            assert len(read_cloud(tmp_path / "a.ply")) == 1
            with pytest.raises(BadOption, match="the header has more than 64 kB"):
                answer_to(tmp_path / "a.ply", "same", many_classes(5000))
            continue
        answer, _, _ = answer_to(tmp_path / "a.ply", "same", many_classes(5000))
        (tmp_path / "b.ply").write_bytes(answer)
        assert len(read_cloud(tmp_path / "b.ply")) == 1
        lines = re.findall(rb"comment (?:label|\d).*\n", answer)
        assert min(room, COMMENT_BYTES) - 70 < sum(map(len, lines)) <= min(room, COMMENT_BYTES)
        assert lines[-1:] == [f"comment {5000 - len(lines) + 1} more classes\n".encode()][: len(lines)]


# --- damaged files


edits = st.lists(st.tuples(st.sampled_from(["flip", "cut", "put"]), st.integers(0, 1 << 12), st.integers(1, 255)), max_size=3)


@given(ply_files(), edits)
def test_damaged_files_are_refused_by_errors_of_ours_or_come_back(tmp_path_factory, data, edits):
    out = bytearray(data)
    for kind, place, value in edits:
        at = place % (len(out) + 1)
        if kind == "flip" and at < len(out):
            out[at] ^= value
        elif kind == "cut":
            del out[at : at + value % 20]
        else:
            out[at:at] = b"9\n -\r"[value % 5 : value % 5 + 1]
    path = tmp_path_factory.getbasetemp() / "damaged.ply"
    path.write_bytes(out)
    with contextlib.suppress(FipError), open_cloud(path) as file:
        labels, confidence = guessed(file.records.count, 3)
        answer = answered("same", file, labels, confidence, many_classes(3))
        path.with_suffix(".answer.ply").write_bytes(answer)
        again = read_cloud(path.with_suffix(".answer.ply"))
        np.testing.assert_array_equal(list(again.extra.values())[-5], labels)


def test_a_list_that_says_to_be_gigabytes_long_costs_nothing(tmp_path):
    lines = ("element vertex 2", *XYZ, "property list uint double l")
    body = struct.pack("<3fI", 1, 2, 3, 0) + struct.pack("<3fI", 1, 2, 3, 4_000_000_000)
    (tmp_path / "a.ply").write_bytes(header("binary_little_endian", *lines) + body)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(FipError, match="do not fit"):
            read_cloud(tmp_path / "a.ply")
        assert time.process_time() - started < PROMPT_S
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


# --- Gaussian splats


SPLAT = (
    *("x", "y", "z", "nx", "ny", "nz"),
    *(f"f_dc_{i}" for i in range(3)),
    *(f"f_rest_{i}" for i in range(45)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def test_a_splat_has_a_colour_and_comes_back_with_all_62_properties(tmp_path):
    rows = np.random.default_rng(0).normal(size=(1000, 62)).astype("<f4")
    data = header("binary_little_endian", "element vertex 1000", *(f"property float {name}" for name in SPLAT)) + rows.tobytes()
    (tmp_path / "splat.ply").write_bytes(data)
    cloud = read_cloud(tmp_path / "splat.ply")
    harmonics = rows[:, 6:9].astype(np.float64)
    expected = np.clip(0.5 + harmonics / (2 * np.sqrt(np.pi)), 0, 1) * 255
    assert np.abs(cloud.rgb - expected).max() <= 0.5 + 1e-4
    assert pytest.approx(1 / (2 * np.sqrt(np.pi)), rel=1e-15) == SPLAT_SCALE
    assert list(cloud.extra) == list(SPLAT[3:])
    answer = comes_back(tmp_path / "splat.ply", data)
    found = PlyData.read(io.BytesIO(answer))["vertex"].data
    assert found.dtype.names == (*SPLAT, *ADDED)
    for name, column in zip(SPLAT, rows.T, strict=True):
        assert found[name].tobytes() == np.ascontiguousarray(column).tobytes()


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        (
            "a.compressed.ply",
            header("binary_little_endian", "element vertex 1", "property uint packed_position") + bytes(4),
            MissingCoordinates,
        ),
        ("a.spz", b"\x1f\x8b\x08\0" + bytes(100), UnsupportedFormat),
        ("a.spz", b"NGSP\4\0\0\0" + bytes(100), UnsupportedFormat),
    ],
)
def test_compressed_splats_are_called_so(tmp_path, name, data, error):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=r"compressed Gaussian splat.*plain PLY, which splat-transform IN OUT\.ply makes"):
        read_cloud(tmp_path / name)


def test_a_bundle_of_pictures_is_a_compressed_splat(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        archive.writestr("meta.json", "{}")
        archive.writestr("means_l.webp", b"RIFF")
    with pytest.raises(MissingCoordinates, match=r"Gaussian splat \(SOG\).*plain PLY"):
        read_cloud(tmp_path / "a.sog")
