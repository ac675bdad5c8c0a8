"""LAS and LAZ against laspy, to the last bit."""

import io
import struct

import laspy
import lazrs
import numpy as np
import pytest
from laspy import ExtraBytesParams as Extra

from models.errors import HeaderTooLarge
from models.io import choose_format, open_cloud, read_cloud
from models.io.las_columns import COLUMNS
from models.io.las_header import is_compressed
from models.io.records import BLOCK_ROWS
from tests.las_files import LAYOUTS, bytes_of, columns_of, las_bytes, las_data, patched, points_at, record_at

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
