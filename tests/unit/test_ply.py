"""PLY of every dialect, against files written value by value; the comparison with plyfile is in integration/test_ply_zoo."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadBody, BadHeader, FileError, HeaderTooLarge, MissingCoordinates, NonFinite, NoPoints, TruncatedFile
from models.io import read_cloud
from models.io.source import ROWS_AT_A_TIME, Source

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")


def ply(
    rows: np.ndarray, names: str = "x y z", kind: str = "float", form: str = "binary_little_endian", eol: str = "\n", lead: str = ""
) -> bytes:
    """A PLY of one vertex element whose properties are all of one kind."""
    code = {"float": "f4", "double": "f8", "int": "i4", "short": "i2", "uchar": "u1", "ushort": "u2"}[kind]
    lines = ["ply", f"format {form} 1.0", f"element vertex {len(rows)}", *(f"property {kind} {name}" for name in names.split())]
    header = eol.join([*lines, "end_header", ""]).encode() + lead.encode()
    if form == "ascii":
        return header + eol.join(" ".join(str(value) for value in row) for row in rows.tolist()).encode() + eol.encode()
    return header + rows.astype((">" if "big" in form else "<") + code).tobytes()


@pytest.fixture
def read(tmp_path: Path):
    def read_bytes(data: bytes):
        path = tmp_path / "cloud.ply"
        path.write_bytes(data)
        return read_cloud(path)

    return read_bytes


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["float", "double", "int", "short"])
@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
def test_coordinates(read, form, kind, eol):
    cloud = read(ply(CUBE * 100 - 3, kind=kind, form=form, eol=eol))
    np.testing.assert_array_equal(cloud.xyz, CUBE * 100 - 3)
    assert cloud.xyz.dtype == (np.float64 if kind in ("double", "int") else np.float32)
    assert cloud.xyz.flags.c_contiguous
    assert cloud.xyz.dtype.isnative


def test_a_double_keeps_its_digits(read):
    far = np.array([[456123.123456789, 5432100.987654321, 1e-9]])
    for form in FORMATS:
        np.testing.assert_array_equal(read(ply(far, kind="double", form=form)).xyz, far)


KINDS = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d"}
Rows = list[list[int | list[int]]]


def encoded(elements: list[tuple[str, list[str], Rows]], form: str) -> bytes:
    """A PLY written value by value with struct."""
    lines = ["ply", f"format {form} 1.0"]
    parts: list[bytes] = []
    order = ">" if "big" in form else "<"
    for name, columns, rows in elements:
        lines += [f"element {name} {len(rows)}", *(f"property {column}" for column in columns)]
        for row in rows:
            words = []
            for column, value in zip(columns, row, strict=True):
                kinds = column.split()[:-1]
                if kinds[0] == "list":
                    assert isinstance(value, list)
                    words += [(kinds[1], len(value)), *((kinds[2], each) for each in value)]
                else:
                    assert isinstance(value, int)
                    words.append((kinds[0], value))
            if form == "ascii":
                parts.append(" ".join(str(value) for _, value in words).encode() + b"\n")
            else:
                parts += [struct.pack(order + KINDS[kind], value) for kind, value in words]
    return "\n".join([*lines, "end_header", ""]).encode() + b"".join(parts)


@st.composite
def elements(draw: st.DrawFn) -> list[tuple[str, list[str], Rows]]:
    """x, y, z among other columns and lists in any order; faces of equal or mixed sizes and a camera before or after."""
    number = st.integers(0, 100)
    kind = st.sampled_from(sorted(KINDS))
    columns = [f"{draw(kind)} {name}" for name in ("x", "y", "z", *(f"c{i}" for i in range(draw(st.integers(0, 3)))))]
    columns += [
        f"list {draw(st.sampled_from(['uchar', 'char', 'int', 'ushort']))} {draw(kind)} l{i}" for i in range(draw(st.integers(0, 2)))
    ]
    columns = draw(st.permutations(columns))
    lengths = st.just(3) if draw(st.booleans()) else st.integers(0, 4)

    def value(column: str) -> int | list[int]:
        if not column.startswith("list"):
            return draw(number)
        length = draw(lengths)
        return draw(st.lists(number, min_size=length, max_size=length))

    def rows(of: list[str], least: int) -> Rows:
        return [[value(column) for column in of] for _ in range(draw(st.integers(least, 5)))]

    face, camera = ["list uchar int vertex_indices", "uchar flag"], ["float view", "double roll"]
    return draw(
        st.permutations([("vertex", columns, rows(columns, 1)), ("face", face, rows(face, 0)), ("camera", camera, rows(camera, 0))])
    )


@given(elements(), st.sampled_from(FORMATS))
def test_reads_back_what_was_written(tmp_path_factory, found, form):
    path = tmp_path_factory.mktemp("ply") / "cloud.ply"
    path.write_bytes(encoded(found, form))
    columns, rows = next((columns, rows) for name, columns, rows in found if name == "vertex")
    written = {
        column.split()[-1]: np.array([row[i] for row in rows], KINDS[column.split()[0]])
        for i, column in enumerate(columns)
        if not column.startswith("list")
    }
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, np.stack([written.pop(axis) for axis in "xyz"], axis=1))
    assert set(cloud.extra) == set(written)
    for name, column in written.items():
        np.testing.assert_array_equal(cloud.extra[name], column)
        assert cloud.extra[name].dtype == column.dtype


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", ["red green blue", "diffuse_red diffuse_green diffuse_blue", "r g b", "Red Green Blue"])
def test_colour_names(read, form, names):
    rows = np.hstack([CUBE, CUBE * 250]).astype(np.uint8)
    cloud = read(ply(rows, f"x y z {names}", "uchar", form))
    np.testing.assert_array_equal(cloud.rgb, CUBE * 250)
    assert not cloud.extra


@pytest.mark.parametrize(
    ("kind", "top"), [("float", 1.0), ("float", 255.0), ("double", 1.0), ("ushort", 65535), ("int", 255), ("uchar", 255)]
)
def test_colour_ranges(read, kind, top):
    rows = np.hstack([CUBE, CUBE * top])
    np.testing.assert_array_equal(read(ply(rows, "x y z red green blue", kind)).rgb, CUBE * 255)


@pytest.mark.parametrize(("kind", "value"), [("float", -1.0), ("float", 300.0), ("int", 70000), ("int", -1)])
def test_colours_out_of_range(read, kind, value):
    with pytest.raises(BadBody, match="colours must lie"):
        read(ply(np.hstack([CUBE, np.full((8, 3), value)]), "x y z red green blue", kind))


def test_a_colour_that_is_no_number(read):
    with pytest.raises(NonFinite):
        read(ply(np.hstack([CUBE, CUBE * np.nan]), "x y z red green blue"))


@pytest.mark.parametrize("name", ["intensity", "scalar_Intensity", "reflectance", "remission", "scalar_Reflectance"])
@pytest.mark.parametrize("kind", ["float", "ushort", "double"])
def test_intensity_names(read, name, kind):
    rows = np.hstack([CUBE, np.arange(8)[:, None]])
    cloud = read(ply(rows, f"x y z {name}", kind))
    np.testing.assert_array_equal(cloud.intensity, np.arange(8))
    assert cloud.intensity.dtype == np.float32


def test_further_columns_are_kept(read):
    for form in FORMATS:
        cloud = read(ply(np.hstack([CUBE, CUBE + 7]), "nx x ny y nz z", form=form))
        np.testing.assert_array_equal(cloud.xyz[:, 0], CUBE[:, 1])
        np.testing.assert_array_equal(cloud.extra["nz"], CUBE[:, 1] + 7)
        assert all(column.dtype.isnative for column in cloud.extra.values())


def test_a_binary_body_after_a_header_that_ends_in_cr_lf(read):
    data = ply(CUBE).replace(b"end_header\n", b"end_header\r\n")
    np.testing.assert_array_equal(read(data).xyz, CUBE)


def test_a_body_that_begins_with_the_byte_of_a_line_end(read):
    for first in (b"\n\0\0\0", b"\r\0\0\0", b"\r\n\0\0"):
        value = struct.unpack("<f", first)[0]
        rows = np.array([[value, 1, 2]], np.float32)
        for eol in ("\n", "\r\n") + (("\r",) if first[:1] == b"\n" else ()):
            np.testing.assert_array_equal(read(ply(rows, eol=eol)).xyz, rows)


def test_blanks_comments_and_bool(read):
    header = (
        "ply \nformat  binary_little_endian\t1.0 \ncomment \xe9 end_header\nobj_info made by hand\n element\tvertex 1\n"
        "property bool seen\nproperty float32   x\n\tproperty float y \nproperty f4 z\n end_header \n"
    )
    cloud = read(header.encode("latin-1") + struct.pack("<B3f", 1, 1, 2, 3))
    np.testing.assert_array_equal(cloud.xyz, [[1, 2, 3]])
    np.testing.assert_array_equal(cloud.extra["seen"], [1])


def test_ascii_dialects(read):
    """Blank lines, blanks at both ends, whole numbers written as decimals, more columns than announced, no last line end."""
    header = ply(np.zeros((4, 4)), "x y z red", "uchar", "ascii").split(b"end_header\n")[0] + b"end_header\n"
    body = b"\n  1 2 3 4  \n\n\t5.0 6 7.0 8e0\r\n9 10 11 12 99 98\n 13 14 15 16"
    np.testing.assert_array_equal(read(header + body).xyz, [[1, 2, 3], [5, 6, 7], [9, 10, 11], [13, 14, 15]])


def test_ascii_nan_and_infinity_are_read_and_then_refused(read):
    cloud = read(ply(CUBE, form="ascii").replace(b"0.0 0.0 0.0", b"nan -inf 1e400"))
    np.testing.assert_array_equal(cloud.xyz[0], [np.nan, -np.inf, np.inf])
    with pytest.raises(NonFinite, match="point 0"):
        cloud.checked()


@pytest.mark.parametrize(
    ("row", "reason"),
    [(b"1 2", "no value for 'z'"), (b"1 2 x", "could not convert"), (b"1 2 1_0", "not a number"), (b"1 2 \xa0", "convert")],
)
def test_ascii_rows_that_cannot_be_read_are_named(read, row, reason):
    with pytest.raises(BadBody, match=reason) as caught:
        read(ply(CUBE, form="ascii").replace(b"1.0 1.0 0.0", row))
    assert caught.value.where == "vertex 6"


@pytest.mark.parametrize("value", [b"256", b"-1", b"1.5", b"nan", b"inf"])
def test_ascii_whole_numbers_must_fit_their_column(read, value):
    with pytest.raises(BadBody, match="vertex 7"):
        read(ply(CUBE.astype(np.uint8), kind="uchar", form="ascii").replace(b"1 1 1", b"1 1 " + value))


@pytest.mark.parametrize("blank", [b"\x1c", b"\x85", b"\xa0", b"\x1f\x1f"])
def test_ascii_rows_of_odd_blanks_only(read, blank):
    with pytest.raises(BadBody):
        read(ply(CUBE, form="ascii").replace(b"0.0 0.0 0.0", blank))
    with pytest.raises(FileError):
        read(ply(CUBE, form="ascii").partition(b"0.0 ")[0] + (blank + b"\n") * 60)


def test_ascii_longer_than_a_block_of_text(read):
    rows = np.random.default_rng(0).random((70_000, 3)).astype(np.float32)
    for eol in ("\n", "\r\n", "\r"):
        np.testing.assert_array_equal(read(ply(rows, form="ascii", eol=eol)).xyz, rows)


def _header(*lines: str) -> bytes:
    return "\n".join(["ply", *lines, "end_header", ""]).encode()


XYZ = ("property float x", "property float y", "property float z")
BINARY, ASCII = "format binary_little_endian 1.0", "format ascii 1.0"
LIST = "property list uchar int l"
REFUSED = {
    "no end": (b"ply\nformat ascii 1.0\n", BadHeader),
    "20 MB without an end": (b"ply\n" + b"comment x\n" * 2_000_000, HeaderTooLarge),
    "20 MB without a line": (b"ply\n" + b"x" * 20_000_000, HeaderTooLarge),
    "an end just past the limit": (b"ply\ncomment " + b"x" * (65536 - 23) + b"\nend_header\n" + bytes(99), HeaderTooLarge),
    "100,000 properties": (_header(ASCII, "element vertex 1", *(f"property float p{i}" for i in range(100_000))), HeaderTooLarge),
    "300 properties": (_header(ASCII, "element vertex 1", *(f"property float p{i}" for i in range(300))), HeaderTooLarge),
    "2e9 vertices": (_header(BINARY, "element vertex 2000000000", *XYZ), TruncatedFile),
    "2e9 vertices in text": (_header(ASCII, "element vertex 2000000000", *XYZ) + b"1 2 3\n", TruncatedFile),
    "2e9 faces first": (_header(BINARY, "element face 2000000000", LIST, "element vertex 1", *XYZ) + bytes(12), TruncatedFile),
    "a list of 2e9": (
        _header(BINARY, "element face 1", "property list int int l", "element vertex 1", *XYZ) + struct.pack("<i", 2 * 10**9) + bytes(20),
        TruncatedFile,
    ),
    "a list of -1": (
        _header(BINARY, "element face 1", "property list int int l", "element vertex 1", *XYZ) + struct.pack("<i", -1) + bytes(20),
        BadBody,
    ),
    "a list of -1 behind one of 1": (
        _header(BINARY, "element face 2", "property list char int l", "element vertex 1", *XYZ) + b"\1\0\0\0\0\xff" + bytes(2000),
        BadBody,
    ),
    "a long list in a vertex": (_header(BINARY, "element vertex 1", *XYZ, LIST) + bytes(12) + b"\xff", TruncatedFile),
    "a list in text": (_header(ASCII, "element vertex 1", *XYZ, LIST) + b"1 2 3 4 5\n", BadBody),
    "a negative list in text": (_header(ASCII, "element vertex 1", LIST, *XYZ) + b"-2 1 2 3 4 5\n", BadBody),
    "1e17 vertices": (_header(BINARY, f"element vertex {10**17}", *XYZ), TruncatedFile),
    "1e18 vertices": (_header(BINARY, f"element vertex {10**18}", *XYZ), BadHeader),
    "vertices of 4300 digits": (_header(BINARY, "element vertex " + "9" * 4300, *XYZ), BadHeader),
    "vertices of 5000 digits": (_header(BINARY, "element vertex " + "9" * 5000, *XYZ), BadHeader),
    "65 elements": (_header(BINARY, *["element face 0"] * 64, "element vertex 0", *XYZ), HeaderTooLarge),
    "one byte short": (_header(BINARY, "element vertex 2", *XYZ) + bytes(23), TruncatedFile),
    "one row short": (_header(ASCII, "element vertex 2", *XYZ) + b"0.0000 0.0000 0.0000\n", TruncatedFile),
    "a negative count": (_header(ASCII, "element vertex -1", *XYZ), BadHeader),
    "a count that is no number": (_header(ASCII, "element vertex 1_0", *XYZ), BadHeader),
    "an unknown type": (_header(ASCII, "element vertex 1", "property colour x"), BadHeader),
    "a list as long as a float": (_header(ASCII, "element vertex 1", "property list float int x"), BadHeader),
    "a property twice": (_header(ASCII, "element vertex 1", *XYZ, XYZ[0]), BadHeader),
    "a property of nothing": (_header(ASCII, *XYZ), BadHeader),
    "no format": (_header("element vertex 1", *XYZ), BadHeader),
    "an unknown format": (_header("format binary_middle_endian 1.0", "element vertex 1", *XYZ), BadHeader),
    "an unknown word": (_header(ASCII, "vertices 1"), BadHeader),
    "no elements": (_header(ASCII), MissingCoordinates),
    "no vertex element": (_header(ASCII, "element face 0", LIST), MissingCoordinates),
    "no z": (_header(BINARY, "element vertex 1", *XYZ[:2]) + bytes(8), MissingCoordinates),
    "x as a list": (_header(BINARY, "element vertex 1", "property list uchar float x", *XYZ[1:]) + bytes(9), MissingCoordinates),
    "no vertices": (_header(BINARY, "element vertex 0", *XYZ), NoPoints),
    "not a PLY": (b"\xff\xd8\xff\xe0" + bytes(2000), BadHeader),
    "text": (b"plywood\n" * 20, BadHeader),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_once(read, tmp_path, case):
    data, error = REFUSED[case]
    with pytest.raises(error) as caught:
        read(data)
    assert type(caught.value) is error
    took = []
    for _ in range(3):
        started = time.perf_counter()
        with pytest.raises(error):
            read_cloud(tmp_path / "cloud.ply")
        took.append(time.perf_counter() - started)
    assert min(took) < 0.05


def test_a_compressed_splat_is_called_by_its_name(read):
    with pytest.raises(MissingCoordinates, match="Gaussian splat"):
        read(_header(BINARY, "element vertex 1", "property uint packed_position") + bytes(4))


def test_many_rows_of_differing_lists_are_refused(read, monkeypatch):
    body = b"\1\0\0\0\0" + b"\0" + b"\0"
    one = _header(BINARY, "element face 3", LIST, "element vertex 1", *XYZ) + body + bytes(12)
    two = _header(BINARY, "element face 3", LIST, "element edge 3", LIST, "element vertex 1", *XYZ) + 2 * body + bytes(12)
    monkeypatch.setattr("models.io.ply_binary.WALKED_VALUES", 6)
    read(two)
    monkeypatch.setattr("models.io.ply_binary.WALKED_VALUES", 5)
    read(one)
    with pytest.raises(BadBody, match="differing lengths") as caught:
        read(two)
    assert caught.value.where == "element edge"
    monkeypatch.setattr("models.io.ply_binary.WALKED_VALUES", 2)
    with pytest.raises(BadBody, match="differing lengths"):
        read(one)


def test_the_body_is_read_once_however_many_elements_have_lists(tmp_path, monkeypatch):
    elements = [line for i in range(63) for line in (f"element face{i} {i % 2}", LIST)]
    (tmp_path / "cloud.ply").write_bytes(_header(BINARY, *elements, "element vertex 1", *XYZ) + bytes(31 + 12))
    offsets: list[int] = []
    plain_read = Source.read

    def counted(source: Source, offset: int, count: int) -> bytes:
        offsets.append(offset)
        return plain_read(source, offset, count)

    monkeypatch.setattr(Source, "read", counted)
    read_cloud(tmp_path / "cloud.ply")
    assert len([offset for offset in offsets if offset]) == 1


@pytest.mark.parametrize("form", FORMATS[1:])
def test_more_rows_of_differing_lists_than_a_block(read, form):
    rng = np.random.default_rng(0)
    rows: list[list[int | list[int]]] = [
        [i % 256, [0] * int(n), i, i + 1, i + 2] for i, n in enumerate(rng.integers(0, 3, ROWS_AT_A_TIME + 100))
    ]
    columns = ["uchar a", "list uchar int l", "float x", "double y", "int z"]
    cloud = read(encoded([("face", columns, rows), ("vertex", columns, rows)], form))
    np.testing.assert_array_equal(cloud.xyz, np.arange(len(rows))[:, None] + [0, 1, 2])
    np.testing.assert_array_equal(cloud.extra["a"], np.arange(len(rows)) % 256)


def test_what_follows_the_vertices_is_not_read(read):
    data = _header(BINARY, "element vertex 1", *XYZ, "element face 1", LIST) + struct.pack("<3f", 1, 2, 3) + b"\xff"
    np.testing.assert_array_equal(read(data).xyz, [[1, 2, 3]])


@pytest.mark.parametrize(("kind", "bits"), [("float", 0x7FA00001), ("double", 0x7FF4000000000001)])
@pytest.mark.parametrize("form", FORMATS[1:])
@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("count", [1, 1000])
def test_signalling_nans_are_refused_without_a_warning(read, kind, bits, form, column, count):
    names = "x y z red green blue intensity"
    header, body = ply(np.zeros((count, 7)), names, kind, form).split(b"end_header\n")
    place = (count // 2 * 7 + column) * len(body) // (count * 7)
    width = len(body) // (count * 7)
    value = bits.to_bytes(width, "big" if "big" in form else "little")
    with pytest.raises(NonFinite):
        read(header + b"end_header\n" + body[:place] + value + body[place + width :]).checked()


def test_infinite_intensities_of_both_signs_are_refused(read):
    rows = np.hstack([CUBE, np.array([[np.inf], [-np.inf]] * 4)])
    with pytest.raises(NonFinite, match="intensity"):
        read(ply(rows, "x y z intensity")).checked()
