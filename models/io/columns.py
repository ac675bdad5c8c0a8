"""From the named columns of a file to a PointCloud: which names mean coordinates, colour and intensity, in which ranges.

N points. Names are compared in lower case; the columns that mean nothing here are kept under `extra`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, MissingCoordinates, NonFinite
from models.io.records import BLOCK_ROWS, Records, Table
from models.pointcloud import PointCloud

COORDINATES = ("x", "y", "z")
PLANES = (("x", "y"), ("easting", "northing"), ("east", "north"), ("e", "n"), ("rechtswert", "hochwert"), ("points:0", "points:1"))
HEIGHTS = ("z", "elevation", "elev", "height", "altitude", "alt", "h", "höhe", "hoehe", "up", "u", "points:2")  # ParaView has points:2
DEGREES = (("lat", "latitude"), ("lon", "long", "lng", "longitude"))
COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
SPLAT_COLOUR = ("f_dc_0", "f_dc_1", "f_dc_2")  # of a Gaussian splat: the constant term of its spherical harmonics
PLAIN_SPLAT = "send it as a plain PLY, which splat-transform IN OUT.ply makes"
SPLAT_SCALE = 0.28209479177387814  # 1 / (2 sqrt(pi)), the value of that harmonic
INTENSITIES = ("intensity", "scalar_intensity", "reflectance", "scalar_reflectance", "remission", "scalar_remission")

Generic = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Roles:
    """Which columns of a file are coordinates, colour and intensity, under the names of the file; `extra` are all others."""

    xyz: tuple[str, str, str]
    rgb: tuple[str, ...]
    intensity: str | None
    extra: tuple[str, ...]

    @property
    def is_splat(self) -> bool:
        return tuple(name.lower() for name in self.rgb) == SPLAT_COLOUR


def coordinates_in(names: Sequence[str]) -> tuple[int, int, int] | None:
    """The places of x, y and z among the names of columns, or of what surveyors call them: `Easting [m]`, `N`, `Height`, `pos_x`, `X_m`.

    Names that are no more than x, y and z are looked for first, the first one of a kind is meant, and both of the plane are of one pair.
    """
    for called in (str.lower, plain_name):
        found: dict[str, int] = {}
        for place, name in enumerate(names):
            found.setdefault(called(name), place)
        if all(axis in found for axis in COORDINATES):
            return found["x"], found["y"], found["z"]
    plane = next((pair for pair in PLANES if all(axis in found for axis in pair)), None)
    height = next((each for each in HEIGHTS if each in found), None)
    return None if plane is None or height is None else (found[plane[0]], found[plane[1]], found[height])


def plain_name(name: str) -> str:
    """A name in lower case, without its unit (`X [m]`, `Z(m)`, `x_m`) and what says no more than that it is of a point (`pos_x`)."""
    short = re.sub(r"\s*[\[(].*", "", name.strip(" \"'"), flags=re.DOTALL).lower()
    short = re.sub(r"[_ ](m|met(er|re)s?)$", "", short)
    return re.sub(r"^(pos|position|point|coord|coordinate)[_. ](?=[xyz]$)", "", short)


def require_coordinates(names: Iterable[str]) -> tuple[int, int, int]:
    """The places of x, y and z among the names of the columns. Raises: MissingCoordinates."""
    columns = list(names)
    found = coordinates_in(columns)
    if found is not None:
        return found
    lower = [plain_name(name) for name in columns]
    if "packed_position" in lower:
        raise MissingCoordinates(
            f"a compressed Gaussian splat: its positions are packed integers, not x, y, z; {PLAIN_SPLAT}", where="packed_position"
        )
    if all(any(name in lower for name in axis) for axis in DEGREES):
        raise MissingCoordinates("latitude and longitude are degrees, no metres: project them, to UTM for example", where="latitude")
    missing = [axis for axis in COORDINATES if axis not in lower]
    shown = ", ".join(name.lower() for name in columns[:16]) or "none"
    raise MissingCoordinates(
        f"no {', '.join(missing)} among the columns ({shown}): name them x, y, z (or easting, northing, elevation)", where=missing[0]
    )


def roles_of(columns: tuple[str, ...]) -> Roles:
    """Raises: MissingCoordinates."""
    x, y, z = (columns[place] for place in require_coordinates(columns))
    names = {name.lower(): name for name in reversed(columns)}  # the first one of a kind wins
    rgb = next((tuple(names[name] for name in triple) for triple in (*COLOURS, SPLAT_COLOUR) if all(name in names for name in triple)), ())
    intensity = next((names[name] for name in INTENSITIES if name in names), None)
    roles = Roles((x, y, z), rgb, intensity, ())
    used = (x, y, z, intensity, *(() if roles.is_splat else rgb))  # a splat's harmonics are more than its colour
    return Roles((x, y, z), rgb, intensity, tuple(name for name in columns if name not in used))


def cloud_of(records: Records, *, extra: bool = True) -> PointCloud:
    """The cloud of N rows, with its `extra` columns or without. xyz is float64 where a coordinate is double or an integer of 32 bits or
    more, else float32.

    Raises: MissingCoordinates, BadBody (a colour outside its range), NonFinite (a colour that is not a number), what reading raises.
    """
    roles, n = roles_of(records.names), records.count
    xyz = np.empty((n, 3), xyz_type(records.dtype[name] for name in roles.xyz))
    rgb = np.empty((n, 3), np.result_type(*(records.dtype[name] for name in roles.rgb)).newbyteorder("=")) if roles.rgb else None
    intensity = None if roles.intensity is None else np.empty(n, np.float32)
    others = {name: np.empty(n, records.dtype[name].newbyteorder("=")) for name in (roles.extra if extra else ())}
    used = (*roles.xyz, *roles.rgb, *(() if roles.intensity is None else (roles.intensity,)), *others)
    for rows, table in records.only(used).blocks():
        _gather(table, roles.xyz, xyz[rows])
        if rgb is not None:
            _gather(table, roles.rgb, rgb[rows])
        if intensity is not None:
            intensity[rows] = table[roles.intensity]
        for name, column in others.items():
            column[rows] = table[name]
    if rgb is not None:
        rgb = as_rgb(splat_colour(rgb) if roles.is_splat else rgb)
    return PointCloud(xyz, rgb, intensity, MappingProxyType(others))


def xyz_type(types: Iterable[np.dtype[np.generic]]) -> type[np.float32] | type[np.float64]:
    """float32 where it holds the values of all three coordinates without loss, else float64."""
    small = all((each.kind == "f" and each.itemsize <= 4) or each.itemsize <= 2 for each in types)
    return np.float32 if small else np.float64


def splat_colour(harmonics: Generic) -> npt.NDArray[np.floating]:
    """The colour (N, 3), 0..1, of constant harmonics (N, 3). Source: Kerbl et al., 3D Gaussian Splatting, 2023: 0.5 + Y00 · f_dc."""
    colour = harmonics.astype(np.float32)
    colour *= np.float32(SPLAT_SCALE)
    colour += np.float32(0.5)
    return np.clip(colour, 0, 1, out=colour)


def as_rgb(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Colours (N, 3) as 0..255 uint8, from uint8, floats in 0..1 or 0..255, or wider integers in 0..255 or 0..65535.

    Which of the two ranges a file means is read off its largest value. Raises: BadBody, NonFinite.
    """
    if values.dtype == np.uint8 or values.size == 0:
        return np.ascontiguousarray(values, np.uint8)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise NonFinite("a colour is not a finite number", where="red, green, blue")
    full = (1.0, 255.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    scale = next((255.0 / top for top in full if high <= top * 1.0001), None)
    if scale is None or low < 0:
        raise BadBody(f"colours must lie in 0..{full[0]:g} or 0..{full[1]:g}, found {low:g}..{high:g}", where="red, green, blue")
    rgb = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        rgb[block] = np.minimum(np.rint(values[block].astype(np.float64) * scale), 255.0)
    return rgb


def _gather(table: Table, names: tuple[str, ...], out: Generic) -> None:
    """Three columns into (n, 3). Neighbours of one type move as one block, three times faster than column by column."""
    places = table.dtype.fields
    assert places is not None
    fields = [(places[name][0], places[name][1]) for name in names]
    dtype, start = fields[0]
    if fields == [(dtype, start + i * dtype.itemsize) for i in range(3)]:
        block = np.dtype({"names": ["xyz"], "formats": [(dtype, (3,))], "offsets": [start], "itemsize": table.dtype.itemsize})
        out[:] = table.view(block)["xyz"]
        return
    for column, name in enumerate(names):
        out[:, column] = table[name]
