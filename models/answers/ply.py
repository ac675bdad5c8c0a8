"""Labelled PLY: the cloud as it was read, and after its columns the answer.

A PLY file comes back as it is, with columns added: see `ply_same`. From any other file a binary, little-endian one is made, of one
vertex element. Coordinates, colours and intensity get their usual names (x, y, z, red, green, blue, intensity), whatever the file
called them, and colours one byte each; the other columns keep their names and types, as far as PLY has them:
- A name is one word of one byte a letter. Blanks and letters beyond latin-1 become `_`; a name that is there already gets `_2`, ...
- bool becomes uchar, float16 float. PLY has no 64-bit integers: they become double where all of them lie within 2^53 of zero, else
  the column is refused, as are columns that are no numbers.
"""

from typing import BinaryIO

import numpy as np

from models.answers.labelled import EXACT_IN_DOUBLE, WIDENED, Labelled, Plain, added_names, added_types, code_of, packed_rows, plain_columns
from models.answers.ply_lines import TYPES, added_lines, checked_header, class_comments
from models.answers.ply_same import labelled_header, write_same_ply
from models.errors import BadOption
from models.io import CloudFile
from models.io.names import numbered
from models.io.ply_header import read_header
from models.labels import LabelMap

HELD_AS = WIDENED | {"i8": "f8", "u8": "f8"}  # types that PLY has not


def check_ply(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (a column that PLY does not hold without loss; more columns, or longer names, than our own reader admits)."""
    if file.fmt == "ply":
        labelled_header(file.source, read_header(file.source), label_map)
        return
    plain = plain_columns(file.records)
    for name, dtype in zip(plain.names, plain.types, strict=True):
        if code_of(dtype) not in (*TYPES, *HELD_AS):
            raise _unheld(name, dtype)
    _header(plain, label_map, file.records.count)
    _check_wide(file)


def write_ply(answer: Labelled, out: BinaryIO) -> None:
    """Every column of the file, then label (class: uchar, or ushort above 256 classes), confidence (float), label_red/green/blue.

    The added names get the prefix `fip_` where the file has a column of that name. Comments list the classes.
    """
    if answer.file.fmt == "ply":
        write_same_ply(answer, out)
        return
    plain = plain_columns(answer.file.records)
    out.write(_header(plain, answer.label_map, answer.file.records.count))
    types = [*(f"<{code}" for code in _codes(plain)), *added_types(answer.label_map)]
    for rows, columns in plain.blocks(answer.cloud):
        out.write(packed_rows(types, [*columns, *answer.added(rows)]).data)


def _header(plain: Plain, label_map: LabelMap, count: int) -> bytes:
    """Raises: BadOption (too large for our own reader)."""
    names = _words(plain)
    added = added_names(names)
    head = ["ply", "format binary_little_endian 1.0"]
    lines = [
        f"element vertex {count}",
        *(f"property {TYPES[code]} {name}" for code, name in zip(_codes(plain), names, strict=True)),
        *added_lines(added, label_map),
        "end_header\n",
    ]
    room = checked_header(len(names) + len(added), len("\n".join([*head, *lines])))
    return "\n".join([*head, *class_comments(label_map, added[0], room), *lines]).encode("latin-1")


def _check_wide(file: CloudFile) -> None:
    """Raises: BadOption (a column of 64-bit integers that double does not hold)."""
    wide = [name for name in file.records.names if code_of(file.records.dtype[name]) in ("i8", "u8")]
    if not wide:
        return
    for _, table in file.records.blocks():
        for name in wide:
            if table[name].min() < -EXACT_IN_DOUBLE or table[name].max() > EXACT_IN_DOUBLE:
                raise _unheld(name, table.dtype[name])


def _unheld(name: str, dtype: np.dtype[np.generic]) -> BadOption:
    return BadOption(f"PLY cannot hold the column {name[:80]!r} ({dtype}) without loss; ask for another format", where="format")


def _codes(plain: Plain) -> list[str]:
    """How PLY holds the columns."""
    return [HELD_AS.get(code, code) for code in map(code_of, plain.types)]


def _words(plain: Plain) -> tuple[str, ...]:
    """The names of the columns as PLY can hold them, each once."""
    taken: dict[str, None] = {}
    for name in plain.names:
        taken[numbered(_word(name), taken)] = None
    return tuple(taken)


def _word(name: str) -> str:
    """As one word in latin-1, which leaves every name that came out of a PLY header as it is."""
    return "".join("_" if letter.isspace() or letter < " " or letter > "\xff" else letter for letter in name) or "column"
