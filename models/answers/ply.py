"""Labelled PLY: the cloud as it was read, and after its columns the answer. Binary, little-endian, one vertex element.

Coordinates, colours and intensity are written under their usual names (x, y, z, red, green, blue, intensity), whatever the file
called them; the other columns keep their names and types, as far as PLY has them:
- A name is one word of one byte a letter. Blanks and letters beyond latin-1 become `_`; a name that is there already gets `_2`, ...
- bool becomes uchar, float16 float. PLY has no 64-bit integers: they become double if that changes none of them, else the column
  is refused, as it is if it is not one number a point.
"""

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO

import numpy as np
import numpy.typing as npt

from models.answers.labelled import Labelled
from models.errors import BadOption
from models.labels import LabelMap
from models.pointcloud import PointCloud

Column = npt.NDArray[np.generic]  # (N,)

TYPES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double"}
WIDENED = {"b1": "u1", "f2": "f4"}
EXACT_IN_DOUBLE = 1 << 53
COMMENT_BYTES = 32 * 1024  # our own reader, and others, bound the header
PREFIX = "fip_"
ROWS_AT_A_TIME = 16_384


def encode_ply(answer: Labelled) -> bytes:
    """Every column of the cloud, then label (class: uchar, or ushort above 256 classes), confidence (float), label_red/green/blue.

    The added names get the prefix `fip_` where the cloud has a column of that name. Comments list the classes.
    Raises: BadOption (a column that PLY cannot hold).
    """
    columns = dict(_originals(answer.cloud))
    label_name, *others = _free_names(columns, ("label", "confidence", "label_red", "label_green", "label_blue"))
    red, green, blue = answer.label_map.colours.take(answer.labels, axis=0).T  # (L, 3) -> (N, 3)
    columns |= {label_name: answer.indices, **dict(zip(others, (answer.confidence, red, green, blue), strict=True))}
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *_comments(answer.label_map, label_name),
        f"element vertex {len(answer.cloud)}",
        *(f"property {TYPES[_code(values)]} {name}" for name, values in columns.items()),
        "end_header\n",
    ]
    file = BytesIO()
    file.write("\n".join(lines).encode("latin-1"))
    _write_rows(file, columns, len(answer.cloud))
    return file.getvalue()


def _write_rows(file: BytesIO, columns: Mapping[str, Column], n: int) -> None:
    """Packed rows, a block at a time: one that stays in the cache is filled four times faster than a table of all rows."""
    row = np.dtype([(name, f"<{_code(values)}") for name, values in columns.items()])
    block = np.empty(min(ROWS_AT_A_TIME, n), row)
    for start in range(0, n, ROWS_AT_A_TIME):
        part = block[: n - start]
        for name, values in columns.items():
            part[name] = values[start : start + ROWS_AT_A_TIME]
        file.write(part.view(np.uint8).data)


def _originals(cloud: PointCloud) -> Iterator[tuple[str, Column]]:
    """The columns of the cloud under names that PLY can hold, each once."""
    taken: set[str] = set()

    def once(name: str) -> str:
        number, new = 1, name
        while new in taken:
            number += 1
            new = f"{name}_{number}"
        taken.add(new)
        return new

    yield from ((once(axis), column) for axis, column in zip("xyz", cloud.xyz.T, strict=True))
    if cloud.rgb is not None:
        yield from ((once(colour), column) for colour, column in zip(("red", "green", "blue"), cloud.rgb.T, strict=True))
    if cloud.intensity is not None:
        yield once("intensity"), cloud.intensity
    for name, column in cloud.extra.items():
        yield once(_word(name)), _representable(name, column)


def _word(name: str) -> str:
    """As one word in latin-1, which leaves every name that came out of a PLY header as it is."""
    return "".join("_" if letter.isspace() or letter < " " or letter > "\xff" else letter for letter in name) or "column"


def _representable(name: str, column: Column) -> Column:
    """The same numbers in a type that PLY has. Raises: BadOption."""
    code = _code(column)
    if column.ndim == 1:
        if code in TYPES:
            return column
        if code in WIDENED:
            return column.astype(WIDENED[code])
        if code in ("i8", "u8") and column.min(initial=0) >= -EXACT_IN_DOUBLE and column.max(initial=0) <= EXACT_IN_DOUBLE:
            return column.astype(np.float64)
    what = f"{column.dtype}" if column.ndim == 1 else f"{column.dtype}, {column.ndim} dimensions"
    raise BadOption(f"PLY cannot hold the column {name[:80]!r} ({what}) without loss; ask for another format", where="format")


def _code(column: Column) -> str:
    """numpy's letter and the bytes of a value: `f4`."""
    return f"{column.dtype.kind}{column.dtype.itemsize}"


def _free_names(taken: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names, each prefixed until it is free; case does not tell two names apart, as in our reader."""
    lower = {name.lower() for name in taken}
    free = []
    for name in names:
        while name in lower:
            name = PREFIX + name
        free.append(name)
    return free


def _comments(label_map: LabelMap, label_name: str) -> list[str]:
    """`comment label 0: road (id 40)` and so on, in ASCII: there are programs that refuse a header that is not."""
    lines: list[str] = []
    room = COMMENT_BYTES
    for index, each in enumerate(label_map.classes):
        name = each.name.encode("unicode_escape").decode("ascii")
        lines.append(f"comment {label_name} {index}: {name} (id {each.ids[0]})")
        room -= len(lines[-1]) + 1
        if room < 0:
            return [*lines[:-1], f"comment {len(label_map) - index} more classes"]
    return lines
