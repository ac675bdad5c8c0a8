"""Answers that are arrays: npy and npz files with everything kept, and the ids of lidarseg."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.answers import OWN, answer_format
from models.errors import BadOption
from models.io import open_cloud, read_cloud
from models.labels import LabelClass, LabelMap, load_label_map
from tests.in_memory import answer_to, answered, cloud_of, encode, guessed, many_classes

Order = Literal["C", "F"]
KITTI, NUSCENES = load_label_map("semantickitti19"), load_label_map("nuscenes16")


# --- npy


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [1, 70_000])
def test_an_npy_that_holds_the_answer_keeps_its_bytes(tmp_path: Path, dtype: str, order: Order, n: int) -> None:
    rows = np.asarray(np.random.default_rng(0).normal(size=(n, 6)), dtype, order=order)
    rows.view(np.uint8 if order == "C" else dtype)[0, 0] = 1
    np.save(tmp_path / "a.npy", rows)
    answer, labels, confidence = answer_to(tmp_path / "a.npy", "same", many_classes(300))
    found = np.load(io.BytesIO(answer))
    assert found.dtype == rows.dtype
    assert found.flags.f_contiguous == (order == "F" or n == 1)
    assert np.ascontiguousarray(found[:, :6]).tobytes() == np.ascontiguousarray(rows).tobytes()
    np.testing.assert_array_equal(found[:, 6], labels)
    np.testing.assert_array_equal(found[:, 7].astype(np.float32), confidence)


@given(st.data(), st.sampled_from(["<f4", ">f8"]), st.sampled_from("CF"))
def test_any_bits_in_an_npy_stay(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dtype: str, order: Order) -> None:
    """NaN with payloads, among them."""
    kind = np.dtype(dtype)
    n = data.draw(st.integers(1, 5))
    rows = np.asarray(data.draw(hnp.arrays(np.uint8, (n, 3, kind.itemsize))).view(kind)[..., 0], order=order)
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, rows)
    found = np.load(io.BytesIO(_npy_answer(path)))
    assert np.ascontiguousarray(found[:, :3]).tobytes() == np.ascontiguousarray(rows).tobytes()


def _npy_answer(path: Path) -> bytes:
    with open_cloud(path) as file, np.errstate(invalid="ignore"):
        return answered("npy", file, *guessed(file.records.count, len(KITTI)), KITTI)


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [("<f2", "<f4"), ("u1", "<f4"), ("<i2", "<f4"), (">u2", "<f4"), ("<i4", "<f8"), (">u4", "<f8"), ("<i8", "<f8"), (">u8", "<f8")],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npy_that_does_not_hold_it_is_widened_without_loss(tmp_path: Path, dtype: str, becomes: str, order: Order) -> None:
    top = 1 << 53 if dtype[1:] in ("i8", "u8") else 200
    rows = np.asarray(np.arange(30).reshape(10, 3) + top - 29, dtype, order=order)
    np.save(tmp_path / "a.npy", rows)
    answer, labels, confidence = answer_to(tmp_path / "a.npy", "npy", KITTI)
    found = np.load(io.BytesIO(answer))
    assert found.dtype == np.dtype(becomes)
    assert found.flags.f_contiguous == (order == "F")
    assert found[:, :3].astype(dtype).tolist() == rows.tolist()
    np.testing.assert_array_equal(found[:, 3], labels)
    np.testing.assert_array_equal(found[:, 4].astype(np.float32), confidence)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (np.full((4, 3), (1 << 53) + 1), "float64, which does not hold"),
        (np.full((4, 3), -(1 << 62)), "float64, which does not hold"),
        (np.full((4, 3), (1 << 64) - 1, np.uint64), "float64, which does not hold"),
        (np.zeros((4, 255)), "255 columns and two more"),
    ],
)
def test_an_npy_that_could_change_is_refused(tmp_path: Path, rows: np.ndarray, reason: str) -> None:
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(BadOption, match=reason) as caught:
        answer_to(tmp_path / "a.npy", "same", KITTI)
    assert caught.value.where == "format"


def test_the_widest_npy_is_read_again(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 254), np.float32))
    answer, _, _ = answer_to(tmp_path / "a.npy", "same", KITTI)
    (tmp_path / "b.npy").write_bytes(answer)
    assert len(read_cloud(tmp_path / "b.npy").extra) == 253


def test_npy_is_no_answer_to_other_files() -> None:
    with pytest.raises(BadOption, match="ask for npz"):
        encode("npy", cloud_of(), *guessed(), KITTI)


def test_what_follows_the_array_stays(tmp_path: Path) -> None:
    first, second = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(5)
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, first)
        np.save(file, second)
    answer, _, _ = answer_to(tmp_path / "a.npy", "same", KITTI)
    stream = io.BytesIO(answer)
    np.testing.assert_array_equal(np.load(stream)[:, :3], first)
    np.testing.assert_array_equal(np.load(stream), second)


# --- npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_keeps_its_arrays(tmp_path: Path, save) -> None:
    arrays = {
        "xyz": np.asarray(np.random.default_rng(0).normal(size=(70_000, 3)), order="F"),
        "labels": np.arange(70_000, dtype=">u2"),
        "Names": np.array(["a", "b"]),
        "poses": np.zeros((2, 4, 4)),
        "rgb": np.zeros((70_000, 3), np.uint8),
        "": np.zeros(70_000),
    }
    save(tmp_path / "a.npz", **arrays)
    answer, labels, confidence = answer_to(tmp_path / "a.npz", "same", KITTI)
    with np.load(io.BytesIO(answer), allow_pickle=False) as found:
        assert found.files == [*arrays, "fip_labels", "ids", "confidence", "fip_names"]
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].tobytes("A")) == (array.dtype, array.tobytes("A"))
        np.testing.assert_array_equal(found["fip_labels"], labels)
        np.testing.assert_array_equal(found["ids"], KITTI.ids_of(labels))
        np.testing.assert_array_equal(found["confidence"], confidence)
        assert found["fip_names"].tolist() == list(KITTI.names)
    (tmp_path / "b.npz").write_bytes(answer)
    again = read_cloud(tmp_path / "b.npz")
    np.testing.assert_array_equal(again.xyz, arrays["xyz"])
    np.testing.assert_array_equal(again.extra["fip_labels"], labels)


def test_members_that_nobody_reads_keep_every_byte(tmp_path: Path) -> None:
    """A pickle that would run code, text, an array that is cut off, another compression of what is no array, a comment of the zip."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("xyz.npy", "w") as member:
            np.save(member, np.zeros((5, 3), np.float32))
        archive.writestr("objects.npy", _npy_of_objects())
        archive.writestr("cut.npy", b"\x93NUMPY\1\0")
        archive.writestr("readme.txt", b"hello " * 100, zipfile.ZIP_BZIP2)
        archive.writestr("notes.bin", bytes(range(256)), zipfile.ZIP_STORED)
        archive.comment = b"made by hand"
    answer, _, _ = answer_to(tmp_path / "a.npz", "npz", KITTI)
    with zipfile.ZipFile(tmp_path / "a.npz") as before, zipfile.ZipFile(io.BytesIO(answer)) as after:
        assert after.comment == before.comment
        assert after.namelist() == [*before.namelist(), *(f"{name}.npy" for name in ("labels", "ids", "confidence", "names"))]
        for old, new in zip(before.infolist(), after.infolist(), strict=False):
            facts = (
                "filename",
                "date_time",
                "compress_type",
                "CRC",
                "compress_size",
                "file_size",
                "header_offset",
                "extra",
                "external_attr",
            )
            assert [getattr(old, fact) for fact in facts] == [getattr(new, fact) for fact in facts]
        start = before.start_dir
        assert after.testzip() is None
    assert answer[:start] == (tmp_path / "a.npz").read_bytes()[:start]


class Shout:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("unpickled!",))


def _npy_of_objects() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + pickle.dumps([Shout()])


def test_an_npz_is_answered_again_and_the_same_bytes_come_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", xyz=np.zeros((5, 3), np.float32))
    first, _, _ = answer_to(tmp_path / "a.npz", "same", KITTI)
    assert answer_to(tmp_path / "a.npz", "same", KITTI)[0] == first
    (tmp_path / "b.npz").write_bytes(first)
    second, _, _ = answer_to(tmp_path / "b.npz", "same", KITTI)
    with np.load(io.BytesIO(second)) as found:
        assert found.files[5:] == ["fip_labels", "fip_ids", "fip_confidence", "fip_names"]


def test_an_npz_with_no_room_for_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = np.zeros((5, 3), np.float32)
    np.savez(tmp_path / "full.npz", xyz=xyz, **{f"a{i}": xyz for i in range(59)})
    (tmp_path / "again.npz").write_bytes(answer_to(tmp_path / "full.npz", "same", KITTI)[0])
    assert len(read_cloud(tmp_path / "again.npz")) == 5
    np.savez(tmp_path / "fuller.npz", xyz=xyz, **{f"a{i}": xyz for i in range(60)})
    with pytest.raises(BadOption, match="61 arrays and 4 more"):
        answer_to(tmp_path / "fuller.npz", "same", KITTI)
    np.savez(tmp_path / "long.npz", xyz=xyz, **{"a" * 65_000: xyz})
    with pytest.raises(BadOption, match="names of the arrays"):
        answer_to(tmp_path / "long.npz", "same", KITTI)
    np.savez(tmp_path / "small.npz", xyz=xyz)
    answer, _, _ = answer_to(tmp_path / "small.npz", "same", KITTI)
    with zipfile.ZipFile(io.BytesIO(answer)) as archive:
        unpacked = sum(each.file_size for each in archive.infolist())
    monkeypatch.setattr("models.answers.npz.UNZIPPED_BYTES", unpacked - 1)
    with pytest.raises(BadOption, match="the arrays are larger"):
        answer_to(tmp_path / "small.npz", "same", KITTI)


# --- lidarseg


def test_lidarseg_is_one_raw_id_a_point(tmp_path: Path) -> None:
    (tmp_path / "scan.pcd.bin").write_bytes(np.zeros((70_000, 5), "<f4").tobytes())
    answer, labels, _ = answer_to(tmp_path / "scan.pcd.bin", "same", NUSCENES)
    found = np.frombuffer(answer, np.uint8)
    assert found.tolist() == [NUSCENES.classes[label].ids[0] for label in labels]
    np.testing.assert_array_equal(NUSCENES.classes_of(found), labels)


def test_lidarseg_refuses_ids_beyond_a_byte() -> None:
    with pytest.raises(BadOption, match="'on-rails' as 256; ask for label"):
        encode("lidarseg", cloud_of(), *guessed(classes=2), _two_classes(256))
    assert len(encode("lidarseg", cloud_of(), *guessed(classes=2), _two_classes(255))) == 200


def _two_classes(last: int) -> LabelMap:
    return LabelMap(
        classes=(LabelClass(name="car", colour=(0, 0, 0), ids=(1, 300)), LabelClass(name="on-rails", colour=(0, 0, 0), ids=(last,)))
    )


def test_scans_are_answered_as_their_data_sets_do(tmp_path: Path) -> None:
    assert {"bin": "label", "nuscenes": "lidarseg"}.items() <= OWN.items()
    for name, expected in (("a.bin", "label"), ("a.pcd.bin", "lidarseg")):
        (tmp_path / name).write_bytes(bytes(80))
        with open_cloud(tmp_path / name) as file:
            assert answer_format("same", file) == expected
