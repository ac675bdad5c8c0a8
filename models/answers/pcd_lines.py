"""What an answer adds to the header of a PCD file, and how large that may become: what our own reader admits."""

from collections.abc import Sequence

from models.answers.labelled import added_types
from models.answers.ply_lines import COMMENT_BYTES, class_comments
from models.errors import BadOption, HeaderTooLarge
from models.io.pcd_header import HEADER_BYTES, Field, within_limits
from models.labels import LabelMap


def added_fields(names: Sequence[str], label_map: LabelMap) -> tuple[Field, ...]:
    return tuple(Field(name, code[-2:], 1) for name, code in zip(names, added_types(label_map), strict=True))


def type_words(fields: Sequence[Field]) -> dict[str, list[str]]:
    """The words of the lines SIZE, TYPE and COUNT."""
    return {
        "SIZE": [field.code[1:] for field in fields],
        "TYPE": [field.code[0].upper() for field in fields],
        "COUNT": [str(field.count) for field in fields],
    }


def room_for_comments(fields: tuple[Field, ...], header_bytes: int) -> int:
    """The bytes that are left for comments in a header of so many bytes. Raises: BadOption (it is too large already)."""
    try:
        within_limits(fields)
    except HeaderTooLarge as error:
        raise BadOption(f"with the labels there are {error.detail}, which PCD answers do not hold; ask for another format") from error
    room = HEADER_BYTES - 1 - header_bytes
    if room < 0:
        raise BadOption(f"with the labels the header has more than {HEADER_BYTES >> 10} kB; ask for another format", where="format")
    return min(room, COMMENT_BYTES)


def class_lines(label_map: LabelMap, label_name: str, room: int, line_end: str = "\n") -> list[str]:
    """`# label 0: road (id 40)` and so on, as many as fit into `room` bytes."""
    return [line.replace("comment", "#", 1) for line in class_comments(label_map, label_name, room, line_end)]
