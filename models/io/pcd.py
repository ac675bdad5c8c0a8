"""PCD, the format of the Point Cloud Library: ascii, binary, and binary compressed by LZF.

Padding (fields called `_`) is no column. A field of k values becomes k columns `name_0`, … A colour that is packed into the bits of one
field `rgb` or `rgba` becomes columns red, green, blue (and alpha), unless there are columns of those names.
"""

from functools import partial

import numpy as np

from models.errors import NoPoints
from models.io.columns import require_coordinates
from models.io.pcd_body import READERS
from models.io.pcd_header import Field, Header, as_stored, read_header
from models.io.records import Records
from models.io.source import Source

CHANNELS = ("blue", "green", "red", "alpha")  # of a packed colour, from its lowest byte on
PACKED = {"rgb": 3, "rgba": 4}


def read_pcd(source: Source) -> Records:
    """The columns of the points, in their order in the file: row by row where the cloud is organised.

    Raises: BadHeader, HeaderTooLarge, TruncatedFile, BadBody (sizes of compressed data that cannot be), MissingCoordinates, NoPoints,
    TooManyPoints; reading them TruncatedFile, BadBody.
    """
    header = read_header(source)
    require_coordinates(field.name for field in header.fields)
    if header.points == 0:
        raise NoPoints("the header announces no points")
    source.admit(header.points)
    header = as_stored(header, source)
    dtype = column_type(header)
    return Records(header.points, dtype, partial(READERS[header.data], source, header, dtype))


def column_type(header: Header) -> np.dtype[np.void]:
    """The columns as a view of one point of a binary file."""
    columns: dict[str, tuple[str, int]] = {}  # code, offset
    taken = {field.name.lower() for field in header.fields}
    place = 0
    for field in header.fields:
        channels = packed_channels(field)
        if channels and not taken.intersection(channels):
            taken.update(channels)
            columns |= {name: ("u1", place + CHANNELS.index(name)) for name in channels}
        elif not field.is_padding:
            step = int(field.code[1:])
            for i in range(field.count):
                name = field.name if field.count == 1 else f"{field.name}_{i}"
                while name in columns or (field.count > 1 and name.lower() in taken):
                    name += "_"
                columns[name] = (f"<{field.code}", place + i * step)
        place += field.nbytes
    codes, offsets = zip(*columns.values(), strict=True)
    return np.dtype({"names": list(columns), "formats": list(codes), "offsets": list(offsets), "itemsize": place})


def packed_channels(field: Field) -> tuple[str, ...]:
    """red, green, blue (and alpha) of a field that holds them in its four bytes, else nothing."""
    known = PACKED.get(field.name.lower(), 0) if field.count == 1 and field.nbytes == 4 else 0
    return ("red", "green", "blue", "alpha")[:known]
