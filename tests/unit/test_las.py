"""LAS and LAZ against laspy, to the last bit; and files that announce what they do not hold."""

import io
import random
import struct
import time
import tracemalloc

import laspy
import lazrs
import numpy as np
import pytest
from laspy import ExtraBytesParams as Extra

from models.errors import BadBody, BadHeader, FileError, FipError, HeaderTooLarge, NoPoints, TooManyPoints, TruncatedFile, UnsupportedFormat
from models.io import choose_format, open_cloud, read_cloud
from models.io.las_columns import COLUMNS
from models.io.las_header import is_compressed
from models.io.laz import MOST_EXTRA, VLR, _lazrs
from models.io.records import BLOCK_ROWS
from tests.las_files import LAYOUTS, bytes_of, columns_of, las_bytes, las_data, number_at, patched, points_at, record_at

KINDS = ("las", "laz")


def table_of(path) -> np.ndarray:
    """All rows of a file."""
    with open_cloud(path) as file:
        return np.concatenate([table.copy() for table in file.records.read()])


def names_in(table: np.ndarray) -> list[str]:
    return list(table.dtype.names or ())


def same_columns(table: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    assert names_in(table) == list(expected)
    for name, column in expected.items():
        assert table[name].dtype == column.dtype, name
        assert table[name].tobytes() == column.tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("version", "number"), LAYOUTS)
def test_every_field_as_laspy_reads_it(save, version, number, kind):
    path = save(f"a.{kind}", las_bytes(number, version, compressed=kind == "laz"))
    las = laspy.read(path)
    same_columns(table_of(path), columns_of(las))
    cloud = read_cloud(path)
    assert cloud.xyz.tobytes() == las.xyz.tobytes()
    np.testing.assert_array_equal(cloud.intensity, las.intensity)
    if "red" in las.point_format.dimension_names:
        assert cloud.rgb is not None
        np.testing.assert_array_equal(cloud.rgb[:, 0], np.rint(las.red * (255 / 65535)))
    else:
        assert cloud.rgb is None
    lean = read_cloud(path, extra=False)
    assert not lean.extra
    for found, expected in ((lean.xyz, cloud.xyz), (lean.rgb, cloud.rgb), (lean.intensity, cloud.intensity)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("number", [0, 1])
def test_las_1_0(save, number):
    data = patched(las_bytes(number, "1.1"), 25, "B", 0)
    same_columns(table_of(save("a.las", data)), columns_of(laspy.read(io.BytesIO(data))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [3, 7])
def test_more_points_than_a_block_and_a_chunk(save, number, kind):
    path = save(f"a.{kind}", las_bytes(number, "1.4", 2 * BLOCK_ROWS + 5, [], compressed=kind == "laz"))
    with open_cloud(path) as file:
        lengths = [len(table) for table in file.records.read()]
        again = np.concatenate([table.copy() for table in file.records.read()])
    assert sum(lengths) == 2 * BLOCK_ROWS + 5
    assert max(lengths) <= BLOCK_ROWS
    same_columns(again, columns_of(laspy.read(path)))


def test_one_column_of_packed_points(save):
    """Only its layer is unpacked, and that is the same."""
    path = save("a.laz", las_bytes(10, "1.4", compressed=True))
    expected = columns_of(laspy.read(path))
    with open_cloud(path) as file:
        for name, column in expected.items():
            tables = list(file.records.only([name]).read())
            assert tables[0].dtype.names == (name,)
            assert tables[0][name].tobytes() == column.tobytes()


@pytest.mark.parametrize("number", [1, 6])
def test_chunks_of_any_size(save, number):
    """As COPC has them: the table of chunks says how many points each holds."""
    las = las_data(number, "1.4", 1000, [])
    data = bytearray(bytes_of(las_data(number, "1.4", 1, [], seed=1), compressed=True))
    vlr = lazrs.LazVlr.new_for_compression(number, 0, True)
    body, start = record_at(data, b"laszip encoded") + 54, points_at(data)
    data[body : body + len(vlr.record_data())] = vlr.record_data()
    out = io.BytesIO(bytes(data[:start]))
    out.seek(start)
    packer = lazrs.LasZipCompressor(out, vlr)
    for first, last in ((0, 1), (1, 300), (300, 1000)):
        packer.compress_many(las.points.array[first:last].copy().view(np.uint8))
        packer.finish_current_chunk()
    packer.done()
    whole = patched(patched(out.getvalue(), 247, "Q", 1000), 235, "QI", 0, 0)
    same_columns(table_of(save("a.laz", whole)), columns_of(las))


def test_points_in_one_chunk(save):
    """As LASzip 1 wrote them, without a table."""
    plain = las_data(3, "1.2", 500, [])
    data = bytes_of(plain, compressed=True)
    start, record = points_at(data), record_at(data, b"laszip encoded") + 54
    (table,) = struct.unpack_from("<q", data, start)
    data = patched(data[:start] + data[start + 8 : table], record, "H", 1)
    same_columns(table_of(save("a.laz", data)), columns_of(plain))


def test_a_table_of_chunks_that_is_found_from_the_end(save):
    data = las_bytes(3, "1.2", compressed=True)
    (table,) = struct.unpack_from("<q", data, points_at(data))
    moved = patched(data, points_at(data), "q", -1) + struct.pack("<q", table)
    assert table_of(save("a.laz", moved)).tobytes() == table_of(save("b.laz", data)).tobytes()


def test_what_tells_the_format(save):
    assert choose_format(None, None, "application/octet-stream", head=las_bytes(0, "1.2")[:500]) == "las"
    assert choose_format(None, None, "application/vnd.laszip", head=b"") == "las"
    for kind in KINDS:
        with open_cloud(save("a", las_bytes(0, "1.2", compressed=kind == "laz"))) as file:
            assert file.fmt == "las"
            assert is_compressed(file.source) == (kind == "laz")


# --- extra bytes


def test_bytes_that_nothing_describes(save):
    """As laspy calls them; also where the description names fewer bytes than there are."""
    data = las_bytes(2, "1.2", 50, [Extra("a", "u1"), Extra("b", "3u1")])
    described = record_at(data, b"LASF_Spec") + 54
    for change, names in (
        (b"LASF_Spex", ["ExtraBytes_0", "ExtraBytes_1", "ExtraBytes_2", "ExtraBytes_3"]),
        (None, ["a", *names_of("ExtraBytes", 3)]),
    ):
        if change:
            changed = data.replace(b"LASF_Spec", change)
        else:
            changed = patched(data, described - 34, "H", 192)  # the second description is now behind the record
            changed = changed[: described + 192] + changed[described + 384 :]
            changed = patched(changed, 96, "I", points_at(data) - 192)
        table = table_of(save("a.las", changed))
        assert names_in(table)[-4:] == names
        same_columns(table, columns_of(laspy.read(io.BytesIO(changed))))


def names_of(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(count)]


def test_names_that_are_there_already(save):
    names = ["intensity", "x", "", "", "same", "same", "größe", "n" * 32]
    data = bytearray(las_bytes(0, "1.2", 5, [Extra(f"extra{i}", "u1") for i in range(len(names))]))
    at = record_at(data, b"LASF_Spec") + 54
    for i, name in enumerate(names):
        struct.pack_into("32s", data, at + 192 * i + 4, name.encode())
    found = names_in(table_of(save("a.las", bytes(data))))
    assert found[-8:] == ["intensity_2", "x_2", "extra_bytes", "extra_bytes_2", "same", "same_2", "größe", "n" * 32]


def test_a_description_of_nothing_is_passed_over(save):
    data = las_bytes(2, "1.2", 50, [Extra("a", "u1")])
    short = bytearray(patched(data, 105, "H", 26))
    rows = np.frombuffer(data, np.uint8)[points_at(data) :].reshape(50, 27)[:, :26]
    assert "a" not in names_in(table_of(save("a.las", bytes(short[: points_at(data)]) + rows.tobytes())))


def test_more_columns_than_a_file_may_have(save):
    fine = las_bytes(0, "1.2", 2, [Extra(f"e{i}", "u1") for i in range(COLUMNS - 15)])
    assert len(names_in(table_of(save("a.las", fine)))) == COLUMNS
    with pytest.raises(HeaderTooLarge, match="257 columns"):
        read_cloud(save("a.las", las_bytes(0, "1.2", 2, [Extra(f"e{i}", "u1") for i in range(COLUMNS - 14)])))
    plain = las_bytes(0, "1.2", 2, [])
    wide = patched(plain, 105, "H", 20 + 300)[: points_at(plain)] + bytes(2 * 320)
    assert len(names_in(table_of(save("a.las", wide)))) == 15  # bytes that nothing describes are left out


# --- files that are not what they say

LAS = las_bytes(3, "1.4", 40)
LAZ, LAZ6 = las_bytes(3, "1.2", 40, compressed=True), las_bytes(6, "1.4", 40, compressed=True)
OLD = las_bytes(3, "1.2", 40)
PACKED, PACKED6 = record_at(LAZ, b"laszip encoded") + 54, record_at(LAZ6, b"laszip encoded") + 54
DESCRIBED = record_at(OLD, b"LASF_Spec") + 54
TABLE = number_at(LAZ, points_at(LAZ), "q")
LAYERS = points_at(LAZ6) + 8 + number_at(LAZ6, 105, "H") + 4


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (b"LASX" + LAS[4:], BadHeader, "begins with LASF"),
        (LAS[:226], TruncatedFile, "226 bytes are no LAS header"),
        (LAS[:300], TruncatedFile, None),
        (patched(LAS, 24, "BB", 1, 5), UnsupportedFormat, "LAS 1.5 is not read"),
        (patched(LAS, 24, "BB", 2, 0), UnsupportedFormat, "LAS 2.0"),
        (patched(LAS, 94, "H", 374), BadHeader, "a header of 374 bytes"),
        (patched(LAS, 94, "H", 65535), BadHeader, "a header of 65535 bytes"),
        (patched(LAS, 96, "I", 100), BadHeader, "before points at byte 100"),
        (patched(LAS, 96, "I", 0xFFFFFFFF), TruncatedFile, "begin at byte 4294967295"),
        (patched(LAS, 100, "I", 0xFFFFFFFF), HeaderTooLarge, "4294967295 records"),
        (patched(LAS, 100, "I", 4000), TruncatedFile, None),
        (patched(LAS, record_at(LAS, b"somebody") + 20, "H", 65535), TruncatedFile, "VLR"),
        (patched(LAS, 104, "B", 11), BadHeader, "point format 11"),
        (patched(LAS, 104, "B", 0x43), BadHeader, "point format 67"),
        (patched(LAS, 105, "H", 33), BadHeader, "at least 34 bytes, not 33"),
        (patched(LAS, 105, "H", 65535), TruncatedFile, "40 points of 65535 bytes"),
        (patched(LAS, 105, "H", 40), BadHeader, "extra bytes are described"),
        (patched(LAS, 131, "d", float("nan")), BadHeader, "not a finite number"),
        (patched(LAS, 155, "d", float("inf")), BadHeader, "not a finite number"),
        (patched(LAS, 247, "Q", (1 << 64) - 1), TruncatedFile, None),
        (patched(LAS, 247, "Q", 0), NoPoints, None),
        (patched(OLD, 107, "I", 0xFFFFFFFF), TruncatedFile, None),
        (patched(OLD, 107, "I", 0), NoPoints, None),
        (OLD[:-1], TruncatedFile, "40 points"),
        (patched(LAS, 243, "I", 2), TruncatedFile, "EVLR"),
        (patched(LAS, 243, "I", 0xFFFFFFFF), HeaderTooLarge, "4294967295 records"),
        (patched(LAS, 235, "Q", (1 << 64) - 1), TruncatedFile, None),
        (patched(LAS, 235, "Q", points_at(LAS) + 3), FileError, None),
        (patched(LAS, 235, "Q", 0), FileError, None),
        (patched(LAS, number_at(LAS, 235, "Q") + 20, "Q", (1 << 64) - 1), TruncatedFile, "EVLR 0"),
        (patched(OLD, DESCRIBED + 2, "B", 31), BadHeader, "unknown type 31"),
        (patched(OLD, DESCRIBED + 2, "BB", 0, 255), BadHeader, "extra bytes are described"),
    ],
)
def test_bad_headers(save, data, error, match):
    with pytest.raises(error, match=match) as caught:
        read_cloud(save("a.las", data))
    assert error is FileError or type(caught.value) is error


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (LAZ.replace(b"laszip encoded", b"laszip encodex"), BadHeader, "without the record of LASzip"),
        (patched(LAZ, PACKED - 34, "H", 20), FileError, None),
        (patched(LAZ, PACKED, "H", 0), UnsupportedFormat, "kind 0"),
        (patched(LAZ, PACKED, "H", 3), UnsupportedFormat, "kind 3"),
        (patched(LAZ6, PACKED6, "H", 2), UnsupportedFormat, "kind 2"),
        (patched(LAZ, PACKED + 2, "H", 1), UnsupportedFormat, None),
        (patched(LAZ, PACKED + VLR.size - 2, "H", 65535), BadHeader, "65535 parts of a point"),
        (patched(LAZ, PACKED + VLR.size, "HH", 6, 65535), BadHeader, "not those of format 3"),
        (patched(LAZ, PACKED + VLR.size, "HHH", 6, 20, 3), UnsupportedFormat, None),
        (patched(LAZ6, PACKED6 + VLR.size, "HHH", 10, 30, 2), UnsupportedFormat, None),
        (patched(LAZ, 104, "B", 0x82), BadHeader, "parts of a point"),
        (patched(LAZ, 105, "H", 100), BadHeader, None),
        (patched(LAZ, points_at(LAZ), "q", 1 << 62), BadBody, "the table of chunks is at byte"),
        (patched(LAZ, points_at(LAZ), "q", -5), BadBody, "the table of chunks is at byte"),
        (patched(LAZ, TABLE + 4, "I", 0xFFFFFFFF), BadBody, "4294967295 chunks cannot be in"),
        (patched(LAZ, TABLE + 4, "I", 0), BadBody, "hold 0 points, the header announces 40"),
        (patched(LAZ, 107, "I", 50_001), BadBody, "hold 50000 points, the header announces 50001"),
        (patched(LAZ, 107, "I", 50_000), BadBody, "chunk 0"),
        (patched(patched(LAZ, 107, "I", 1 << 31), PACKED + 12, "I", 1 << 31), BadBody, "2147483648 points in"),
        (patched(LAZ, PACKED + 12, "I", 1), BadBody, "the header announces 40"),
        (LAZ[: TABLE + 4], FileError, None),
        (LAZ[: points_at(LAZ) + 4], TruncatedFile, None),
        (patched(LAZ6, LAYERS, "I", 0xFFFFFFFF), BadBody, "chunk 0: layers of"),
        (patched(LAZ6, 247, "Q", (1 << 64) - 1), BadBody, "the header announces"),
        (patched(LAZ6, 105, "H", 30 + MOST_EXTRA + 1), HeaderTooLarge, "1025 extra bytes"),
    ],
)
def test_bad_packing(save, data, error, match):
    tracemalloc.start()
    with pytest.raises(error, match=match) as caught:
        read_cloud(save("a.laz", data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error is FileError or type(caught.value) is error
    assert peak < 16 << 20  # 4 MB are announced by some of them


def test_many_chunks_of_few_points_are_refused_fast(save):
    """It takes a millisecond to begin a chunk, whatever is in it."""
    las = las_data(6, "1.4", 2000, [])
    data = bytearray(bytes_of(las, compressed=True))
    vlr = lazrs.LazVlr.new_for_compression(6, 0, True)
    body, start = record_at(data, b"laszip encoded") + 54, points_at(data)
    data[body : body + len(vlr.record_data())] = vlr.record_data()
    out = io.BytesIO(bytes(data[:start]))
    out.seek(start)
    packer = lazrs.LasZipCompressor(out, vlr)
    for i in range(2000):
        packer.compress_many(las.points.array[i : i + 1].copy().view(np.uint8))
        packer.finish_current_chunk()
    packer.done()
    path = save("a.laz", patched(out.getvalue(), 235, "QI", 0, 0))
    began = time.perf_counter()
    with pytest.raises(BadBody, match="2000 points in 2001 chunks"):
        read_cloud(path)
    assert time.perf_counter() - began < 0.5


def test_a_panic_of_lazrs_is_an_error_of_the_file():
    """Chunks of any size without a table of them, which `Packed` never asks for."""
    data = las_bytes(0, "1.2", 5, [], compressed=True)
    record = patched(lazrs.LazVlr.new_for_compression(0, 0, True).record_data(), 0, "H", 1)
    with pytest.raises(BadBody, match="cannot be unpacked") as caught, _lazrs("chunk 7"):
        lazrs.LasZipDecompressor(io.BytesIO(data[points_at(data) + 8 :]), record).decompress_many(bytearray(40))
    assert not isinstance(caught.value.__cause__, Exception)  # or this test shows nothing
    assert caught.value.where == "chunk 7"


def test_more_points_than_wanted(save):
    for data in (OLD, LAZ):
        path = save("a.las", data)
        with pytest.raises(TooManyPoints, match="40 points, the limit is 39"):
            read_cloud(path, max_points=39)
        assert len(read_cloud(path, max_points=40)) == 40
    with pytest.raises(TooManyPoints):  # before anything is made for them
        read_cloud(save("a.laz", patched(LAZ, 107, "I", 1 << 31)), max_points=100)


def test_waves_and_channels_of_packed_points(save):
    """laspy's own oracle for what lazrs packs wrongly: points of one channel, and what the decoder makes of several chunks."""
    data = las_bytes(9, "1.4", 1000, [], compressed=True)
    same_columns(table_of(save("a.laz", data)), columns_of(las_data(9, "1.4", 1000, [])))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files(save, seed):
    """Whatever the bytes, only a FipError comes out, fast and with little memory."""
    rng = random.Random(seed)
    numbers = (0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)
    for _ in range(150):
        data = bytearray(rng.choice((LAS, OLD, LAZ, LAZ6)))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(min(len(data), rng.choice((375, points_at(LAS) + 50, len(data)))))
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice((*numbers, rng.randrange(1 << 16), len(data))) & ((1 << 8 * width) - 1)
            data[place : place + width] = value.to_bytes(width, "little")
        path = save("a.las", bytes(data[: rng.choice((len(data), rng.randrange(1, len(data))))]))
        began = time.perf_counter()
        tracemalloc.start()
        try:
            read_cloud(path, max_points=100_000)
        except FipError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 40 << 20
        assert time.perf_counter() - began < 1
