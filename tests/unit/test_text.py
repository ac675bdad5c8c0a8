"""Text clouds: every dialect is read, to the last bit, and what is none of them is refused with its line."""

import contextlib
import io
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import (
    BadBody,
    BadHeader,
    EmptyFile,
    FipError,
    HeaderTooLarge,
    MissingCoordinates,
    TooManyPoints,
    TruncatedFile,
    UnsupportedFormat,
)
from models.io import choose_format, open_cloud, read_cloud
from models.io.text import guess_text
from tests.fire import PROMPT_S

# as in S3DIS' Area_N/ROOM/ROOM.txt
S3DIS = b"""-15.609 39.505 2.021 61 64 56
-15.618 39.499 2.017 61 64 56
-15.623 39.512 2.018 59 61 53
-15.600 39.511 2.020 255 0 60
"""


def columns(path: Path, fmt: str | None = None) -> dict[str, list[float]]:
    with open_cloud(path, fmt) as file:
        tables = [table.copy() for table in file.records.read()]
        assert sum(map(len, tables)) == file.records.count
        return {name: np.concatenate([table[name] for table in tables]).tolist() for name in file.records.names}


XYZ = {"x": [1.5, 4.0], "y": [2.0, 5.0], "z": [-3.25, 6.0]}


@pytest.mark.parametrize(
    "text",
    [
        "1.5 2 -3.25\n4 5 6\n",
        "1.5 2 -3.25\n4 5 6",
        "  1.5   2\t-3.25 \r\n4 5 6\r\n",
        "1.5\t2\t-3.25\n4\t5\t6\n",
        "1.5,2,-3.25\n4,5,6\n",
        "1.5 , 2 , -3.25\n4, 5, 6\n",
        "1.5;2;-3.25\n4;5;6\n",
        "1,5;2;-3,25\n4;5;6\n",
        "1,5\t2\t-3,25\n4\t5\t6\n",
        "1,5 2,0 -3,25\n4 5 6\n",
        '"1.5","2","-3.25"\n"4","5","6"\n',
        "1.5 2 -3.25\r4 5 6\r",
        "1.5 2 -3.25\r4 5 6",
        "\ufeff1.5 2 -3.25\n4 5 6\n",
        "# a comment\n\n1.5 2 -3.25\n\n# another\n  \n4 5 6\n\n",
        "// of CloudCompare\n1.5 2 -3.25\n// another\n4 5 6\n",
        "% of MATLAB\n1.5 2 -3.25\n4 5 6\n",
        "2\n1.5 2 -3.25\n4 5 6\n",
        "2\r\n1.5 2 -3.25\r\n4 5 6\r\n",
        "//x y z\n2\n1.5 2 -3.25\n4 5 6\n",
        "1\n1.5 2 -3.25\n1\n4 5 6\n",
        "+1.5 2. -3.25\n4e0 0.5E1 600e-2\n",
        "x y z\n1.5 2 -3.25\n4 5 6\n",
        "x,y,z\n1.5,2,-3.25\n4,5,6\n",
        "1.5,2,-3.25,\n4,5,6,\n",
    ],
)
def test_dialects(save, text):
    assert columns(save("a.xyz", text.encode())) == XYZ


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("//X Y Z R G B\n1 2 3 4 5 6\n", "X Y Z R G B"),
        ("//X,Y,Z,Rf,Gf,Bf\n1,2,3,.4,.5,.6\n", "X Y Z r g b"),
        ("# x, y, z, time\n1 2 3 4\n", "x y z time"),
        ("# x y z is what follows\n1 2 3 4\n", "x y z intensity"),
        ("# first second third\n1 2 3\n", "x y z"),
        ('"X [m]","Y [m]","Z(m)","Intensity (a.u.)"\n1,2,3,4\n', "X Y Z Intensity"),
        ("Easting;Northing;Height;GPS time\n1;2;3;4\n", "x y z GPS time".replace("GPS time", "GPS_time")),
        ("Points:0,Points:1,Points:2,Scalars\n1,2,3,4\n", "x y z Scalars"),
        ("x,y,z,v,v,\n1,2,3,4,5,6\n", "x y z v v_2 column_5"),
        ("id x y z\n7 1 2 3\n", "id x y z"),
        ("X,x,y,z\n7,1,2,3\n", "X x y z"),
        ("1 2 3 4\n", "x y z intensity"),
        ("1 2 3 4 5\n", "x y z column_3 column_4"),
        ("1 2 3 4 5 6\n", "x y z red green blue"),
        ("1 2 3 0.25 1 0.5\n", "x y z red green blue"),
        ("1 2 3 0.6 0 -0.8\n", "x y z nx ny nz"),
        ("1 2 3 4.5 5 6\n", "x y z column_3 column_4 column_5"),
        ("1 2 3 4 256 6\n", "x y z column_3 column_4 column_5"),
        ("1 2 3 -2048 5 6 7\n", "x y z intensity red green blue"),
        ("1 2 3 200 100 90 7\n1 2 3 210 110 95 12\n", "x y z red green blue column_6"),
        ("1 2 3 4 5 6 0 0.6 0.8\n", "x y z red green blue nx ny nz"),
        ("1 2 3 0 0.6 0.8 4 5 6\n", "x y z nx ny nz red green blue"),
        ("chair 1 2 3 4\n", "x y z intensity"),
        ("x,y,z,class\n1,2,3,chair\n", "x y z"),
        ("x,y,z,class,v\n1,2,3,chair,\n1,2,3,chair,5\n", "x y z v"),
    ],
)
def test_names_of_columns(save, text, names):
    found = [name.replace(" ", "_") for name in columns(save("a.txt", text.encode()))]
    assert found == names.split()


def test_the_raw_text_of_a_room(save):
    path = save("conferenceRoom_1.txt", S3DIS)
    cloud = read_cloud(path)
    expected = np.loadtxt(io.BytesIO(S3DIS))
    assert cloud.xyz.dtype == np.float64
    np.testing.assert_array_equal(cloud.xyz, expected[:, :3])
    np.testing.assert_array_equal(cloud.rgb, expected[:, 3:])


@pytest.mark.parametrize("word", ["chair", "", '"a, b"', "12 apples"])
def test_columns_of_words_are_left_out(save, word):
    rows = [f"{i}.5,{i},{word},{-i},7" for i in range(9000)]
    found = columns(save("a.csv", ("x,y,class,z,v\n" + "\n".join(rows)).encode()))
    assert list(found) == ["x", "y", "z", "v"]
    assert found["x"] == [i + 0.5 for i in range(9000)]
    assert found["z"] == [-i for i in range(9000)]


@pytest.mark.parametrize("form", ["%.6f", "%.10f", "%.18e", "%g", "%10.3f"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_numbers_agree_with_numpy_over_many_blocks(save, form, end):
    table = np.random.default_rng(0).normal(1e5, 1e5, (20_000, 3))
    path = save("a.xyz", "".join(" ".join([form] * 3) % tuple(row) + end for row in table.tolist()).encode())
    np.testing.assert_array_equal(read_cloud(path).xyz, np.loadtxt(path))


@pytest.mark.parametrize("missing", ["nan", "", "NaN", "inf"])
def test_fields_that_are_no_finite_number(save, missing):
    rows = [f"{i},2,3,{missing if i == 7 else 5}" for i in range(30)]
    with contextlib.suppress(FipError), open_cloud(save("a.csv", ("x,y,z,v\n" + "\n".join(rows)).encode())) as file:
        values = np.concatenate([table["v"] for table in file.records.read()])
    assert not np.isfinite(values[7])
    assert (np.delete(values, 7) == 5).all()


def test_scans_of_a_pts_file_one_after_another(save):
    rng = np.random.default_rng(0)
    scans = [rng.integers(-2048, 2047, (n, 7)) % [9999, 9999, 9999, 4096, 256, 256, 256] for n in (1, 30_000, 0, 20_000, 7)]
    text = "".join(f"{len(scan)}\n" + "".join(" ".join(map(str, row)) + "\n" for row in scan.tolist()) for scan in scans)
    cloud = read_cloud(save("a.pts", text.encode()))
    rows = np.concatenate(scans)
    np.testing.assert_array_equal(cloud.xyz, rows[:, :3])
    np.testing.assert_array_equal(cloud.intensity, rows[:, 3])
    np.testing.assert_array_equal(cloud.rgb, rows[:, 4:])


ROWS = b"1 2 3\n" * 40_000  # more than one block


@pytest.mark.parametrize(
    ("data", "error", "where"),
    [
        (b"hello, world\n", BadHeader, "line 1"),
        (b"# nothing but this\n", BadHeader, None),
        (b"\n\n", BadHeader, None),
        (b"x y z\n", BadHeader, "line 1"),
        (b"x y\n1 2 3\n", BadHeader, "line 1"),
        (b"a,b,c\n1,2,3\n", MissingCoordinates, "x"),
        (b"x,y,z\na,2,3\n", BadHeader, "line 2"),
        (b"1\n2\n3\n", MissingCoordinates, "line 2"),
        (b"1 2\n", MissingCoordinates, "line 1"),
        (b"1 2 3\n1 2\n", BadBody, "line 2"),
        (b"1 2 3\n1 2 3 4\n", BadBody, "line 2"),
        (b"1,2,3\n4 5 6\n1,2,3\n", BadBody, "line 2"),
        (b"1 2 3\n\n4 5 x\n7 8 9\n", BadBody, "line 3"),
        (b"1 2 3\n4 5 1_0\n", BadBody, "line 2"),
        (b"# a\n" + ROWS + b"1 2 three\n" + ROWS, BadBody, "line 40002"),
        (b"# a\n" + ROWS + b"1 2 3 4\n" + ROWS, BadBody, "line 40002"),
        (ROWS + b"185\x00187 1 2\n" + ROWS, BadBody, "line 40001"),
        (ROWS + b"7\n" + ROWS, BadBody, "line 40001"),
        (b"40000\n" + ROWS + b"x\n" + ROWS, BadBody, "line 40002"),
        (b"40000\n" + ROWS + b"40001\n" + ROWS, TruncatedFile, None),
        (b"39999\n" + ROWS, BadBody, "line 40001"),
        (b"40001\n" + ROWS, TruncatedFile, "line 1"),
        (b"40001\n" + ROWS.replace(b"3", b"3.5"), TruncatedFile, "line 40002"),
        (b"999999999999999999\n1 2 3\n", TruncatedFile, "line 1"),
        (b"9999999999999999999\n1 2 3\n", BadHeader, "line 1"),
        (b"1 2 3\n" + b"7" * 1_000_000, BadBody, "byte 6"),
        (b"7" * 1_000_000, BadBody, "line 1"),
        (b"1 " * 1_000_000, BadBody, "line 1"),
        (b"1 " * 257, HeaderTooLarge, "line 1"),
        (b"#\n" * 100_000, HeaderTooLarge, "line 1"),
        (b"\n" * 100_000, HeaderTooLarge, "line 1"),
        (b"1 2 3\n4 5 \x006\n", BadHeader, "line 2"),
        (bytes(1000), BadHeader, "line 1"),
        ("1 2 3\n".encode("utf-16"), UnsupportedFormat, "line 1"),
        (np.random.default_rng(0).bytes(300_000), FipError, None),
        (np.random.default_rng(0).integers(1, 256, 300_000, np.uint8).tobytes(), FipError, None),
        (b'"1,2,3\n4,5,6\n', FipError, None),
        (b"", EmptyFile, None),
    ],
)
@pytest.mark.parametrize("fmt", ["xyz", "csv"])
def test_what_is_refused_names_its_line(save, fmt, data, error, where):
    path = save("a.bad", data)
    started = time.process_time()
    with pytest.raises(error) as caught:
        read_cloud(path, fmt)
    assert time.process_time() - started < PROMPT_S
    if error is not FipError:
        assert type(caught.value) is error
    if where is not None:
        assert caught.value.where == where


@pytest.mark.parametrize("data", [b"1 2 3\n" * 9, b"9\n" + b"1 2 3\n" * 9, ROWS])
def test_more_points_than_wanted(save, data):
    path = save("a.xyz", data)
    with pytest.raises(TooManyPoints):
        read_cloud(path, max_points=8)
    count = data.count(b"1 2 3")
    assert len(read_cloud(path, max_points=count)) == count


@pytest.mark.parametrize(
    ("head", "guess"),
    [
        (b"1 2 3\n4 5 6\n", "xyz"),
        (b"//X Y Z\n1 2 3\n", "xyz"),
        (b"1.5,2,3\n", "csv"),
        (b"x;y;z;class\n1,5;2;3;car\n", "csv"),
        (b"2\n1 2 3\n4 5 6\n", "pts"),
        (b"1 2 3 chair\n", None),
        (b"<html>\n", None),
        (b"<svg>1 2 3</svg>", None),
        (b'{"points": [[1, 2, 3]]}', None),
        (b"[[1, 2, 3],\n [4, 5, 6]]", None),
        (b"[1, 2, 3]", None),
        (b"v 1 2 3\nv 4 5 6\nf 1 2 3\n", None),
        (b"plywood", None),
        (b"the cat sat\n", None),
        (b"a,b,c\n1,2,3\n", None),
        (b"1 2\n3 4\n", None),
        (b"", None),
    ],
)
def test_rows_of_numbers_are_known_without_a_name(head, guess):
    assert guess_text(head, whole=True) == guess
    if guess:
        assert choose_format(None, None, None, head=head) == guess
        assert choose_format(None, "cloud.dat", "application/octet-stream", head=head) == guess


@pytest.mark.parametrize(
    ("head", "fmt"),
    [
        (b"ply\nformat ascii 1.0\n", "ply"),
        (b"OFF\n4 2 0\n", "off"),
        (b"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\n", "pcd"),
        (b"\x93NUMPY", "npy"),
    ],
)
def test_other_formats_stay_what_they_are(head, fmt):
    assert choose_format(None, None, None, head=head) == fmt
    assert choose_format(None, None, "text/plain", head=head) == fmt  # as curl and browsers call what they do not know


@pytest.mark.parametrize(
    ("name", "fmt"),
    [*((f"A.{end}", "xyz") for end in ("xyz", "TXT", "asc", "xyzrgb", "xyzn", "xyzi")), ("scan.pts", "pts"), ("table.CSV", "csv")],
)
def test_names_of_files(name, fmt):
    assert choose_format(None, name, None, head=b"") == fmt


word = st.sampled_from(["1", "-2.5", "1e5", "nan", "", "x", "//", "#", '"', "1,5", "255", "\r", "9" * 30, "\t", "\xe9"])
line = st.lists(word, max_size=9)


@given(st.lists(line, max_size=12), st.sampled_from([" ", ",", ";", "\t"]), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_any_text_is_read_or_refused(tmp_path_factory, lines, separator, end, counted):
    text = end.join(separator.join(words) for words in lines) + end
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(((f"{len(lines)}{end}" if counted else "") + text).encode("latin-1"))
    tracemalloc.start()
    try:
        with contextlib.suppress(FipError), np.errstate(all="ignore"):
            assert len(read_cloud(path)) > 0
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 32 << 20


def test_memory_is_that_of_a_few_blocks(save):
    path = save("a.csv", b"x,y,z,class\n" + b"1.5,2.5,3.5,chair\n" * 500_000)
    tracemalloc.start()
    with open_cloud(path) as file:
        assert sum(map(len, file.records.read())) == 500_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.data
def test_a_real_room_as_text(save, data_dir):
    room = np.load(data_dir / "s3dis" / "crop_labelled_xyzrgb.npz")
    table = np.column_stack([room["xyz"].astype(np.float64), room["rgb"]])
    text = io.BytesIO()
    np.savetxt(text, table, fmt=["%.3f"] * 3 + ["%d"] * 3)
    cloud = read_cloud(save("office_1.txt", text.getvalue()))
    expected = np.loadtxt(io.BytesIO(text.getvalue()))
    np.testing.assert_array_equal(cloud.xyz, expected[:, :3])
    np.testing.assert_array_equal(cloud.rgb, room["rgb"])


@pytest.mark.data
def test_real_files_of_other_kinds_are_not_taken_for_text(data_dir):
    others = [path for path in data_dir.rglob("*") if path.is_file() and path.suffix not in (".txt", ".csv")]
    assert len(others) > 50
    for path in others:
        with path.open("rb") as file:
            head = file.read(1 << 16)
        assert guess_text(head, path.stat().st_size <= 1 << 16) is None, path
