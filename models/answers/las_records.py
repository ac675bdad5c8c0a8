"""What a labelled LAS file has beside its points: descriptions of added extra bytes, names of classes, records that no longer hold.

Source: ASPRS LAS specification 1.4 R15, tables 19 to 25.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from models.answers.labelled import ADDED
from models.errors import BadOption
from models.io.las_columns import EXTRA, EXTRA_TYPES, text_of
from models.io.las_header import LOOKUP, VLR
from models.io.laz import MOST_EXTRA
from models.labels import LabelMap

NAME_BYTES = 32  # of extra bytes
MOST_BODY = (1 << 16) - 1  # bytes of a record, and of a point
UNKNOWN = (224, 192, 160, 128, 96, 64, 32, 7, 6, 5, 4, 3, 2, 1)  # bytes that one description can say nothing of, and laspy reads
MEANINGS = {
    **dict.fromkeys(ADDED, "colour of the class"),
    "label": "class, as an index",
    "confidence": "of the class, 0 to 1",
    "original_classification": "classification as it came",
}
LONG_NAME = 15  # bytes of the name of a class
LEGEND = (b"fip_server", 1)  # user and number of the record that lists the classes of the column label


@dataclass(frozen=True)
class Added:
    """One value more for each point. code: numpy's of a type that extra bytes can have, without the byte order."""

    name: str
    code: str
    meaning: str = ""

    @property
    def description(self) -> bytes:
        """The 192 bytes that describe it."""
        return EXTRA.pack(
            EXTRA_TYPES.index(self.code) + 1, 0, self.name.encode(), *[bytes(24)] * 3, *(1.0,) * 3, *(0.0,) * 3, self.meaning.encode()
        )


def label_name(added: Iterable[Added]) -> str:
    """What the column of labels is called among those that are added."""
    return next(each.name for each in added if each.meaning == MEANINGS["label"])


def undescribed(count: int, taken: list[str]) -> bytes:
    """Descriptions that say no more of some bytes than that they are there, under names that are not taken."""
    names = (name for name in ("ExtraBytes", *(f"ExtraBytes_{i}" for i in range(2, 1000))) if name not in taken)
    parts: list[int] = []
    while left := count - sum(parts):
        parts.append(next(size for size in UNKNOWN if size <= left))
    return b"".join(
        EXTRA.pack(0, size, name.encode(), *[bytes(24)] * 3, *(1.0,) * 3, *(0.0,) * 3, b"")
        for size, name in zip(parts, names, strict=False)
    )


def row_of(stored_bytes: int, added: Iterable[Added]) -> np.dtype[np.void]:
    """A point as it was, `stored`, and behind it `added 0`, `added 1`, ..."""
    return np.dtype([("stored", f"V{stored_bytes}"), *((f"added {i}", "<" + each.code) for i, each in enumerate(added))])


def check_room(base: int, row: np.dtype[np.void], descriptions: int, names: Iterable[str], compressed: bool) -> None:
    """Whether extra bytes, behind the `base` bytes of a row, can hold it all. Raises: BadOption."""
    row_bytes = row.itemsize
    for name in names:
        if len(name.encode()) > NAME_BYTES:
            raise BadOption(f"LAS has no room for the name {name!r}, which is longer than {NAME_BYTES} bytes", where="format")
    if row_bytes > MOST_BODY:
        raise BadOption(f"LAS has no room for points of {row_bytes} bytes; ask for another format", where="format")
    if compressed and row_bytes - base > MOST_EXTRA:
        raise BadOption(f"LAZ has no room for {row_bytes - base} extra bytes of a point, but for {MOST_EXTRA}; ask for las", where="format")
    if descriptions * EXTRA.size > MOST_BODY:
        raise BadOption(
            f"LAS can describe {MOST_BODY // EXTRA.size} extra columns, not {descriptions}; ask for another format", where="format"
        )


def vlr(key: tuple[bytes, int], body: bytes, description: str) -> bytes:
    """A variable length record."""
    return VLR.pack(key[0], key[1], len(body), description.encode()) + body


def class_names(label_map: LabelMap) -> bytes:
    """The record that names the classes: 256 times a class and 15 bytes. What does not fit is cut off, and letters beyond ASCII are `?`."""
    names = [name.encode("ascii", "replace")[:LONG_NAME] for name in label_map.names[:256]]
    body = b"".join(bytes([number]) + name.ljust(LONG_NAME, b"\0") for number, name in enumerate(names + [b""] * (256 - len(names))))
    return vlr(LOOKUP, body, "classes")


def legend(label_map: LabelMap, column: str) -> bytes:
    """The record that lists the classes of a column, in UTF-8: `0 car (id 10)`, a line a class, as many as there is room for."""
    body = b""
    for index, each in enumerate(label_map.classes):
        line = f"{index} {' '.join(each.name.split())} (id {each.ids[0]})\n".encode()
        if len(body) + len(line) > MOST_BODY:
            break
        body += line
    return vlr(LEGEND, body, f"classes of the column {column}")


def no_longer(user: bytes) -> bytes:
    """The user id under which a record stays that no longer is what it was: programs do not look for it."""
    return (b"was " + user)[:16].ljust(16, b"\0")


def described_names(data: bytes) -> list[str]:
    """The names in a record of extra bytes."""
    return [text_of(values[2]) for values in EXTRA.iter_unpack(data[: len(data) // EXTRA.size * EXTRA.size])]
