"""Labelled LAS and LAZ as laspy reads them: what was in the file is there to the last bit, and the answer beside it."""

import io
import tracemalloc
from pathlib import Path

import laspy
import numpy as np
import pytest
from laspy import ExtraBytesParams as Extra
from laspy.vlrs import VLR
from laspy.vlrs.vlrlist import VLRList

from models.answers import ANSWERS, SAME, Labelled, answer_format, check_answer, write_answer
from models.answers.las_new import scaling
from models.answers.las_points import CHUNK, count_chunks
from models.answers.names import answer_name
from models.errors import BadOption
from models.io import CloudFile, open_cloud, read_cloud
from models.io.laz import MOST_EXTRA
from models.io.records import BLOCK_ROWS, records_of_columns
from models.io.source import Source
from models.labels import LabelMap, load_label_map
from models.pointcloud import PointCloud
from tests.in_memory import cloud_of, encode, file_of, guessed, many_classes
from tests.las_files import CRS, EXTRA, LAYOUTS, bytes_of, columns_of, las_bytes, las_data, number_at, patched, points_at, record_at

KITTI = load_label_map("semantickitti19")
ADDED = ["label", "confidence", "label_red", "label_green", "label_blue"]
FIXED = {96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106}  # bytes of a header: where points begin, how many records, which points


def answer_to(path: Path, name: str, label_map: LabelMap = KITTI) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The answer for a file, with guessed labels and confidences, and those."""
    with open_cloud(path) as file:
        check_answer(name, file, label_map)
        labels, confidence = guessed(file.records.count, len(label_map))
        out = io.BytesIO()
        answer = Labelled(file, file.cloud(extra=False), labels, confidence, label_map, same=name == SAME)
        write_answer(name, answer, out)
        assert out.tell() == len(out.getvalue())
    return out.getvalue(), labels, confidence


def has_answer(las: laspy.LasData, labels: np.ndarray, confidence: np.ndarray, prefix: str = "") -> None:
    expected = [labels, confidence, *KITTI.colours[labels].T]
    for name, column in zip(ADDED, expected, strict=True):
        np.testing.assert_array_equal(las[prefix + name], column)


def has_all_of(found: laspy.LasData, before: laspy.LasData, without: tuple[str, ...] = ()) -> None:
    """Every value, as laspy gives it and as it is stored; scales, offsets; records."""
    columns = columns_of(found)
    for name, column in columns_of(before).items():
        if name not in without:
            assert columns[name].dtype == column.dtype
            assert columns[name].tobytes() == column.tobytes(), name
    for axis in "XYZ":
        np.testing.assert_array_equal(found[axis], before[axis])
    assert found.header.scales.tobytes() == before.header.scales.tobytes()
    assert found.header.offsets.tobytes() == before.header.offsets.tobytes()


@pytest.mark.parametrize("name", [SAME, "las", "laz"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("extra", [[], EXTRA])
@pytest.mark.parametrize(("version", "number"), LAYOUTS)
def test_a_file_comes_back_with_the_answer(save, version, number, extra, compressed, name):
    data = las_bytes(number, version, extra=extra, compressed=compressed)
    before = laspy.read(io.BytesIO(data))
    answer, labels, confidence = answer_to(save("a", data), name)
    found = laspy.read(io.BytesIO(answer))
    assert found.header.are_points_compressed == (compressed if name == SAME else name == "laz")
    has_answer(found, labels, confidence)
    if name == SAME:
        has_all_of(found, before)
        assert list(found.point_format.dimension_names) == [*before.point_format.dimension_names, *ADDED]
    else:
        has_all_of(found, before, without=("classification",))
        np.testing.assert_array_equal(found.classification, labels)
        np.testing.assert_array_equal(found.original_classification, before.classification)
    assert (found.header.point_format.id, str(found.header.version)) == (number, version)
    again = save("again", answer)
    assert read_cloud(again).xyz.tobytes() == before.xyz.tobytes()


@pytest.mark.parametrize("compressed", [False, True])
def test_header_and_records_stay(save, compressed):
    """Byte for byte: GUID, dates, counts, bounds, unknown records, coordinate system, what is behind the points."""
    data = bytearray(las_bytes(7, "1.4", compressed=compressed))
    data[4:24] = bytes(range(4, 24))  # source, encoding, GUID
    data[6] |= 0x10
    data[90:94] = b"\x10\0\xe6\x07"  # a date
    data[107:131] = bytes(range(24))  # counts that nobody uses from 1.4 on
    answer, _, _ = answer_to(save("a.las", bytes(data)), SAME)
    changed = {place for place in range(375) if answer[place] != data[place]}
    assert changed <= FIXED | set(range(235, 243))  # and where the extended records begin
    before, found = laspy.read(io.BytesIO(data)), laspy.read(io.BytesIO(answer))
    for each in ("somebody", "LASF_Projection"):
        assert [vlr.record_data_bytes() for vlr in found.vlrs.get_by_id(each)] == [
            vlr.record_data_bytes() for vlr in before.vlrs.get_by_id(each)
        ]
    assert found.vlrs.get_by_id("LASF_Projection")[0].string == CRS
    assert [vlr.record_data for vlr in found.evlrs] == [b"waves" * 20000]
    start = number_at(answer, 235, "Q")
    assert answer[start:] == bytes(data[number_at(bytes(data), 235, "Q") :])


def test_extra_bytes_keep_their_descriptions(save):
    data = las_bytes(6, "1.4")
    answer, _, _ = answer_to(save("a.las", data), SAME)
    old, new = record_at(data, b"LASF_Spec") + 54, record_at(answer, b"LASF_Spec") + 54
    assert answer[new : new + 192 * len(EXTRA)] == data[old : old + 192 * len(EXTRA)]
    assert [each.description for each in laspy.read(io.BytesIO(answer)).point_format.extra_dimensions][-5:-3] == [
        "class, as an index",
        "of the class, 0 to 1",
    ]


def test_bytes_that_nothing_describes_stay(save):
    """The added values are described behind them, so that readers find them where they are."""
    data = las_bytes(1, "1.2", 50, [Extra("a", "200u1"), Extra("b", "100u1")]).replace(b"LASF_Spec", b"LASF_Spex")
    answer, labels, confidence = answer_to(save("a.las", data), SAME)
    found = laspy.read(io.BytesIO(answer))
    has_answer(found, labels, confidence)
    stored = np.frombuffer(data, np.uint8)[points_at(data) :].reshape(50, -1)[:, 28:]
    parts = [name for name in found.point_format.extra_dimension_names if name.startswith("ExtraBytes")]
    np.testing.assert_array_equal(np.hstack([found[name] for name in parts]), stored)


def test_waveforms_stay(save):
    """The packets behind the points, and where the header says that they are."""
    packets = bytes(range(256)) * 40
    for version, number in (("1.3", 4), ("1.4", 10)):
        for compressed in (False, True):
            data = las_bytes(number, version, extra=[], compressed=compressed)
            data = patched(data, 227, "Q", len(data)) + packets
            answer, _, _ = answer_to(save("a.las", data), SAME)
            assert answer[number_at(answer, 227, "Q") :] == packets
            has_all_of(laspy.read(io.BytesIO(answer)), laspy.read(io.BytesIO(data)))


def test_the_index_of_a_copc_file_is_put_aside(save):
    """It names bytes of the file; the points, and the record as it was, are still there."""
    las = las_data(6, "1.4", 100, [])
    las.header.vlrs.insert(0, VLR("copc", 1, "COPC info VLR", bytes(160)))
    las.evlrs = VLRList([VLR("copc", 1000, "hierarchy", bytes(320)), VLR("somebody", 9, "", b"stays")])
    answer, _, _ = answer_to(save("a.copc.laz", bytes_of(las, compressed=True)), SAME)
    found = laspy.read(io.BytesIO(answer))
    assert found.vlrs[0].user_id == "was copc"
    assert [(each.user_id, each.record_data) for each in found.evlrs] == [("was copc", bytes(320)), ("somebody", b"stays")]
    has_all_of(found, las)


def test_names_that_are_taken(save):
    data = las_bytes(3, "1.2", extra=[Extra("label", "u1"), Extra("Confidence", "f4"), Extra("original_classification", "u2")])
    answer, labels, _ = answer_to(save("a.las", data), "las")
    found = laspy.read(io.BytesIO(answer))
    names = list(found.point_format.extra_dimension_names)
    assert names == [
        "label",
        "Confidence",
        "original_classification",
        "fip_label",
        "fip_confidence",
        *ADDED[2:],
        "fip_original_classification",
    ]
    np.testing.assert_array_equal(found.fip_label, labels)
    has_all_of(found, laspy.read(io.BytesIO(data)), without=("classification",))
    twice, labels, _ = answer_to(save("b.las", answer), SAME)
    np.testing.assert_array_equal(laspy.read(io.BytesIO(twice)).fip_fip_label, labels)


@pytest.mark.parametrize("number", [3, 6])
def test_classification(save, number):
    """The flags beside it stay; where all points were unclassified nothing is kept of that."""
    las = las_data(number, "1.4", 400, [])
    las.classification[:] = 0
    answer, labels, _ = answer_to(save("a.las", bytes_of(las)), "las")
    found = laspy.read(io.BytesIO(answer))
    assert list(found.point_format.extra_dimension_names) == ADDED
    np.testing.assert_array_equal(found.classification, labels)
    for name in ("synthetic", "key_point", "withheld"):
        np.testing.assert_array_equal(found[name], las[name])
    lookup = found.vlrs.get("ClassificationLookupVlr")[0].lookups
    assert len(lookup) == 256
    assert [lookup[i] for i in range(19)] == ["".join(c for c in name if c.isalnum() or c == " ")[:15] for name in ascii_names()]
    assert lookup[19] == ""
    assert not laspy.read(io.BytesIO(answer_to(save("b.las", bytes_of(las)), SAME)[0])).vlrs.get("ClassificationLookupVlr")


def ascii_names() -> list[str]:
    return [name[:15] for name in KITTI.names]


def test_former_names_of_classes_are_put_aside(save):
    las = las_data(6, "1.4", 10, [])
    names = laspy.vlrs.known.ClassificationLookupVlr()
    names[2] = "ground"
    las.header.vlrs.append(names)
    path = save("a.las", bytes_of(las))
    found = laspy.read(io.BytesIO(answer_to(path, "laz")[0])).vlrs
    assert [each.user_id for each in found].count("LASF_Spec") == 2  # extra bytes and the new names
    assert found.get_by_id("was LASF_Spec")[0].record_data == names.record_data_bytes()
    kept = laspy.read(io.BytesIO(answer_to(path, SAME)[0])).vlrs
    assert kept.get("ClassificationLookupVlr")[0].lookups == {2: "ground"}


def test_many_classes(save):
    old, new = save("old.las", las_bytes(3, "1.2")), save("new.las", las_bytes(6, "1.4"))
    for path, most in ((old, 32), (new, 256)):
        answer, labels, _ = answer_to(path, "laz", many_classes(most))
        np.testing.assert_array_equal(laspy.read(io.BytesIO(answer)).classification, labels)
        with open_cloud(path) as file:
            for name in ("las", "laz"):
                with pytest.raises(BadOption, match=f"can be of {most} classes, the model has {most + 1}"):
                    check_answer(name, file, many_classes(most + 1))
        answer, labels, _ = answer_to(path, SAME, many_classes(300))
        found = laspy.read(io.BytesIO(answer))
        np.testing.assert_array_equal(found.label, labels)
        assert found.label.dtype == np.uint16
    with pytest.raises(BadOption):
        encode("las", cloud_of(), *guessed(), many_classes(257))


def test_more_than_a_block_is_written_block_by_block(save, tmp_path):
    n = 6 * BLOCK_ROWS + 7
    data = las_bytes(6, "1.4", n, [])
    path = save("a.las", data)
    for name in ("las", "laz"):
        with open_cloud(path) as file, (tmp_path / "out").open("w+b") as out:
            labels, confidence = guessed(n)
            answer = Labelled(file, file.cloud(extra=False), labels, confidence, KITTI)
            tracemalloc.start()
            write_answer(name, answer, out)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < len(data)  # and so less than the points; a few blocks
        found = laspy.read(tmp_path / "out")
        has_answer(found, labels, confidence)
        has_all_of(found, laspy.read(path), without=("classification",))


@pytest.mark.parametrize("number", [9, 10])
def test_waveforms_of_several_channels_are_packed(save, number):
    """lazrs 0.8.2 packs them so that it cannot read them itself, as this shows of laspy; not so ours."""
    las = las_data(number, "1.4", 3000, [])
    las.scanner_channel = np.repeat([0, 1, 3], 1000)
    data = bytes_of(las)
    answer, _, _ = answer_to(save("a.las", data), "laz")
    has_all_of(laspy.read(io.BytesIO(answer)), las, without=("classification",))
    las.scanner_channel = np.arange(3000) % 4
    with open_cloud(save("b.las", bytes_of(las))) as file, pytest.raises(BadOption, match="channel changes all the time"):
        check_answer("laz", file, KITTI)
    has_all_of(laspy.read(io.BytesIO(answer_to(save("b.las", bytes_of(las)), SAME)[0])), las)


def test_chunks_are_counted_as_they_are_written():
    flags = np.repeat(np.array([0, 16, 0], np.uint8), [10, CHUNK + 5, 5])
    assert count_chunks([flags]) == 4
    assert count_chunks([flags[:7], flags[7:]]) == 4


def test_old_waveforms_are_packed_as_laszip_does(save):
    """Version 1 of the coder of these fields; LASzip 3.5 refuses any other."""
    for number in (4, 5):
        answer, _, _ = answer_to(save("a.las", las_bytes(number, "1.3", extra=[])), "laz")
        assert b"\x09\0\x1d\0\x01\0" in answer[record_at(answer, b"laszip encoded") :]


def test_which_kind_is_the_same(save):
    for compressed, kind in ((False, "las"), (True, "laz")):
        with open_cloud(save("a.las", las_bytes(0, "1.2", compressed=compressed))) as file:
            assert answer_format(SAME, file) == kind
    assert {ANSWERS[kind].media_type for kind in ("las", "laz")} == {"application/vnd.las", "application/vnd.laszip"}
    assert answer_name("a.laz", SAME) == "a.labelled.laz"
    assert answer_name("a.laz", "las") == "a.las"
    assert answer_name("a.las", "las") == "a.labelled.las"
    assert answer_name("a.ply", "laz") == "a.laz"


def test_no_room(save):
    wide = [Extra(f"e{i}", "255u1") for i in range(5)]
    path = save("a.las", las_bytes(0, "1.2", 3, wide[:1], seed=1))
    answer_to(path, "laz")
    data = las_bytes(0, "1.2", 3, wide).replace(b"LASF_Spec", b"LASF_Spex")
    with open_cloud(save("b.las", data)) as file:
        check_answer("las", file, KITTI)
        with pytest.raises(BadOption, match=f"but for {MOST_EXTRA}"):
            check_answer("laz", file, KITTI)
    row = np.zeros(2, np.uint8)
    with pytest.raises(BadOption, match="longer than 32 bytes"):
        check_answer("las", file_of(cloud_of(2, **{"ö" * 17: row})), KITTI)
    with pytest.raises(BadOption, match="can describe 341 extra columns, not 346"):
        check_answer("las", file_of(cloud_of(2, **{f"c{i}": row for i in range(340)})), KITTI)


# --- clouds that came as something else


@pytest.mark.parametrize("name", ["las", "laz"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_cloud_of_another_format(name, kind):
    n = BLOCK_ROWS + 10
    rng = np.random.default_rng(2)
    extra = {code: rng.integers(0, 100, n).astype(code) for code in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "?")}
    cloud = cloud_of(n, kind, **extra)
    assert cloud.rgb is not None
    assert cloud.intensity is not None
    labels, confidence = guessed(n)
    data = encode(name, cloud, labels, confidence, KITTI)
    found = laspy.read(io.BytesIO(data))
    assert (found.header.point_format.id, str(found.header.version), len(found)) == (7, "1.4", n)
    assert found.header.are_points_compressed == (name == "laz")
    np.testing.assert_allclose(found.xyz, cloud.xyz, atol=found.header.scales[0] * 0.501, rtol=0)
    np.testing.assert_array_equal(found.red, cloud.rgb[:, 0].astype(int) * 257)
    np.testing.assert_array_equal(found.classification, labels)
    np.testing.assert_array_equal(found.intensity, np.rint(cloud.intensity.astype(float) * 65535))
    np.testing.assert_array_equal(found.original_intensity, cloud.intensity)
    has_answer(found, labels, confidence)
    for column, values in extra.items():
        np.testing.assert_array_equal(found[column], values)
    assert found.vlrs.get("ClassificationLookupVlr")[0].lookups[0] == "car"
    np.testing.assert_allclose(found.header.mins, found.xyz.min(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.header.maxs, found.xyz.max(axis=0), atol=1e-9)
    assert found.header.number_of_points_by_return[0] == n
    assert (found.return_number == 1).all()
    assert data == encode(name, cloud, labels, confidence, KITTI)


@pytest.mark.parametrize(
    ("xyz", "most"),
    [
        (np.array([[456123.123456789, 5432100.98765432, 250.5], [456923.5, 5432800.25, -3.0]]), 0.5e-6),  # UTM
        (np.array([[456123.12, 5432100.98, 250.5], [1e6 + 456123.5, 5432800.25, -3.0]]), 0.5e-3),  # 1,000 km
        (np.random.default_rng(0).uniform(-80, 80, (1000, 3)).astype(np.float32), 0.5e-6),  # a scan
        (np.random.default_rng(0).uniform(-1, 1, (1000, 3)).astype(np.float32), 0.5e-8),  # a ModelNet object
        (np.random.default_rng(0).uniform(0, 1e-6, (1000, 3)), 0.5e-14),
        (np.array([[1e7, -1e9, 3e9], [0, 0, 0]]), 0.5e1),
        (np.array([[5e-20, 7.0, -3.5]]), 0.0),
        (np.zeros((2, 3), np.float32), 0.0),
    ],
)
def test_how_far_off_coordinates_are_at_most(xyz, most):
    n = len(xyz)
    data = encode("las", PointCloud(xyz), np.zeros(n, np.uint8), np.ones(n, np.float32), KITTI)
    found = laspy.read(io.BytesIO(data)).xyz
    rounding = 4 * np.spacing(np.abs(xyz.astype(np.float64)).max())
    assert np.abs(found - xyz).max() <= most * 1.000001 + rounding


def test_whole_coordinates_are_kept():
    xyz = np.array([[-2_000_000, 7, 12345], [1, 2, 3]], np.int32)
    file = CloudFile(Source(io.BytesIO(), 0), "memory", records_of_columns(dict(zip("xyz", xyz.T, strict=True))))
    out = io.BytesIO()
    write_answer("las", Labelled(file, file.cloud(), np.zeros(2, np.uint8), np.ones(2, np.float32), KITTI), out)
    found = laspy.read(io.BytesIO(out.getvalue()))
    np.testing.assert_array_equal(found.xyz, xyz)
    assert found.header.scales.tolist() == [1, 1, 1]


def test_scales_are_powers_of_ten():
    for extent in (1e-5, 0.3, 2.0, 777.0, 1e5, 1e9):
        xyz = np.random.default_rng(0).uniform(1000, 1000 + extent, (50, 3))
        scale, offset = scaling(xyz, 1e-13)
        assert scale == float(f"{scale:.0e}")
        steps = (xyz.max(axis=0) - offset) / scale
        assert steps.max() < 2**31
        assert (offset <= xyz.min(axis=0)).all()
        assert extent / scale > 1e7 or scale == 1e-13


@pytest.mark.parametrize(
    ("values", "stored", "kept"),
    [
        (np.array([0, 17, 65535], "f4"), [0, 17, 65535], False),
        (np.array([0, 17, 255], "u1"), [0, 17, 255], False),
        (np.array([0, 0.25, 1], "f4"), [0, 16384, 65535], True),
        (np.array([0.5, 17.25, 255], "f4"), [0, 17, 255], True),
        (np.array([-1, 0, 1], "f4"), [0, 32768, 65535], True),
        (np.array([0, 0, 131070], "i4"), [0, 0, 65535], True),
        (np.array([0, 1 + 1e-12, 3], "f8"), [0, 1, 3], True),
        (np.array([-5, -5, -5], "f4"), [0, 0, 0], True),
    ],
)
def test_intensity(values, stored, kept):
    columns = {**dict.fromkeys("xyz", np.arange(3.0)), "intensity": values}
    file = CloudFile(Source(io.BytesIO(), 0), "memory", records_of_columns(columns))
    out = io.BytesIO()
    write_answer("las", Labelled(file, file.cloud(), np.zeros(3, np.uint8), np.ones(3, np.float32), KITTI), out)
    found = laspy.read(io.BytesIO(out.getvalue()))
    assert found.intensity.tolist() == stored
    assert found.point_format.id == 6
    assert ("original_intensity" in found.point_format.extra_dimension_names) == kept
    if kept:
        assert np.asarray(found.original_intensity).tobytes() == values.tobytes()


def test_columns_that_las_has_fields_for():
    extra = {
        "gps_time": np.array([1.5, 2.5]),
        "user_data": np.array([7, 8], np.uint8),
        "point_source_id": np.array([70000, 1], np.uint32),  # too large for the field
        "classification": np.array([3, 4], np.uint8),
        "return_number": np.array([2, 300], np.uint16),
        "X": np.array([5, 6], np.int32),
    }
    found = laspy.read(io.BytesIO(encode("las", cloud_of(2, **extra), *guessed(2), KITTI)))
    assert found.gps_time.tolist() == [1.5, 2.5]
    assert found.user_data.tolist() == [7, 8]
    assert found.point_source_id_2.tolist() == [70000, 1]
    assert found.original_classification.tolist() == [3, 4]
    assert found.return_number_2.tolist() == [2, 300]
    assert found.X_2.tolist() == [5, 6]


def test_back_from_las_to_las_through_ply(save):
    """UTM coordinates and every column survive a format in between."""
    las = las_data(7, "1.4", 500, EXTRA[:1])
    for axis in "XYZ":
        las[axis] = las[axis] // 65536
    path = save("a.laz", bytes_of(las, compressed=True))
    ply = save("b.ply", answer_to(path, "ply")[0])
    found = laspy.read(io.BytesIO(answer_to(ply, "laz")[0]))
    np.testing.assert_allclose(found.xyz, las.xyz, atol=0.5001 * found.header.scales[0], rtol=0)
    assert found.header.scales[0] <= 1e-3
    for name in ("intensity", "gps_time", "user_data", "point_source_id", "scan_angle", "height"):
        np.testing.assert_array_equal(found[name], las[name])
    np.testing.assert_array_equal(found.original_classification, las.classification)


@pytest.mark.data
def test_a_real_scan(data_dir, tmp_path):
    path = data_dir / "semantickitti" / "sequences" / "08" / "velodyne" / "000000.bin"
    scan = np.fromfile(path, "<f4").reshape(-1, 4)
    answer, labels, confidence = answer_to(path, "laz")
    found = laspy.read(io.BytesIO(answer))
    assert np.abs(found.xyz - scan[:, :3]).max() <= 0.500001e-6
    np.testing.assert_array_equal(found.original_intensity, scan[:, 3])
    has_answer(found, labels, confidence)
