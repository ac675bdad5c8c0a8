"""The door `read_cloud`, and every format but PLY."""

import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from models.errors import (
    BadBody,
    BadHeader,
    EmptyFile,
    FileError,
    HeaderTooLarge,
    MissingCoordinates,
    NoPoints,
    TooManyPoints,
    TruncatedFile,
    UnsupportedFormat,
)
from models.io import FORMATS, HEAD_BYTES, choose_format, read_cloud
from models.io.raw import guess_records
from tests.sweep import sweep

XYZ = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
PLY = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n1 2 3\n"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(compressed=False, **arrays) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


# --- the door


@pytest.mark.parametrize(
    ("fmt", "name", "content_type", "head", "expected"),
    [
        ("npy", "a.ply", "application/ply", b"OFF\n", "npy"),
        (None, "a.PLY", "application/x-npy", b"OFF\n", "ply"),
        (None, "scan.bin", None, b"ply\n", "bin"),
        (None, "scan.PCD.bin", None, b"", "nuscenes"),
        (None, "../dir.off/scan", "Application/PLY; charset=utf-8", b"OFF\n", "ply"),
        (None, "scan.dat", "application/octet-stream", b"\x93NUMPY", "npy"),
        (None, None, None, b"ply\r", "ply"),
        (None, None, None, b"PK\x03\x04", "npz"),
        (None, None, None, b" \t COFF\n", "off"),
    ],
)
def test_the_surest_hint_chooses_the_format(fmt, name, content_type, head, expected):
    assert choose_format(fmt, name, content_type, head=head) == expected


@pytest.mark.parametrize(
    "head", [b"\xff\xd8\xff\xe0\0\x10JFIF", b"hello, world", b"plywood", b"", bytes(64), b"PK\x05\x06", b"\x80\x04\x95"]
)
def test_other_files_are_refused_by_their_content(head):
    with pytest.raises(UnsupportedFormat) as caught:
        choose_format(None, "x.jpg", None, head=head)
    assert caught.value.known == tuple(FORMATS)


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(UnsupportedFormat, match="did you mean 'nuscenes'"):
        choose_format("nuscene", None, None, head=b"")


def test_paths_and_open_files_read_the_same(save):
    path = save("a.ply", PLY)
    with path.open("rb") as file:
        file.read(17)  # the position is no matter
        np.testing.assert_array_equal(read_cloud(file).xyz, read_cloud(path).xyz)
        assert not file.closed


def test_spooled_files(save):
    with tempfile.SpooledTemporaryFile(max_size=1 << 20) as file:
        file.write(PLY)
        np.testing.assert_array_equal(read_cloud(file).xyz, [[1, 2, 3]])  # type: ignore[arg-type]
    with tempfile.TemporaryFile() as plain:
        plain.write(PLY)  # not flushed
        assert len(read_cloud(plain, name="a.ply")) == 1


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.ply")
    for path in (tmp_path, tmp_path / "missing.ply", tmp_path / "pipe.ply"):
        with pytest.raises(FileError):
            read_cloud(path)


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_empty_file(save, fmt):
    with pytest.raises(EmptyFile):
        read_cloud(save("empty", b""), fmt)


@pytest.mark.parametrize("fmt", ["ply", "off", "npy", "npz"])
@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0" + bytes(500), b"hello, world\n", b"\0", pickle.dumps([1, 2]), b"PK\5\6", b"\n"])
def test_the_wrong_kind_of_file(save, fmt, data):
    with pytest.raises(BadHeader):
        read_cloud(save("wrong", data), fmt)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.ply", PLY.replace(b"vertex 1", b"vertex 9") + b"4 5 6\n" * 8),
        ("a.ply", PLY.replace(b"ascii", b"binary_little_endian").replace(b"vertex 1", b"vertex 9") + bytes(102)),
        ("a.off", b"OFF\n9 0 0\n" + b"1 2 3\n" * 9),
        ("a.off", b"OFF\n9 1 0\n" + b"1 2 3\n" * 9 + b"3 0 1 2\n"),
        ("a.npy", npy(XYZ[:9])),
        ("a.npz", npz(xyz=XYZ[:9])),
        ("a.bin", bytes(16 * 9)),
        ("a.pcd.bin", bytes(20 * 9)),
    ],
)
def test_more_points_than_wanted(save, name, data):
    path = save(name, data)
    with pytest.raises(TooManyPoints) as caught:
        read_cloud(path, max_points=8)
    assert caught.value.detail == "9 points, the limit is 8"
    if not data.startswith(b"OFF\n9 1"):
        assert len(read_cloud(path, max_points=9)) == 9


# --- bare records


@pytest.mark.parametrize(("name", "columns"), [("scan.bin", 4), ("scan.pcd.bin", 5)])
def test_bare_records(save, name, columns):
    rows = np.random.default_rng(1).random((7, columns)).astype("<f4")
    cloud = read_cloud(save(name, rows.tobytes()))
    np.testing.assert_array_equal(cloud.xyz, rows[:, :3])
    np.testing.assert_array_equal(cloud.intensity, rows[:, 3])
    assert list(cloud.extra) == ["ring"][: columns - 4]
    with pytest.raises(TruncatedFile):
        read_cloud(save(name, rows.tobytes()[:-1]))


def test_nuscenes_records_taken_for_kitti_name_the_other_format(save):
    with pytest.raises(TruncatedFile, match="5 values a record would fit"):
        read_cloud(save("scan.bin", bytes(4 * 5 * 7)))


# --- numpy arrays


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", "<i4", "u1", ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(save, dtype, order):
    array = np.asarray(np.round(XYZ * 10) + 60, dtype, order=order)
    cloud = read_cloud(save("a.npy", npy(array)))
    np.testing.assert_array_equal(cloud.xyz, array)
    assert cloud.xyz.dtype == (np.float64 if np.dtype(dtype).itemsize == 8 or dtype == "<i4" else np.float32)


def test_npy_with_more_columns(save):
    rows = np.random.default_rng(0).random((5, 6))
    np.testing.assert_array_equal(read_cloud(save("a.npy", npy(rows[:, :4]))).intensity, rows[:, 3].astype(np.float32))
    cloud = read_cloud(save("a.npy", npy(rows)))
    np.testing.assert_array_equal(np.stack(list(cloud.extra.values()), axis=1), rows[:, 3:])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(save, version):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, XYZ, version=version)
    np.testing.assert_array_equal(read_cloud(save("a.npy", buffer.getvalue())).xyz, XYZ)


def _npy_header(text: str, body: bytes = bytes(240), length: int | None = None) -> bytes:
    return b"\x93NUMPY\1\0" + (len(text) if length is None else length).to_bytes(2, "little") + text.encode() + body


def _npy_shape(shape: str, size: int = 240) -> bytes:
    return _npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}", bytes(size))


def test_npy_shapes_of_python_2_and_the_most_columns(save):
    assert len(read_cloud(save("a.npy", _npy_shape("(20L, 3L)")))) == 20
    assert len(read_cloud(save("a.npy", _npy_shape("( 20 ,3, )")))) == 20
    assert len(read_cloud(save("a.npy", _npy_shape("(1, 256)", 1024))).extra) == 253


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (npy(np.array([{}, []], dtype=object)), BadBody),
        (npy(np.zeros(3, "f4,f4,f4")), BadHeader),
        (npy(np.zeros((2, 3), "c8")), BadHeader),
        (npy(np.array([["a", "b", "c"]])), BadHeader),
        (npy(np.zeros((2, 3), "M8[s]")), BadHeader),
        (npy(np.zeros(9)), MissingCoordinates),
        (npy(np.zeros((9, 2))), MissingCoordinates),
        (npy(np.array(3.0)), MissingCoordinates),
        (npy(np.zeros((0, 3))), NoPoints),
        (npy(XYZ)[:-1], TruncatedFile),
        (npy(XYZ)[:40], BadHeader),
        (npy(XYZ)[:9], BadHeader),
        (_npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000, 3), }"), TruncatedFile),
        (_npy_shape("(9223372036854775807, 3)"), TruncatedFile),
        (_npy_shape("(9223372036854775808, 3)"), BadHeader),
        (_npy_shape("(99999999999999999999999, 3)"), BadHeader),
        (_npy_shape("(0, 99999999999999999999999999)"), BadHeader),
        (_npy_shape("(0, 9223372036854775807)"), HeaderTooLarge),
        (_npy_shape("(1, 257)", 257 * 4), HeaderTooLarge),
        (_npy_shape("(1L2, 3)"), BadHeader),
        (_npy_shape("(20 3)"), BadHeader),
        (_npy_shape("(, 3)"), BadHeader),
        (_npy_shape("(60)"), BadHeader),
        (_npy_shape("(" + "1, " * 70 + ")"), BadHeader),
        (_npy_shape("(1, 1, 1, 20, 3)"), BadHeader),
        (_npy_shape("(1, 20, 3)"), MissingCoordinates),
        (_npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (20, 3), }", length=65535), BadHeader),
        (_npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-20, 3), }"), BadHeader),
        (_npy_header("(" * 4000), BadHeader),
        (_npy_header("__import__('os').abort()"), BadHeader),
    ],
)
def test_bad_npy(save, data, error):
    with pytest.raises(error) as caught:
        read_cloud(save("a.npy", data))
    assert type(caught.value) is error


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("xyz", "rgb"), [("xyz", "rgb"), ("points", "colors"), ("pos", "colours")])
def test_npz(save, compressed, xyz, rgb):
    colours = np.arange(60, dtype=np.uint8).reshape(20, 3)
    more = {
        "intensity": np.arange(20.0),
        "label": np.arange(20),
        "names": np.array(["a"]),
        "objects": np.array([{}]),
        "scale": np.float32(1),
    }
    cloud = read_cloud(save("a.npz", npz(compressed, **more, **{xyz: XYZ, rgb: colours})))
    np.testing.assert_array_equal(cloud.xyz, XYZ)
    np.testing.assert_array_equal(cloud.rgb, colours)
    np.testing.assert_array_equal(cloud.intensity, np.arange(20))
    assert list(cloud.extra) == ["label"]
    assert cloud.xyz.flags.c_contiguous


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (npz(xyz=np.array([{}, []], dtype=object)), BadBody),
        (npz(label=np.zeros(3)), MissingCoordinates),
        (npz(xyz=np.zeros((3, 2))), MissingCoordinates),
        (npz(xyz=np.zeros((0, 3))), NoPoints),
        (npz(xyz=XYZ, rgb=np.zeros((3, 3), np.uint8)), BadBody),
        (npz(xyz=XYZ, intensity=np.zeros(3)), BadBody),
        (npz(xyz=XYZ)[:-40], BadHeader),
        (npz(xyz=XYZ)[:60] + b"\xff" * 8 + npz(xyz=XYZ)[68:], FileError),
        (_zip({"xyz.npy": b"hello"}), BadHeader),
        (_zip({"xyz.npy": npy(XYZ)[:-8]}), TruncatedFile),
        (_zip({"model.pt": pickle.dumps([1])}), MissingCoordinates),
        (_zip({f"{i}.npy": b"" for i in range(65)}), HeaderTooLarge),
        (_zip({"x" * 60_000: b"", "y" * 60_000: b""}), HeaderTooLarge),
        (_zip({"xyz.npy": npy(np.zeros((3_000_000, 3)))}), BadBody),  # 72 MB in 70 kB
        (_zip({"xyz.npy": npy(XYZ)}, zipfile.ZIP_LZMA), UnsupportedFormat),
        (_zip({"xyz.npy": npy(XYZ)}, zipfile.ZIP_BZIP2), UnsupportedFormat),
        (_zip({"xyz.npy": npy(np.zeros((1, 257)))}), HeaderTooLarge),
        (npz(xyz=XYZ, rgb=np.zeros((0, 3), np.uint8)), BadBody),
    ],
)
def test_bad_npz(save, data, error):
    with pytest.raises(error):
        read_cloud(save("a.npz", data))


def test_what_is_no_array_does_not_pay_for_arrays(save):
    """A stored member of 2 MB beside 70 kB of zeros: its size does not raise what the arrays may come to."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xyz.npy", npy(np.zeros((3_000_000, 3))))
        archive.writestr("readme.txt", bytes(2 << 20), zipfile.ZIP_STORED)
    with pytest.raises(BadBody, match="the limit for"):
        read_cloud(save("a.npz", buffer.getvalue()))


def test_an_absolute_limit_for_the_arrays_of_an_npz(save, monkeypatch):
    path = save("a.npz", npz(xyz=XYZ))
    monkeypatch.setattr("models.io.npz.UNZIPPED_BYTES", 128 + XYZ.nbytes)
    read_cloud(path)
    monkeypatch.setattr("models.io.npz.UNZIPPED_BYTES", 127 + XYZ.nbytes)
    with pytest.raises(BadBody):
        read_cloud(path)


@pytest.mark.parametrize(("columns", "guess"), [(3, None), (4, "bin"), (5, "nuscenes"), (6, None), (8, None)])
def test_bare_records_of_a_scan_are_known_by_their_values(columns: int, guess: str | None) -> None:
    """As curl --data-binary sends a scan: no name, no type, no magic."""
    records = sweep(columns)
    head = records.tobytes()
    assert guess_records(head) == guess
    assert guess_records(head[: 31 * 4 * columns]) is None
    assert guess_records(np.random.default_rng(0).permutation(records).tobytes()) is None
    assert guess_records((records + np.float32(1000)).tobytes()) is None
    if guess:
        assert choose_format(None, None, "application/x-www-form-urlencoded", head=head) == guess
        records[::7, :3] = np.nan
        assert guess_records(records.tobytes()) == guess


@pytest.mark.parametrize(
    "head", [b"", bytes(4096), b"x y z\n1 2 3\n" * 400, np.arange(1024, dtype="<i4").tobytes(), b"\x89PNG\r\n\x1a\n" * 500]
)
def test_other_bytes_are_not_guessed_at(head: bytes) -> None:
    assert guess_records(head) is None


def test_noise_is_not_guessed_at() -> None:
    rng = np.random.default_rng(0)
    assert all(guess_records(rng.bytes(4096)) is None for _ in range(300))


@pytest.mark.data
def test_real_scans_are_known_by_their_values(data_dir: Path) -> None:
    scans = [*sorted(data_dir.glob("semantickitti/sequences/*/velodyne/*.bin")), data_dir / "lidar_camera" / "kitti_000008.bin"]
    assert [guess_records(path.read_bytes()[:HEAD_BYTES]) for path in scans] == ["bin"] * len(scans)
    assert guess_records((data_dir / "lidar_camera" / "nuscenes_n015.pcd.bin").read_bytes()[:HEAD_BYTES]) == "nuscenes"
    others = [path for path in data_dir.rglob("*") if path.is_file() and path.suffix not in (".bin", ".npz")][:300]
    assert not any(guess_records(path.read_bytes()[:HEAD_BYTES]) for path in others)
    rooms, scene = np.load(data_dir / "s3dis" / "room_labelled_xyz.npz"), np.load(data_dir / "scannet" / "scene0000_00_unlabelled.npz")
    tables = [rooms["xyz"] * rooms["scale"], scene["xyz"], np.column_stack([scene["xyz"], scene["rgb"] / 255])]
    assert not any(guess_records(table.astype("<f4").tobytes()[:HEAD_BYTES]) for table in tables)
