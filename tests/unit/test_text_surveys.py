"""Coordinates under the names that surveyors give them, and columns that count the points."""

import numpy as np
import pytest

from models.errors import MissingCoordinates
from models.io import open_cloud, read_cloud
from models.io.columns import coordinates_in
from tests.in_memory import answer_to, many_classes


@pytest.mark.parametrize(
    ("header", "places"),
    [
        ("x,y,z", (0, 1, 2)),
        ("Z,Y,X", (2, 1, 0)),
        ("E,N,H", (0, 1, 2)),
        ("N,E,H", (1, 0, 2)),
        ("Point,E,N,Z", (1, 2, 3)),
        ("Y,X,H", (1, 0, 2)),
        ("easting,northing,elevation", (0, 1, 2)),
        ("Northing (m),Easting (m),Height (m)", (1, 0, 2)),
        ("East,North,Up", (0, 1, 2)),
        ("E,N,U", (0, 1, 2)),
        ("Rechtswert,Hochwert,Höhe", (0, 1, 2)),
        ("rechtswert,hochwert,hoehe", (0, 1, 2)),
        ("X_m,Y_m,Z_m", (0, 1, 2)),
        ("E [m],N [m],Altitude [m]", (0, 1, 2)),
        ("time,pos_x,pos_y,pos_z", (1, 2, 3)),
        ("POINT_X,POINT_Y,POINT_Z", (0, 1, 2)),
        ("Points:0,Points:1,Points:2", (0, 1, 2)),
        ("x,y,height,z", (0, 1, 3)),
        ("pos_x,pos_y,pos_z,x,y,z", (3, 4, 5)),
        ("lat,lon,e,n,h", (2, 3, 4)),
        ("x,x,y,z", (0, 2, 3)),
    ],
)
def test_names_of_coordinates(save, header, places):
    assert coordinates_in(header.split(",")) == places
    row = [float(place + 1) for place in range(header.count(",") + 1)]
    path = save("a.csv", (header + "\n" + ",".join(f"{value}" for value in row) + "\n").encode())
    np.testing.assert_array_equal(read_cloud(path).xyz, [[row[place] for place in places]])
    answer, _, _ = answer_to(path, "same", many_classes(3))
    assert answer.decode().startswith(header + ",label,")
    ply, _, _ = answer_to(path, "ply", many_classes(3))
    np.testing.assert_array_equal(read_cloud(save("a.ply", ply)).xyz, [[row[place] for place in places]])


@pytest.mark.parametrize("header", ["a,b,c", "x,n,z", "e,y,z", "x,y,t", "e,h,z", "lat,x,y"])
def test_names_that_are_none_of_these(save, header):
    with pytest.raises(MissingCoordinates, match=r"name them x, y, z \(or easting, northing, elevation\)"):
        read_cloud(save("a.csv", f"{header}\n1,2,3\n".encode()))


@pytest.mark.parametrize("header", ["lat,lon,alt", "Latitude,Longitude,z", "lng,lat,h"])
def test_degrees_are_refused_as_such(save, header):
    with pytest.raises(MissingCoordinates, match="degrees, no metres"):
        read_cloud(save("a.csv", f"{header}\n1,2,3\n".encode()))


def test_other_formats_have_these_names_too(save):
    text = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float N\nproperty float E\nproperty float H\nend_header\n2 1 3\n"
    path = save("a.ply", text.encode())
    np.testing.assert_array_equal(read_cloud(path).xyz, [[1, 2, 3]])
    for fmt in ("same", "csv", "las"):
        answer, _, _ = answer_to(path, fmt, many_classes(3))
        np.testing.assert_array_equal(read_cloud(save(f"b.{'ply' if fmt == 'same' else fmt}", answer)).xyz, [[1, 2, 3]])
    fields = "VERSION 0.7\nFIELDS E N H\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n1 2 3\n"
    np.testing.assert_array_equal(read_cloud(save("a.pcd", fields.encode())).xyz, [[1, 2, 3]])


ROWS: list[list[float]] = [[0.917, 6.658, 12.363], [1, 2, 4], [0.5, 2, 3], [8, 7, 6], [2, 2, 2]]


@pytest.mark.parametrize("first", [0, 1, 1000])
def test_a_first_column_that_counts_is_no_coordinate(save, first):
    text = "".join(f"{first + place} {row[0]} {row[1]} {row[2]} {place * 7 % 5}\n" for place, row in enumerate(ROWS))
    path = save("a.txt", text.encode())
    cloud = read_cloud(path)
    np.testing.assert_array_equal(cloud.xyz, ROWS)
    np.testing.assert_array_equal(cloud.intensity, [0, 2, 4, 1, 3])
    np.testing.assert_array_equal(cloud.extra["id"], first + np.arange(5))


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [0, 1, 2, 3, 5], [0.5, 1.5, 2.5, 3.5, 4.5], [4, 3, 2, 1, 0]])
def test_a_first_column_that_does_not_count_is_x(save, numbers):
    text = "".join(f"{number} 1 2 {number}\n" for number in numbers)
    with open_cloud(save("a.txt", text.encode())) as file:
        assert file.records.names == ("x", "y", "z", "intensity")


def test_three_columns_are_coordinates_even_where_one_counts(save):
    np.testing.assert_array_equal(read_cloud(save("a.txt", b"".join(b"%d 1 2\n" % i for i in range(9)))).xyz[:, 0], range(9))
