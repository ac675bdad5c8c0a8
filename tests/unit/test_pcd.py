"""PCD of every kind: against pypcd4, and against files written value by value."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from pypcd4.pypcd4 import Encoding
from pypcd4.pypcd4 import PointCloud as Oracle

from models.io import choose_format, read_cloud
from models.io.pcd_body import BLOCK_BYTES
from models.io.records import BLOCK_ROWS
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
