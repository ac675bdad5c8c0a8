"""Labelled PCD: the cloud as it was read, and after its fields the answer.

A PCD file comes back as it is, with fields added: see `pcd_same`. From any other file a binary one of version 0.7 is made. Coordinates,
colour and intensity get their usual names; the colour is packed into one field `rgb` of type F, where PCL and RViz look for it. The
other columns keep their names and types, as far as PCD has them: blanks in a name become `_`; a name that is there already gets `_2`,
...; bool becomes U 1, float16 F 4.
"""

from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from models.answers.labelled import WIDENED, Column, Labelled, Plain, added_names, added_types, code_of, packed_rows, plain_columns
from models.answers.pcd_lines import added_fields, class_lines, room_for_comments, type_words
from models.answers.pcd_same import labelled_header, write_same_pcd
from models.errors import BadOption
from models.io import CloudFile
from models.io.columns import roles_of
from models.io.names import numbered
from models.io.pcd_header import PADDING, TYPES, Field, read_header
from models.labels import LabelMap

COLOUR = slice(3, 6)  # red, green, blue of the plain columns of a file with colours


def check_pcd(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (a column that is no number; more columns, or longer names, than our own reader admits)."""
    if file.fmt == "pcd":
        labelled_header(read_header(file.source), file.records.names, label_map)
    else:
        _header(file, label_map)


def write_pcd(answer: Labelled, out: BinaryIO) -> None:
    """Every column of the file, then label (class: U 1, or U 2 above 256 classes), confidence (F 4), label_red/green/blue (U 1).

    The added names get the prefix `fip_` where the file has a field of that name. Comments list the classes.
    """
    if answer.file.fmt == "pcd":
        write_same_pcd(answer, out)
        return
    out.write(_header(answer.file, answer.label_map))
    plain, coloured = plain_columns(answer.file.records), _is_coloured(answer.file)
    codes = [f"<{field.code}" for field in _fields(plain, coloured)]
    if coloured:
        codes[COLOUR.start] = "<u4"  # the bits of the float
    codes += added_types(answer.label_map)
    for rows, columns in plain.blocks(answer.cloud):
        if coloured:
            columns[COLOUR] = [_packed(*columns[COLOUR])]
        out.write(packed_rows(codes, [*columns, *answer.added(rows)]).data)


def _is_coloured(file: CloudFile) -> bool:
    return bool(roles_of(file.records.names).rgb)


def _packed(red: Column, green: Column, blue: Column) -> npt.NDArray[np.uint32]:
    """Three channels (n,) uint8 as 0x00RRGGBB."""
    wide = [channel.astype(np.uint32) for channel in (red, green, blue)]
    return wide[0] << np.uint32(16) | wide[1] << np.uint32(8) | wide[2]


def _header(file: CloudFile, label_map: LabelMap) -> bytes:
    """Raises: BadOption."""
    fields = _fields(plain_columns(file.records), _is_coloured(file))
    added = added_fields(added_names(field.name for field in fields), label_map)
    fields += added
    head = ["# .PCD v0.7 - Point Cloud Data file format"]
    lines = [
        "VERSION 0.7",
        " ".join(["FIELDS", *(field.name for field in fields)]),
        *(" ".join([key, *words]) for key, words in type_words(fields).items()),
        f"WIDTH {file.records.count}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {file.records.count}",
        "DATA binary\n",
    ]
    room = room_for_comments(fields, len("\n".join([*head, *lines]).encode()))
    return "\n".join([*head, *class_lines(label_map, added[0].name, room), *lines]).encode()


def _fields(plain: Plain, coloured: bool) -> tuple[Field, ...]:
    """The columns of a file as fields, three channels as one. Raises: BadOption."""
    names, types = list(plain.names), list(plain.types)
    if coloured:
        names[COLOUR], types[COLOUR] = ["rgb"], [np.dtype(np.float32)]
    fields: dict[str, Field] = {}
    for name, dtype in zip(names, types, strict=True):
        code = WIDENED.get(code_of(dtype), code_of(dtype))
        if code not in TYPES.values():
            raise BadOption(f"PCD cannot hold the column {name[:80]!r} ({dtype}); ask for another format", where="format")
        word = numbered(_word(name), fields)
        fields[word] = Field(word, code, 1)
    return tuple(fields.values())


def _word(name: str) -> str:
    """As one word, which leaves every name that came out of a PCD header as it is; never that of padding."""
    word = "".join("_" if letter.isspace() or not letter.isprintable() else letter for letter in name)
    return "column" if word in ("", PADDING) else word
