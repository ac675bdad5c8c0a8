"""Clouds that came as something else, as LAS 1.4: what laspy reads of them, and how far off coordinates are at most."""

import io

import laspy
import numpy as np
import pytest

from models.answers import Labelled, write_answer
from models.answers.las_new import scaling
from models.io import CloudFile
from models.io.records import BLOCK_ROWS, records_of_columns
from models.io.source import Source
from models.pointcloud import PointCloud
from tests.in_memory import cloud_of, encode, guessed
from tests.las_answers import KITTI, answer_to, has_answer
from tests.las_files import EXTRA, bytes_of, las_data


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
    assert found.vlrs.get_by_id("fip_server")[0].record_data.startswith(b"0 car (id 10)\n1 ")
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
