"""Labelled PLY: the cloud as it was read, and after its columns the answer. Binary, little-endian, one vertex element.

Coordinates, colours and intensity are written under their usual names (x, y, z, red, green, blue, intensity), whatever the file
called them; the other columns keep their names and types, as far as PLY has them:
- A name is one word of one byte a letter. Blanks and letters beyond latin-1 become `_`; a name that is there already gets `_2`, ...
- bool becomes uchar, float16 float. PLY has no 64-bit integers: they become double if that changes none of them, else the column
  is refused, as it is if it is not one number a point.
"""

from typing import BinaryIO

import numpy as np

from models.answers.labelled import Labelled, Plain, added_names, added_types, plain_columns
from models.errors import BadOption
from models.io import CloudFile
from models.labels import LabelMap

TYPES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double"}
WIDENED = {"b1": "u1", "f2": "f4", "i8": "f8", "u8": "f8"}
EXACT_IN_DOUBLE = 1 << 53
COMMENT_BYTES = 32 * 1024  # our own reader, and others, bound the header


def check_ply(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (a column of 64-bit integers that double does not hold)."""
    wide = [name for name in file.records.names if _code(file.records.dtype[name]) in ("i8", "u8")]
    if not wide:
        return
    for _, table in file.records.blocks():
        for name in wide:
            if table[name].min() < -EXACT_IN_DOUBLE or table[name].max() > EXACT_IN_DOUBLE:
                raise BadOption(
                    f"PLY cannot hold the column {name[:80]!r} ({table[name].dtype}) without loss; ask for another format", where="format"
                )


def write_ply(answer: Labelled, out: BinaryIO) -> None:
    """Every column of the cloud, then label (class: uchar, or ushort above 256 classes), confidence (float), label_red/green/blue.

    The added names get the prefix `fip_` where the cloud has a column of that name. Comments list the classes.
    """
    plain = plain_columns(answer.file.records)
    names = _words(plain)
    names += added_names(names)
    codes = [
        *(WIDENED.get(code, code) for code in map(_code, plain.types)),
        *(_code(np.dtype(each)) for each in added_types(answer.label_map)),
    ]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *_comments(answer.label_map, names[len(plain.names)]),
        f"element vertex {len(answer.cloud)}",
        *(f"property {TYPES[code]} {name}" for code, name in zip(codes, names, strict=True)),
        "end_header\n",
    ]
    out.write("\n".join(lines).encode("latin-1"))
    row = np.dtype([(name, f"<{code}") for name, code in zip(names, codes, strict=True)])
    for rows, columns in plain.blocks(answer.cloud):
        block = np.empty(rows.stop - rows.start, row)
        for name, values in zip(names, [*columns, *answer.added(rows)], strict=True):
            block[name] = values
        out.write(block.view(np.uint8).data)


def _words(plain: Plain) -> tuple[str, ...]:
    """The names of the columns as PLY can hold them, each once."""
    taken: dict[str, None] = {}
    for name in plain.names:
        number, word = 1, _word(name)
        new = word
        while new in taken:
            number += 1
            new = f"{word}_{number}"
        taken[new] = None
    return tuple(taken)


def _word(name: str) -> str:
    """As one word in latin-1, which leaves every name that came out of a PLY header as it is."""
    return "".join("_" if letter.isspace() or letter < " " or letter > "\xff" else letter for letter in name) or "column"


def _code(dtype: np.dtype[np.generic]) -> str:
    """numpy's letter and the bytes of a value: `f4`."""
    return f"{dtype.kind}{dtype.itemsize}"


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
