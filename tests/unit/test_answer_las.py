"""Labelled LAS and LAZ as laspy reads them: what was in the file is there to the last bit, and the answer beside it."""

import io
import tracemalloc

import laspy
import numpy as np
import pytest
from laspy import ExtraBytesParams as Extra
from laspy.vlrs import VLR
from laspy.vlrs.vlrlist import VLRList

from models.answers import ANSWERS, SAME, Labelled, answer_format, check_answer, write_answer
from models.answers.las_points import CHUNK, count_chunks
from models.answers.names import answer_name
from models.errors import BadOption
from models.io import open_cloud, read_cloud
from models.io.laz import MOST_EXTRA
from models.io.records import BLOCK_ROWS
from models.labels import LabelClass, LabelMap
from tests.in_memory import cloud_of, encode, file_of, guessed, many_classes
from tests.las_answers import ADDED, KITTI, answer_to, has_all_of, has_answer
from tests.las_files import CRS, EXTRA, LAYOUTS, bytes_of, las_bytes, las_data, number_at, patched, points_at, record_at

FIXED = {96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106}  # bytes of a header: where points begin, how many records, which points


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


def legends(data: bytes) -> list[tuple[str, str]]:
    """The descriptions and texts of the records that list the classes of a column."""
    found = laspy.read(io.BytesIO(data)).vlrs.get_by_id("fip_server")
    assert all(each.record_id == 1 for each in found)
    return [(each.description, each.record_data.decode()) for each in found]


@pytest.mark.parametrize("name", ["same", "las", "laz"])
def test_what_the_labels_are_called_is_written(save, name):
    """Once, whoever wrote that before; the file that is read is not touched."""
    expected = "".join(f"{index} {each.name} (id {each.ids[0]})\n" for index, each in enumerate(KITTI.classes))
    assert expected.startswith("0 car (id 10)\n1 ")
    las = las_data(6, "1.4", 10, [])
    las.header.vlrs.append(VLR("fip_server", 1, "classes of the column label", b"0 of another model\n"))
    las.header.vlrs.append(VLR("fip_server", 1, "classes of the column label", b"a second one"))
    path = save("a.las", bytes_of(las))
    before = path.read_bytes()
    once = answer_to(path, name)[0]
    assert legends(once) == [("classes of the column label", expected)]
    assert path.read_bytes() == before
    again = answer_to(save("again.las", once), name)[0]
    assert legends(again) == [("classes of the column fip_label", expected)]
    assert legends(answer_to(save("fresh.las", las_bytes(3, "1.2")), name)[0]) == [("classes of the column label", expected)]


def test_many_names_are_as_many_as_there_is_room_for(save):
    long = LabelMap(classes=tuple(LabelClass(name=f"größe {i} " + "é" * 90, colour=(0, 0, i % 256), ids=(i,)) for i in range(1000)))
    [(_, text)] = legends(answer_to(save("a.las", las_bytes(6, "1.4")), SAME, long)[0])
    lines = text.splitlines()
    assert lines == [f"{i} {long.names[i]} (id {i})" for i in range(len(lines))]
    assert 65_535 - 250 < len(text.encode()) <= 65_535


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
