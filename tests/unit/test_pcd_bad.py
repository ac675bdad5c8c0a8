"""PCD that cannot be, or is damaged."""

import contextlib
import io
import re
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from models.io import open_cloud, read_cloud
from models.io.source import ROWS_AT_A_TIME
from tests.fire import PROMPT_S
from tests.pcd_files import COLOURS, KINDS, cube, header_of, pcd


@pytest.fixture
def read(save):
    return lambda data, **options: read_cloud(save("cloud.pcd", data), **options)


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
