"""PLY files written by many programs: how many points each has, and every value against plyfile."""

import csv
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyListProperty, PlyParseError

from models.errors import InputError
from models.io import read_cloud

pytestmark = pytest.mark.data
REFUSALS = {
    "PDAL__sized_dims.ply": "missing_coordinates",
    "assimp__empty.ply": "empty_file",
    "trimesh__empty.ply": "no_points",
    "trimesh__ply_empty_header.ply": "missing_coordinates",
    "playcanvas__guitar.compressed.ply": "missing_coordinates",
}


@pytest.fixture(scope="module")
def zoo(data_dir: Path) -> dict[Path, str]:
    with (data_dir / "ply-zoo" / "expected.csv").open(newline="") as file:
        return {data_dir / "ply-zoo" / row["file"]: row["expected"] for row in csv.DictReader(file)}


def test_every_file_is_read_or_refused_as_expected(zoo):
    assert len(zoo) == 45
    for path, expected in zoo.items():
        if expected == "refuse":
            with pytest.raises(InputError) as caught:
                read_cloud(path)
            assert caught.value.code == REFUSALS[path.name], path.name
        else:
            assert len(read_cloud(path).checked()) == int(expected), path.name


def test_values_are_those_of_plyfile(zoo):
    compared = 0
    for path, expected in zoo.items():
        if expected == "refuse":
            continue
        try:
            vertex = PlyData.read(str(path))["vertex"]
        except (PlyParseError, UnicodeDecodeError):
            continue  # not read by plyfile
        cloud = read_cloud(path)
        np.testing.assert_array_equal(cloud.xyz, np.stack([vertex[axis] for axis in "xyz"], axis=1), path.name)
        names = [each.name for each in vertex.properties if not isinstance(each, PlyListProperty)]
        if cloud.rgb is not None:
            colours = np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1)
            scale = 255 if colours.dtype.kind == "f" else 1
            np.testing.assert_array_equal(cloud.rgb, np.rint(colours * scale), path.name)
        assert (cloud.rgb is not None) == ("red" in names)
        assert set(cloud.extra) == set(names) - {"x", "y", "z", "red", "green", "blue"}
        for name, column in cloud.extra.items():
            np.testing.assert_array_equal(column, vertex[name], path.name)
            assert column.dtype == vertex[name].dtype.newbyteorder("=")
        compared += 1
    assert compared == 36


def test_meshes_and_scans_of_other_programs(data_dir):
    meshes = sorted(data_dir.glob("meshes/*/*.off"))
    assert len(meshes) == 22
    for path in meshes:
        assert len(read_cloud(path).checked()) == 16_384
    assert len(read_cloud(data_dir / "semantickitti/sequences/08/velodyne/000000.bin").checked()) == 123_389
    scan = read_cloud(data_dir / "lidar_camera/nuscenes_n015.pcd.bin").checked()
    assert len(scan) == 34_688
    assert scan.extra["ring"].max() == 31
