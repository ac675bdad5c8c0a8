"""JSON with long arrays of numbers. They are taken out of it, and turned into numbers a piece at a time: parsed in one go, megabytes
would keep every other thread waiting, and take twenty times their size in memory.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import orjson

from models.errors import HeaderTooLarge
from service.errors import BadInference

LONG = 64 << 10  # bytes of an array that is taken out
PIECE = 128 << 10  # bytes that are parsed at once
LONGEST_PIECE = 4 * PIECE
OTHER_BYTES = 1 << 20  # of JSON that is not in long arrays of numbers
DATA = re.compile(rb'"data"\s{0,8}:\s{0,8}\Z')  # the only place where a long array may be
NEXT = re.compile(rb'["\[]')
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
NUMBERS = re.compile(rb"[-+0-9eE.,\s\[\]]{1,%d}" % PIECE)
SECOND = re.compile(rb"\[\s*\[")
ROW_ENDS, NUMBER_ENDS = re.compile(rb"\]\s*,"), re.compile(rb",")


@dataclass(frozen=True)
class LongArray:
    """text[start:end] is an array of nothing but numbers and arrays, or no JSON at all."""

    text: bytes
    start: int
    end: int

    def pieces(self) -> Iterator[list[object]]:
        """Its items, some at a time. Raises: BadInference."""
        begin, end = self.start + 1, self.end - 1
        ends = ROW_ENDS if self.nested else NUMBER_ENDS
        while True:
            found = ends.search(self.text, min(begin + PIECE, end), end)
            stop = end if found is None else found.end() - 1  # before its comma
            if stop - begin > LONGEST_PIECE:
                raise BadInference(f"an item of an array has more than {LONGEST_PIECE - PIECE} bytes", where="body")
            items = cast(list[object], loads(b"[" + self.text[begin:stop] + b"]"))
            if not items and (found is not None or begin > self.start + 1):
                raise BadInference("no JSON: a comma without an item", where="body")
            yield items
            if found is None:
                return
            begin = stop + 1

    @property
    def nested(self) -> bool:
        """Whether its first item is an array."""
        return SECOND.match(self.text, self.start) is not None

    @property
    def most(self) -> int:
        """Numbers that it may have room for."""
        return (self.end - self.start) // 2


def loads(text: bytes) -> object:
    """Raises: BadInference."""
    try:
        found: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadInference(f"no JSON: {error.msg}", where="body") from error
    return found


def without_long_arrays(text: bytes) -> tuple[bytes, dict[str, LongArray]]:
    """The JSON with a text in the place of each, and what these texts stand for. Raises: HeaderTooLarge (there is too much else)."""
    nonce = secrets.token_hex(8)  # no text that a client sends stands for an array
    kept, taken = list[bytes](), dict[str, LongArray]()
    begin = at = removed = 0
    while (found := NEXT.search(text, at, removed + OTHER_BYTES + 1)) is not None:
        at = found.start()
        if text[at : at + 1] == b'"':
            string = STRING.match(text, at, removed + OTHER_BYTES + 1)
            at = len(text) if string is None else string.end()
            continue
        stop = _numbers_end(text, at)
        close = text.rfind(b"]", at, stop) + 1
        if (
            close - at < LONG
            or DATA.search(text, max(at - 32, 0), at) is None
            or text.count(b"[", at, close) != text.count(b"]", at, close)
        ):
            at = stop
            continue
        name = f"{nonce} {len(taken)}"
        taken[name] = LongArray(text, at, close)
        kept += [text[begin:at], f'"{name}"'.encode()]
        removed += close - at
        begin = at = close
    if len(text) - removed > OTHER_BYTES:
        raise HeaderTooLarge(f"more than {OTHER_BYTES} bytes of JSON that are not in arrays of numbers", where="body")
    return b"".join([*kept, text[begin:]]), taken


def _numbers_end(text: bytes, start: int) -> int:
    """Where an array of numbers at the latest ends that begins there."""
    while found := NUMBERS.match(text, start):
        start = found.end()
    return start
