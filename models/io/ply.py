"""PLY: ascii or binary of either byte order; only the vertex element is read."""

from functools import partial

import numpy as np

from models.errors import NoPoints
from models.io.columns import require_coordinates
from models.io.ply_ascii import read_ascii
from models.io.ply_binary import read_binary
from models.io.ply_header import read_header
from models.io.records import Records
from models.io.source import Source


def read_ply(source: Source) -> Records:
    """The scalar columns of the vertices; lists are passed over.

    Raises: BadHeader, HeaderTooLarge, TruncatedFile, MissingCoordinates, NoPoints, TooManyPoints; reading them TruncatedFile, BadBody.
    """
    header = read_header(source)
    vertex = header.elements[header.vertex]
    scalars = [each for each in vertex.properties if not each.length_code]
    require_coordinates(each.name for each in scalars)
    if vertex.count == 0:
        raise NoPoints("the vertex element has no rows")
    source.admit(vertex.count)
    dtype = np.dtype([(each.name, header.byte_order + each.code) for each in scalars])
    return Records(vertex.count, dtype, partial(read_binary if header.byte_order else read_ascii, source, header))
