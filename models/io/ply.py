"""PLY: ascii or binary of either byte order; only the vertex element is read."""

from models.errors import NoPoints
from models.io.columns import cloud_from_table, require_coordinates
from models.io.ply_ascii import read_ascii
from models.io.ply_binary import read_binary
from models.io.ply_header import read_header
from models.io.source import Source
from models.pointcloud import PointCloud


def read_ply(source: Source) -> PointCloud:
    """The vertices of a PLY file as N points.

    Raises: BadHeader, HeaderTooLarge, TruncatedFile, BadBody, MissingCoordinates, NoPoints, NonFinite, TooManyPoints.
    """
    header = read_header(source)
    vertex = header.elements[header.vertex]
    require_coordinates(each.name for each in vertex.properties if not each.length_code)
    if vertex.count == 0:
        raise NoPoints("the vertex element has no rows")
    source.admit(vertex.count)
    table = read_binary(source, header) if header.byte_order else read_ascii(source, header)
    return cloud_from_table(table)
