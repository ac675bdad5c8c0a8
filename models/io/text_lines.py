"""The lines of a text cloud, a block of whole ones at a time: which of them are rows, and which blank, comments or counts.

n lines of a block, R of them rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.errors import BadBody
from models.io.source import BLOCK_BYTES, Source, parse_count

COUNTS = 1 << 12  # of scans in a block: their rows would share 64 bytes each
_BLANK = np.isin(np.arange(256), list(b" \t\n\r\v\f"))  # what bytes.strip takes away
_SLASH = ord("/")

Places = npt.NDArray[np.int64]


def line_blocks(source: Source, start: int, newline: bytes) -> Iterator[bytes]:
    """The bytes from `start` on in blocks of whole lines, all with their ends but perhaps the last. Raises: BadBody (a line is longer than
    a block).
    """
    rest = b""
    while block := rest + source.read(start + len(rest), BLOCK_BYTES - len(rest)):
        end = block.rfind(newline) + 1
        if not end:
            if len(block) == BLOCK_BYTES:
                raise BadBody(f"a line of the text is longer than {BLOCK_BYTES >> 10} kB", where=f"byte {start}")
            end = len(block)
        yield block[:end]
        start += end
        rest = block[end:]


def row_places(block: bytes, newline: bytes, line: int, left: int | None) -> tuple[Places, int, int | None]:
    """Which lines (R,) are rows, from 0 on; `line` is the number of its first, `left` how many rows the last count still announces.

    Also how many lines have an end, and how many rows are to come after the block. Raises: BadBody.
    """
    chars = np.frombuffer(block, np.uint8)
    bounds = _bounds(chars, newline)
    lines = len(bounds) - 1 - (chars[-1] != newline[0])
    places = _rows(chars, bounds)
    if left is None:
        return places, lines, None
    if len(places) <= left:
        return places, lines, left - len(places)
    kept, left = _without_counts(block, bounds, places, line, left)
    return kept, lines, left


def only_lines(block: bytes, newline: bytes, places: Places) -> bytes:
    """Some lines (R,) of a block with their ends."""
    chars = np.frombuffer(block, np.uint8)
    lengths = np.diff(_bounds(chars, newline))
    if len(places) == len(lengths):
        return block
    kept = np.zeros(len(lengths), np.bool_)
    kept[places] = True
    return chars[np.repeat(kept, lengths)].tobytes()


def _bounds(chars: npt.NDArray[np.uint8], newline: bytes) -> Places:
    """Where the lines of a block begin, and where the last one ends (n + 1,)."""
    ends = np.flatnonzero(chars == newline[0]) + 1
    last = [] if len(ends) and ends[-1] == len(chars) else [len(chars)]
    return np.concatenate([[0], ends, last]).astype(np.int64)


def _rows(chars: npt.NDArray[np.uint8], bounds: Places) -> Places:
    """Which lines (R,) are neither blank nor comments."""
    first = bounds[:-1]
    heads = chars.take(first)
    indented = np.flatnonzero(_BLANK.take(heads) & (np.diff(bounds) > 1))
    if len(indented):
        letters = np.append(np.flatnonzero(~_BLANK.take(chars)), len(chars))
        found = letters[np.searchsorted(letters, first[indented])]  # of a blank line the first letter is one of a later line
        first = first.copy()
        first[indented] = np.where(found < bounds[1:][indented], found, bounds[:-1][indented])
        heads = chars.take(first)
    skipped = _BLANK.take(heads) | (heads == ord("#")) | (heads == ord("%"))
    skipped |= (heads == _SLASH) & (chars.take(first + 1, mode="clip") == _SLASH) & (first + 1 < len(chars))
    return np.flatnonzero(~skipped)


def _without_counts(block: bytes, bounds: Places, places: Places, line: int, left: int) -> tuple[Places, int]:
    """The rows without the counts of further scans, as a PTS file may have them one after another, and how many of the last are to come.

    Raises: BadBody (rows go on after as many as the count said, more than COUNTS).
    """
    kept = np.ones(len(places), np.bool_)
    at, counts = left, 0
    while at < len(places):
        place = int(places[at])
        text = block[bounds[place] : bounds[place + 1]].strip()
        if not text.isdigit():
            raise BadBody("more rows than the count before them says", where=f"line {line + place}")
        counts += 1
        if counts > COUNTS:
            raise BadBody(f"more than {COUNTS} counts in {BLOCK_BYTES >> 10} kB", where=f"line {line + place}")
        kept[at] = False
        at += 1 + parse_count(text.decode("ascii"), f"line {line + place}")
    return places[kept], at - len(places)
