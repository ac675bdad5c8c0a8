"""OFF meshes: dialects, sampling of the surface, damage."""

import itertools

import numpy as np
import pytest

from models.errors import (
    BadBody,
    BadHeader,
    DegenerateCloud,
    NonFinite,
    NoPoints,
    TooManyPoints,
    TruncatedFile,
    UnsupportedFormat,
)
from models.io import read_cloud
from models.io.off import SURFACE_POINTS, sample_surface
from models.io.source import ROWS_AT_A_TIME

CUBE_OFF = b"""OFF
8 6 12
1 1 1\n-1 1 1\n-1 -1 1\n1 -1 1\n1 1 -1\n-1 1 -1\n-1 -1 -1\n1 -1 -1
4 0 1 2 3\n4 7 6 5 4\n4 0 3 7 4\n4 1 5 6 2\n4 0 4 5 1\n4 3 2 6 7
"""


def test_more_points_than_wanted_on_a_surface(save):
    path = save("a.off", CUBE_OFF)
    assert len(read_cloud(path, max_points=SURFACE_POINTS)) == SURFACE_POINTS
    with pytest.raises(TooManyPoints):
        read_cloud(path, max_points=SURFACE_POINTS - 1)


@pytest.mark.parametrize(
    "data",
    [
        CUBE_OFF,
        CUBE_OFF.replace(b"OFF\n", b"OFF"),  # ModelNet's
        CUBE_OFF.replace(b"OFF\n", b"OFF # a cube\r\n\r\n# of six faces\n"),
        CUBE_OFF.replace(b"\n4 ", b" # beside\n  4\t"),
        CUBE_OFF.replace(b"\n", b"\r"),
        CUBE_OFF.replace(b"OFF", b"COFF").replace(b"1 1 1\n", b"1 1 1 255 0 0 255\n"),
        CUBE_OFF.replace(b"4 0 1 2 3\n", b"4 0 1 2 3 0.5 0.5 0.5\n").rstrip(),
    ],
)
def test_off_dialects(save, data):
    np.testing.assert_array_equal(read_cloud(save("a", data)).xyz, read_cloud(save("cube.off", CUBE_OFF)).xyz)


def test_off_points_lie_evenly_on_the_surface(save):
    xyz = read_cloud(save("a.off", CUBE_OFF)).xyz
    assert xyz.shape == (SURFACE_POINTS, 3)
    np.testing.assert_allclose(np.abs(xyz).max(axis=1), 1, atol=1e-12)
    octants = np.bincount((xyz > 0) @ [1, 2, 4], minlength=8)
    sigma = np.sqrt(SURFACE_POINTS / 8 * 7 / 8)
    assert (abs(octants - SURFACE_POINTS / 8) < 5 * sigma).all()


def test_surface_samples_follow_the_area_not_the_number_of_triangles():
    """A triangle three times as large as another gets three times the points, and each has its centroid as their mean."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0.0]])
    points = sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 40_000, np.random.default_rng(7))
    far = points[:, 0] > 3
    assert abs(far.mean() - 0.75) < 0.012
    np.testing.assert_allclose(points[far].mean(axis=0), vertices[3:].mean(axis=0), atol=0.03)
    np.testing.assert_allclose(points[~far].mean(axis=0), vertices[:3].mean(axis=0), atol=0.03)


def test_off_of_more_rows_than_a_block(save):
    """Polygons of 2 to 5 corners: the points are those of the same fans given as triangles."""
    count = ROWS_AT_A_TIME + 10
    vertices = np.random.default_rng(0).random((count, 3)).round(6)
    polygons = [[(i + k) % count for k in range(2 + i % 4)] for i in range(count)]
    fans = [(each[0], a, b) for each in polygons for a, b in itertools.pairwise(each[1:])]

    def off(faces) -> bytes:
        rows = [*(" ".join(map(str, row)) for row in vertices), *(" ".join(map(str, (len(row), *row))) for row in faces)]
        return f"OFF\n{count} {len(faces)} 0\n".encode() + "\n".join(rows).encode()

    expected = sample_surface(vertices, np.array(fans), SURFACE_POINTS, np.random.default_rng(0))
    for faces in (polygons, fans):
        np.testing.assert_array_equal(read_cloud(save("a.off", off(faces))).xyz, expected)


def test_off_without_faces_is_a_cloud(save):
    np.testing.assert_array_equal(read_cloud(save("a.off", b"OFF\n2 0 0\n1 2 3\n4 5 6\n")).xyz, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"OFF\n", BadHeader),
        (b"OFFICE\n1 2 3\n", BadHeader),
        (b"OFF\n1 x 0\n", BadHeader),
        (b"OFF\n-1 0 0\n", BadHeader),
        (b"4OFF\n1 0 0\n1 2 3 4\n", BadHeader),
        (b"OFF BINARY\n" + bytes(40), UnsupportedFormat),
        (b"OFF\n0 0 0\n", NoPoints),
        (b"OFF\n2000000000 0 0\n1 2 3\n", TruncatedFile),
        (b"OFF\n1 2000000000 0\n1 2 3\n", TruncatedFile),
        (b"OFF\n2 0 0\n1.0000 2.0000 3.0000\n", TruncatedFile),
        (b"OFF\n2 0 0\n1 2 3\n4 5 six\n", BadBody),
        (b"OFF\n2 0 0\n1 2 3\n4 5 \n", BadBody),
        (CUBE_OFF.replace(b"4 0 1 2 3", b"4 0 1 2 8"), BadBody),
        (CUBE_OFF.replace(b"4 0 1 2 3", b"4 0 1 2 -1"), BadBody),
        (CUBE_OFF.replace(b"4 0 1 2 3", b"9 0 1 2 3"), BadBody),
        (CUBE_OFF.replace(b"4 0 1 2 3", b"four"), BadBody),
        (CUBE_OFF.replace(b"\n4 3 2 6 7", b""), TruncatedFile),
        (b"OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n", DegenerateCloud),
        (b"OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n2 0 1\n", DegenerateCloud),
        (CUBE_OFF.replace(b"1 1 1\n", b"1 1 nan\n", 1), NonFinite),
        (CUBE_OFF.replace(b"1 1 1\n", b"1 1 1e200\n", 1), NonFinite),
        (b"OFF\n" + b"1" * 10_000_000, BadBody),
        (b"OFF\n" + b"9" * 5000 + b" 0 0\n1 2 3\n", BadHeader),
        (b"OFF\n1 " + b"9" * 4300 + b" 0\n1 2 3\n", BadHeader),
        (b"OFF\n1 0 " + b"9" * 19 + b"\n1 2 3\n", BadHeader),
    ],
)
def test_bad_off(save, data, error):
    with pytest.raises(error) as caught:
        read_cloud(save("a.off", data))
    assert type(caught.value) is error
