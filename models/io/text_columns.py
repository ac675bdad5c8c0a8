"""What the columns of a text cloud are: by their names, or where they have none by their number and values.

S rows of the head, C columns. The names are those that `models.io.columns` knows; others are kept as they are.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.io.columns import COLOURS, COORDINATES, INTENSITIES, coordinates_in, require_coordinates
from models.io.names import numbered

KNOWN = {*COORDINATES, *INTENSITIES, *(name for triple in COLOURS for name in triple)}
MEANT = {"rf": "r", "gf": "g", "bf": "b"}  # CloudCompare: colours from 0 to 1
IDS = 5  # rows of consecutive numbers are points that are counted
UNIT = 0.02  # how far from 1 the length of a normal may be
DARK = 32  # a last column that stays below, beside colours that do not, holds classes

Sample = npt.NDArray[np.float64]


def names_mean_coordinates(names: Sequence[str]) -> bool:
    """Whether x, y and z are among the names of columns."""
    return coordinates_in(names) is not None


def column_names(names: Sequence[str] | None, sample: Sample, numeric: Sequence[int]) -> tuple[str, ...]:
    """The names (C,) of columns, each once; `names` are those that the file gives, `numeric` the columns of numbers, three or more.

    Raises: MissingCoordinates.
    """
    if names is None:
        found = [f"column_{place}" for place in range(sample.shape[1])]
        if len(numeric) > 3 and _are_ids(sample[:, numeric[0]]):
            found[numeric[0]] = "id"
            numeric = numeric[1:]
        for place, name in zip(numeric, [*COORDINATES, *_by_values(sample[:, list(numeric[3:])], numeric[3:])], strict=True):
            found[place] = name
    else:
        taken = {name.lower() for name in names}
        found = [role if (role := _role(name)).lower() == name.lower() or role.lower() not in taken else name for name in names]
        xyz = require_coordinates([found[place] for place in numeric])
        for axis, place in zip(COORDINATES, (numeric[each] for each in xyz), strict=True):
            if found[place].lower() != axis and axis not in taken:
                found[place] = axis
    out: dict[str, None] = {}
    for place, name in enumerate(found):
        name = name or f"column_{place}"
        out[numbered(name, out)] = None
    return tuple(out)


def _role(name: str) -> str:
    """A name without its unit (`X [m]`, `Intensity(a.u.)`) or as we call it, where that is one with a meaning here."""
    short = re.sub(r"\s*(\[.*|\(.*)", "", name.strip(" \"'"), flags=re.DOTALL)
    if short.lower() in KNOWN:
        return short
    return MEANT.get(short.lower(), name)


def _by_values(others: Sample, places: Sequence[int]) -> list[str]:
    """The names of the columns (S, n) at some places after the coordinates, where the file gives none.

    One is an intensity. Three are a colour where they are whole numbers from 0 to 255, a normal where they have length 1, and a colour
    where they lie from 0 to 1. Four are an intensity and a colour as in PTS, unless the last, beside three of a colour, holds small
    whole numbers: classes. Six are two of these triples. Whatever else there is cannot be told: `column_3`, ...
    """
    width = others.shape[1]
    plain = [f"column_{place}" for place in places]
    if width == 1:
        return ["intensity"]
    if width == 3:
        return _triple(others) or plain
    if width == 4:
        if _are_bytes(others[:, :3]) and _are_bytes(others[:, 3:]) and others[:, 3].max() < DARK <= others[:, :3].max():
            return ["red", "green", "blue", plain[3]]
        return ["intensity", "red", "green", "blue"] if _are_bytes(others[:, 1:]) else plain
    if width == 6:
        first, second = _triple(others[:, :3]), _triple(others[:, 3:])
        return first + second if first and second and first != second else (first or plain[:3]) + plain[3:]
    return plain


def _are_ids(values: Sample) -> bool:
    """Whether values (S,) count the rows: n, n + 1, ..."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers of any size, and NaN
        return len(values) >= IDS and float(values[0]).is_integer() and bool((np.diff(values) == 1).all())


def _triple(values: Sample) -> list[str]:
    """What three columns (S, 3) are, or nothing."""
    if _are_bytes(values) and values.max() > 1:
        return ["red", "green", "blue"]
    with np.errstate(over="ignore", invalid="ignore"):  # numbers of any size, and NaN
        unit = np.abs(np.square(values).sum(axis=1) - 1) < UNIT
    if unit.mean() > 0.9:  # a few points have none
        return ["nx", "ny", "nz"]
    if values.min() >= 0 and values.max() <= 1:
        return ["red", "green", "blue"]
    return []


def _are_bytes(values: Sample) -> bool:
    return bool(((values >= 0) & (values <= 255) & (values == np.rint(values))).all())
