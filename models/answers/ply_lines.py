"""The lines that an answer adds to the header of a PLY file, and how large that may become: what our own reader admits."""

from collections.abc import Sequence

from models.answers.labelled import added_types
from models.errors import BadOption
from models.io.ply_header import HEADER_BYTES, PROPERTIES
from models.labels import LabelMap

TYPES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float", "f8": "double"}
COMMENT_BYTES = 32 * 1024  # of all comments at most


def added_lines(names: Sequence[str], label_map: LabelMap) -> list[str]:
    """`property uchar label` and so on, for the names of the columns added."""
    return [f"property {TYPES[code[-2:]]} {name}" for name, code in zip(names, added_types(label_map), strict=True)]


def checked_header(properties: int, header_bytes: int) -> int:
    """The bytes that are left for comments in a header of so many properties and bytes. Raises: BadOption (it is too large already)."""
    if properties > PROPERTIES:
        raise BadOption(
            f"with the labels the points have {properties} columns, and PLY answers hold {PROPERTIES}; ask for another format",
            where="format",
        )
    room = HEADER_BYTES - 1 - header_bytes
    if room < 0:
        raise BadOption(f"with the labels the header has more than {HEADER_BYTES >> 10} kB; ask for another format", where="format")
    return min(room, COMMENT_BYTES)


def class_comments(label_map: LabelMap, label_name: str, room: int, line_end: str = "\n") -> list[str]:
    """`comment label 0: road (id 40)` and so on, in ASCII: there are programs that refuse a header that is not.

    No more than fit into `room` bytes; if some do not, the last line says how many.
    """
    lines: list[str] = []
    left = [room]  # before each line
    for index, each in enumerate(label_map.classes):
        name = each.name.encode("unicode_escape").decode("ascii")
        lines.append(f"comment {label_name} {index}: {name} (id {each.ids[0]})")
        left.append(left[-1] - len(lines[-1]) - len(line_end))
        if left[-1] < 0:
            return _cut_short(lines, left, len(label_map), line_end)
    return lines


def _cut_short(lines: list[str], left: list[int], classes: int, line_end: str) -> list[str]:
    """As many lines as leave room for one that says how many there are more."""
    for kept in range(len(lines) - 1, -1, -1):
        last = f"comment {classes - kept} more classes"
        if len(last) + len(line_end) <= left[kept]:
            return [*lines[:kept], last]
    return []
