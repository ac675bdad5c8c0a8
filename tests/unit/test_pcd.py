"""PCD of every kind: against pypcd4, against files written value by value, and damaged."""

import contextlib
import io
import re
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypcd4.pypcd4 import Encoding
from pypcd4.pypcd4 import PointCloud as Oracle

from models.errors import (
    BadBody,
    BadHeader,
    FileError,
    FipError,
    HeaderTooLarge,
    MissingCoordinates,
    NoPoints,
    TooManyPoints,
    TruncatedFile,
)
from models.io import choose_format, open_cloud, read_cloud
from models.io.pcd_body import BLOCK_BYTES
from models.io.records import BLOCK_ROWS
from models.io.source import ROWS_AT_A_TIME
from tests.fire import PROMPT_S
from tests.pcd_files import COLOURS, KINDS, NUMBERS, Fields, body_of, cube, header_of, names_of, pcd, random_values, table_of

N = 300


@pytest.fixture
def read(save):
    return lambda data, **options: read_cloud(save("cloud.pcd", data), **options)


# --- against pypcd4


def oracle_file(path: Path, columns: dict[str, np.ndarray], kind: str) -> Oracle:
    """What pypcd4 reads in a file that pypcd4 wrote."""
    types = [column.dtype.type for column in columns.values()]
    Oracle.from_points(tuple(columns.values()), tuple(columns), types).save(path, Encoding(kind))
    return Oracle.from_path(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("xyz", ["f4", "f8", "i2", "i4"])
def test_files_of_pypcd4_read_as_it_reads_them(tmp_path, kind, xyz):
    """Every type that it has but the widest integers in text, which it reads by way of float64."""
    codes = [code for code in NUMBERS if kind != "ascii" or code not in ("i8", "u8")]
    columns = {axis: random_values(xyz, N, i) for i, axis in enumerate("xyz")}
    columns |= {f"c_{code}": random_values(code, N, 9) // (4 if kind == "binary_compressed" else 1) for code in codes}
    columns |= {f"same_{i}": np.full(N, i, np.uint8) for i in range(200)} if kind == "binary_compressed" else {}  # or it would not compress
    columns = {name: column.astype(xyz if name in "xyz" else column.dtype) for name, column in columns.items()}
    found = oracle_file(tmp_path / "a.pcd", columns, kind).pc_data
    assert f"DATA {kind}\n".encode() in (tmp_path / "a.pcd").read_bytes()
    rows = table_of(tmp_path / "a.pcd")
    assert names_of(rows) == tuple(columns)
    for name in columns:
        assert rows.dtype[name] == found.dtype[name]
        assert rows[name].tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_more_points_than_a_block(tmp_path, kind):
    n = BLOCK_ROWS + 77
    rng = np.random.default_rng(0)
    columns = {axis: rng.integers(-5000, 5000, n).astype("f4") / 8 for axis in "xyz"} | {"intensity": rng.integers(0, 256, n).astype("f4")}
    found = oracle_file(tmp_path / "a.pcd", columns, kind).pc_data
    cloud = read_cloud(tmp_path / "a.pcd")
    for i, axis in enumerate("xyz"):
        np.testing.assert_array_equal(cloud.xyz[:, i], found[axis])
    np.testing.assert_array_equal(cloud.intensity, found["intensity"])


@pytest.mark.data
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_scan(tmp_path, data_dir, kind):
    """A KITTI scan, written as PCD by pypcd4, is the scan."""
    scan = data_dir / "semantickitti" / "sequences" / "08" / "velodyne" / "000000.bin"
    rows = np.fromfile(scan, "<f4").reshape(-1, 4)
    found = oracle_file(tmp_path / "a.pcd", dict(zip(("x", "y", "z", "intensity"), rows.T, strict=True)), kind).pc_data
    cloud, original = read_cloud(tmp_path / "a.pcd"), read_cloud(scan)
    for i, axis in enumerate("xyz"):
        np.testing.assert_array_equal(cloud.xyz[:, i], found[axis])
    np.testing.assert_array_equal(cloud.intensity, found["intensity"])
    if kind != "ascii":  # it writes ten decimals
        assert cloud.xyz.tobytes() == original.xyz.tobytes()
        assert cloud.intensity is not None
        assert original.intensity is not None
        assert cloud.intensity.tobytes() == original.intensity.tobytes()


# --- dialects


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", NUMBERS)
def test_every_type(read, kind, code):
    cloud = read(pcd([*cube(), ("c", code, random_values(code, 8))], kind))
    assert cloud.extra["c"].dtype == code
    np.testing.assert_array_equal(cloud.extra["c"], random_values(code, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["f4", "f8", "i2", "i4"])
def test_coordinates(read, kind, code):
    cloud = read(pcd(cube(code), kind))
    np.testing.assert_array_equal(cloud.xyz.T, [values for _, _, values in cube()])
    assert cloud.xyz.dtype == (np.float64 if code in ("f8", "i4") else np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_several_values(read, kind):
    """As PCL lays them out: in compressed files, too, the values of a point stand together."""
    histogram = random_values("f4", (8, 33))
    cloud = read(pcd([*cube(), ("fpfh", "f4", histogram), ("ring", "u2", np.arange(8))], kind))
    assert list(cloud.extra) == [*(f"fpfh_{i}" for i in range(33)), "ring"]
    np.testing.assert_array_equal(np.stack([cloud.extra[f"fpfh_{i}"] for i in range(33)], axis=1), histogram)
    np.testing.assert_array_equal(cloud.extra["ring"], np.arange(8))


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_several_values_that_are_taken(read, kind):
    fields = [*cube(), ("a", "u1", np.arange(16).reshape(8, 2)), ("A_0", "u1", np.arange(8)), ("a_1", "u1", np.arange(8))]
    extra = read(pcd(fields, kind)).extra
    assert list(extra) == ["a_0_", "a_1_", "A_0", "a_1"]
    np.testing.assert_array_equal(extra["a_1_"], np.arange(1, 16, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_no_column(read, kind):
    padding = ("_", "u1", np.full((8, 4), 7))
    cloud = read(pcd([padding, *cube(), padding, ("i", "u2", np.arange(8)), ("_", "f8", np.full(8, 0.5))], kind))
    np.testing.assert_array_equal(cloud.xyz.T, [values for _, _, values in cube()])
    assert list(cloud.extra) == ["i"]
    np.testing.assert_array_equal(cloud.extra["i"], np.arange(8))


def test_padding_may_be_left_out_where_it_is_compressed(read):
    fields = [("_", "u1", np.full((8, 4), 7)), *cube(), ("_", "u1", np.full(8, 7)), ("i", "u2", np.arange(8))]
    cloud = read(header_of(fields, "binary_compressed", 8) + body_of(fields, "binary_compressed", bare=True))
    np.testing.assert_array_equal(cloud.xyz.T, [values for _, _, values in cube()])
    np.testing.assert_array_equal(cloud.extra["i"], np.arange(8))


def test_much_padding_that_is_left_out_costs_nothing(read):
    """200 kB that announce 1.4 million points of 12 bytes and 16 kB of padding."""
    longest = 63_636
    n = 2 + 22 * longest
    packed = b"\x17" + bytes(24) + b"\xe0\xff\x00" * longest  # 24 bytes, and 264 more each time
    fields = [*cube(), ("_", "f8", np.zeros((8, 2000)))]
    data = header_of(fields, "binary_compressed", n) + struct.pack("<2I", len(packed), 12 * n) + packed
    start = time.process_time()
    assert len(read(data)) == n
    assert time.process_time() - start < PROMPT_S


def test_padding_in_text_need_not_be_numbers(read):
    fields = [*cube(), ("_", "u1", np.zeros((8, 2)))]
    body = b"".join(b"%d %d %d - ?\n" % tuple(row) for row in np.stack([values for _, _, values in cube()], axis=1).tolist())
    np.testing.assert_array_equal(read(header_of(fields, "ascii", 8) + body).xyz.T, [values for _, _, values in cube()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["f4", "u4", "i4"])
@pytest.mark.parametrize("name", ["rgb", "RGB"])
def test_packed_colours(read, kind, code, name):
    """The float of a colour is mostly a denormal number, which text must keep, too."""
    cloud = read(pcd([*cube(), (name, code, COLOURS.view(code)), ("intensity", "f4", np.arange(8))], kind))
    np.testing.assert_array_equal(cloud.rgb, np.stack([COLOURS >> 16, COLOURS >> 8 & 255, COLOURS & 255], axis=1))
    np.testing.assert_array_equal(cloud.intensity, np.arange(8))
    assert not cloud.extra


@pytest.mark.parametrize("kind", KINDS)
def test_packed_colours_with_alpha(read, kind):
    cloud = read(pcd([*cube(), ("rgba", "u4", COLOURS | np.uint32(0x80000000))], kind))
    np.testing.assert_array_equal(cloud.rgb, np.stack([COLOURS >> 16, COLOURS >> 8 & 255, COLOURS & 255], axis=1))
    assert list(cloud.extra) == ["alpha"]
    assert set(cloud.extra["alpha"].tolist()) == {128}


def test_a_text_colour_of_the_librarys_manual(read):
    """0.93773 0.33763 0 4.2108e+06 is its first point: grey."""
    fields: Fields = [*cube(), ("rgb", "f4", np.zeros(8))]
    data = header_of(fields, "ascii", 2, VERSION=".7") + b"0.93773 0.33763 0 4.2108e+06\n0.90805 0.35641 0 4.2108e+06\n"
    cloud = read(data)
    np.testing.assert_array_equal(cloud.xyz[0], np.array([0.93773, 0.33763, 0], "f4"))
    bits = int(np.float32(4.2108e06).view(np.uint32))
    assert cloud.rgb.tolist() == [[bits >> 16 & 255, bits >> 8 & 255, bits & 255]] * 2
    assert bits >> 16 & 255 == 128


def test_colours_that_are_there_twice_stay_apart(read):
    """The one packed field that is unpacked is the first; none is where there are columns of those names."""
    red = ("Red", "u1", np.arange(8))
    assert list(read(pcd([*cube(), ("rgb", "f4", COLOURS.view("f4")), red])).extra) == ["rgb", "Red"]
    cloud = read(pcd([*cube(), ("rgb", "f4", COLOURS.view("f4")), ("rgba", "u4", COLOURS[::-1])]))
    assert cloud.rgb[1].tolist() == [255, 0, 0]
    np.testing.assert_array_equal(cloud.extra["rgba"], COLOURS[::-1])


def test_what_only_is_called_a_colour(read):
    assert list(read(pcd([*cube(), ("rgb", "u2", np.arange(8))])).extra) == ["rgb"]
    assert list(read(pcd([*cube(), ("rgb", "f4", np.zeros((8, 3)))])).extra) == ["rgb_0", "rgb_1", "rgb_2"]


@pytest.mark.parametrize("kind", KINDS)
def test_organised_clouds_keep_the_points_where_nothing_came_back(read, kind):
    fields = cube()
    fields[2] = ("z", "f4", np.array([np.nan, 1, 2, 3] * 2))
    cloud = read(pcd(fields, kind, WIDTH="4", HEIGHT="2", VIEWPOINT="1 2 3 1 0 0 0"))
    np.testing.assert_array_equal(cloud.xyz[:, 2], fields[2][2])


@pytest.mark.parametrize(
    "lines",
    [
        {"COUNT": ""},
        {"COUNT": "", "VIEWPOINT": "", "VERSION": ".5"},
        {"SIZE": "", "TYPE": "", "COUNT": ""},
        {"VERSION": "", "VIEWPOINT": ""},
        {"POINTS": ""},
        {"WIDTH": "", "HEIGHT": ""},
        {"HEIGHT": ""},
        {"TYPE": "f f f"},
        {"FIELDS": "", "SIZE": "", "TYPE": "", "COUNT": "", "COLUMNS": "x y z", "DATA": "ASCII"},
        {"METADATA": "of a later version"},
    ],
)
def test_headers_of_other_versions_and_writers(read, lines):
    np.testing.assert_array_equal(read(pcd(cube(), "ascii", **lines)).xyz.T, [values for _, _, values in cube()])


@pytest.mark.parametrize("kind", KINDS)
def test_lines_that_end_as_elsewhere(read, kind):
    head = header_of(cube(), kind, 8).replace(b"\n", b"\r\n").replace(b"FIELDS", b"\r\n  # by hand\r\n\t FIELDS").replace(b"x y", b"x \t y")
    body = body_of(cube(), kind)
    np.testing.assert_array_equal(read(head + body).xyz.T, [values for _, _, values in cube()])
    if kind == "ascii":
        for end in (b"\r\n", b"\r", b" \n\n\n\t"):
            np.testing.assert_array_equal(read(head + body.replace(b"\n", end)).xyz.T, [values for _, _, values in cube()])
        np.testing.assert_array_equal(read(head + body.rstrip()).xyz.T, [values for _, _, values in cube()])


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_points_is_no_matter(read, kind):
    np.testing.assert_array_equal(read(pcd(cube(), kind) + b"\n1 2 \xff").xyz.T, [values for _, _, values in cube()])


def test_text_of_every_notation(read):
    head = header_of([*cube(), ("i", "u1", np.zeros(8)), ("w", "i8", np.zeros(8))], "ascii", 3)
    cloud = read(head + b"1e1 -2.5E-3 +3 255.0 -9223372036854775808\n nan inf -inf\t1 9223372036854775807 \n.5 1. -0 7 1e3\n")
    np.testing.assert_array_equal(cloud.xyz, np.array([[10, -0.0025, 3], [np.nan, np.inf, -np.inf], [0.5, 1, 0]], "f4"))
    np.testing.assert_array_equal(cloud.extra["i"], [255, 1, 7])
    np.testing.assert_array_equal(cloud.extra["w"], [-(1 << 63), (1 << 63) - 1, 1000])


def test_names_in_any_script(read):
    data = pcd([*cube(), ("höhe", "u1", np.arange(8)), ("k", "u1", np.arange(8))])
    assert list(read(data).extra) == ["höhe", "k"]
    assert list(read(data.replace("höhe".encode(), "höhe".encode("latin-1"))).extra) == ["höhe", "k"]


def test_rows_of_very_many_values(read):
    n = BLOCK_BYTES // (1980 * 4) + 5
    descriptor = np.arange(n * 1980, dtype="f4").reshape(n, 1980)
    fields = [*((axis, "f4", np.arange(n)) for axis in "xyz"), ("descriptor", "f4", descriptor)]
    for kind in KINDS[1:]:
        cloud = read(pcd(fields, kind))
        np.testing.assert_array_equal(cloud.extra["descriptor_1979"], descriptor[:, 1979])
        assert len(cloud.extra) == 1980


@pytest.mark.parametrize(
    ("name", "content_type", "head", "expected"),
    [
        ("a.PCD", None, b"", "pcd"),
        ("scan.pcd.bin", "application/pcd", b"# .PCD", "nuscenes"),
        (None, "application/x-pcd; charset=binary", b"", "pcd"),
        (None, None, b"# .PCD v.7", "pcd"),
        (None, None, b"\n# .PCD v.7", "pcd"),
        (None, None, b"#.PCD v.7", "pcd"),
        (None, None, b"VERSION .7\nFIELDS x y z\n", "pcd"),
        (None, None, b"FIELDS x y z\n", "pcd"),
    ],
)
def test_how_the_format_is_told(name, content_type, head, expected):
    assert choose_format(None, name, content_type, head=head) == expected


# --- bad files


@pytest.mark.parametrize(
    ("lines", "error", "where"),
    [
        ({"FIELDS": "x y"}, BadHeader, "SIZE"),
        ({"FIELDS": "x y w"}, MissingCoordinates, "z"),
        ({"FIELDS": "x y x"}, BadHeader, "FIELDS"),
        ({"FIELDS": "", "SIZE": "", "TYPE": "", "COUNT": ""}, BadHeader, "FIELDS"),
        ({"SIZE": "4 4 3"}, BadHeader, "TYPE"),
        ({"SIZE": "4 4 2"}, BadHeader, "TYPE"),
        ({"SIZE": "4 4 -4"}, BadHeader, "TYPE"),
        ({"TYPE": "F F X"}, BadHeader, "TYPE"),
        ({"TYPE": "F F"}, BadHeader, "TYPE"),
        ({"COUNT": "1 1 0"}, BadHeader, "COUNT"),
        ({"COUNT": "1 1 -1"}, BadHeader, "COUNT"),
        ({"COUNT": "1 1 2.5"}, BadHeader, "COUNT"),
        ({"COUNT": "1 1 2049"}, HeaderTooLarge, "COUNT"),
        ({"COUNT": "1 1 999999999999999999"}, HeaderTooLarge, "COUNT"),
        ({"FIELDS": "x y z _", "SIZE": "4 4 4 8", "TYPE": "F F F U", "COUNT": "1 1 1 999999999999999999"}, HeaderTooLarge, "COUNT"),
        ({"WIDTH": "9"}, BadHeader, "POINTS"),
        ({"HEIGHT": "0"}, BadHeader, "POINTS"),
        ({"WIDTH": "", "POINTS": ""}, BadHeader, "header"),
        ({"WIDTH": "8 1"}, BadHeader, "WIDTH"),
        ({"POINTS": "9" * 19}, BadHeader, "POINTS"),
        ({"HEIGHT": "0", "POINTS": "0"}, NoPoints, None),
        ({"WIDTH": "9" * 18, "HEIGHT": "9" * 18, "POINTS": ""}, TruncatedFile, None),
        ({"WIDTH": "9", "POINTS": "9"}, TruncatedFile, None),
        ({"WIDTH": "9" * 18, "POINTS": "", "DATA": "binary_compressed"}, BadBody, "body"),
        ({"DATA": "binary_zipped"}, BadHeader, "DATA"),
        ({"DATA": "", "Points": "8"}, BadHeader, None),
        ({"width": "8"}, BadHeader, "line 11"),
    ],
)
def test_headers_that_cannot_be(save, lines, error, where):
    with pytest.raises(error) as caught, open_cloud(save("a.pcd", pcd(cube(), "binary", **lines))):
        pass
    assert caught.value.where == where


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_that_are_cut_off(read, kind):
    data = pcd(cube(), kind).rstrip(b"\n")
    for cut in range(len(header_of(cube(), kind, 8)), len(data) - (2 if kind == "ascii" else 0), 3):
        with pytest.raises((TruncatedFile, BadBody)):
            read(data[:cut])


@pytest.mark.parametrize("kind", KINDS)
def test_more_points_than_wanted(read, kind):
    with pytest.raises(TooManyPoints, match="8 points, the limit is 7"):
        read(pcd(cube(), kind), max_points=7)
    assert len(read(pcd(cube(), kind), max_points=8)) == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1 2", "2 values where 3 are announced"),
        (b"1 2 3 4", "4 values where 3 are announced"),
        (b"1 2 three", "three"),
        (b"1 2 1_0", "1_0"),
        (b"1,2,3", "1 values"),
        (b"1 2 3 # last", "5 values"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(read, line, message):
    n = ROWS_AT_A_TIME + 10
    rows = [b"10 20 30"] * n
    rows[-4] = line
    with pytest.raises(BadBody, match=message) as caught:
        read(header_of(cube(), "ascii", n) + b"\n".join(rows))
    assert caught.value.where == f"point {n - 4}"


@pytest.mark.parametrize(("text", "code"), [(b"256", "u1"), (b"-1", "u2"), (b"0.5", "i4"), (b"nan", "u4"), (b"1e300", "i8")])
def test_what_a_whole_number_does_not_hold(read, text, code):
    head = header_of([*cube(), ("c", code, np.zeros(8))], "ascii", 2)
    with pytest.raises(BadBody) as caught:
        read(head + b"1 2 3 4\n1 2 3 " + text)
    assert caught.value.where == "point 1"


def compressed(packed: bytes, plain_bytes: int, n: int, packed_bytes: int | None = None) -> bytes:
    sizes = struct.pack("<2I", len(packed) if packed_bytes is None else packed_bytes, plain_bytes)
    return header_of(cube(), "binary_compressed", n) + sizes + packed


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (compressed(bytes(9), 95, 8), BadBody, "8 points take 96 bytes"),
        (compressed(bytes(9), 96, 8, 10), TruncatedFile, "10 bytes of compressed data are announced"),
        (compressed(bytes(9), 12 * 67, 67), BadBody, "9 bytes of compressed data cannot hold 804"),
        (compressed(bytes(9), 12 * 300_000_000, 300_000_000), BadBody, "cannot hold"),
        (compressed(b"\x1f" + bytes(32), 96, 8), BadBody, "does not hold the 96 bytes"),
        (compressed(b"\x1f" + bytes(8), 96, 8), BadBody, "damaged"),
        (compressed(b"\x00a\x20\xff", 96, 8), BadBody, "damaged"),
        (compressed((b"\x1f" + bytes(32)) * 4, 96, 8), BadBody, "does not hold the 96 bytes"),
    ],
)
def test_compressed_data_that_cannot_be(save, data, error, message):
    path = save("a.pcd", data)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            read_cloud(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_most_that_can_be_compressed_is_read(read):
    """As dense as LZF can be: a literal and then only the longest repetitions, 264 bytes in three."""
    n = 22_000  # 264 000 bytes
    packed = b"\x00\x00" + b"\xe0\xff\x00" * 999 + b"\xe0\xfe\x00"
    assert not read(compressed(packed, 12 * n, n)).xyz.any()


@pytest.mark.parametrize(
    "head",
    [
        b"# .PCD v0.7\n" + b"# comment\n" * 10_000,
        b"VERSION 0.7\n" + b"\n" * 70_000,
        b"VERSION 0.7\n" + b" " * 70_000,
        b"VERSION 0.7\nFIELDS " + b"_ " * 40_000,
        b"FIELDS x y z\n" + b"DATA" * 20_000,
    ],
)
def test_headers_without_an_end(read, head):
    start = time.process_time()
    with pytest.raises((HeaderTooLarge, BadHeader)):
        read(head + b"\nDATA ascii\n1 2 3\n")
    assert time.process_time() - start < PROMPT_S


@pytest.mark.parametrize("word", [b"_", b"a%d"])
def test_too_many_fields(read, word):
    names = b" ".join(word % i if b"%" in word else word for i in range(254))
    with pytest.raises(HeaderTooLarge, match="256 fields"):
        read(b"FIELDS x y z " + names + b"\nWIDTH 1\nDATA ascii\n" + b"1 " * 257)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0" + bytes(500), b"hello, world\n", b"\0", b"DATA", b"\n", bytes(100_000)])
def test_other_files(read, data):
    with pytest.raises(BadHeader):
        read(data)


# --- damaged files


def whole_files() -> dict[str, bytes]:
    fields = [
        ("_", "u1", np.full((8, 3), 7)),
        *cube(),
        ("rgb", "f4", COLOURS.view("f4")),
        ("h", "i2", np.arange(16).reshape(8, 2)),
        ("t", "f8", np.full(8, 0.5)),
    ]
    return {kind: pcd(fields, kind, WIDTH="4", HEIGHT="2") for kind in KINDS}


FILES = whole_files()
COUNTS = [b"0", b"1", b"-1", b"7", b"257", b"4096", b"2147483648", b"9" * 18, b"9" * 19, b"9" * 4300, b"1_0", b"\xb2"]
INSERTED = [b"\0", b"9" * 12, b"-", b"\n", b"\r", b" ", b"nan ", b"_ ", b"rgba ", b"\xff" * 8, b"1e9"]
edit = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 60), st.sampled_from(COUNTS)),
    st.tuples(st.just("flip"), st.integers(0, 1 << 16), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.integers(1, 40)),
    st.tuples(st.just("put"), st.integers(0, 1 << 16), st.sampled_from(INSERTED)),
)


def damaged(data: bytes, edits: list[tuple[str, int, int | bytes]]) -> bytes:
    out = bytearray(data)
    for kind, place, value in edits:
        at = place % (len(out) + 1)
        if isinstance(value, bytes) and kind == "count":
            if numbers := list(re.finditer(rb"\d+", bytes(out[:300]))):
                out[slice(*numbers[place % len(numbers)].span())] = value
        elif isinstance(value, bytes):
            out[at:at] = value
        elif kind == "flip" and at < len(out):
            out[at] ^= value
        elif kind == "cut":
            del out[at : at + value]
    return bytes(out)


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_good_to_begin_with(read, kind):
    cloud = read(FILES[kind]).checked()
    assert list(cloud.extra) == ["h_0", "h_1", "t"]
    assert cloud.rgb is not None


@given(st.sampled_from(KINDS), st.lists(edit, min_size=1, max_size=4))
def test_only_fip_errors_and_little_memory(tmp_path_factory, kind, edits):
    path = tmp_path_factory.getbasetemp() / "fuzz.pcd"
    path.write_bytes(damaged(FILES[kind], edits))
    tracemalloc.start()
    try:
        with contextlib.suppress(FipError):
            assert len(read_cloud(path).checked())
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_compressed_bytes(tmp_path_factory, packed, n):
    path = tmp_path_factory.getbasetemp() / "lzf.pcd"
    path.write_bytes(compressed(packed, 12 * n, n))
    with contextlib.suppress(FileError):
        assert len(read_cloud(path)) == n


def test_open_files_in_memory_order(save):
    """Reading goes through the file again and again, with the same rows."""
    for kind in KINDS:
        with open_cloud(save("a.pcd", FILES[kind])) as file:
            first = b"".join(np.array(table["t"]).tobytes() for table in file.records.read())
            assert first == b"".join(np.array(table["t"]).tobytes() for table in file.records.read())
            assert io.BytesIO(first).getbuffer().nbytes == 64
