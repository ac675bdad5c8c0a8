"""What the answers that are text share: rows of a file counted out with its blank lines, and the added values as words.

n rows, one a line.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.answers.labelled import Labelled
from models.answers.text_numbers import confidence_texts
from models.errors import BadBody

_LETTER = np.ones(256, np.bool_)
_LETTER[list(b" \t\n\r\v\f")] = False  # what separates words for Python, and for our reader


def whole_rows(lines: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The lines up to the last of `count` that are not blank, blank ones before it too."""
    while count:
        line = next(lines, None)
        if line is None:
            return
        if not line.isspace():
            count -= 1
        yield line


def words_end(lines: list[bytes], words: int | npt.NDArray[np.int64], where: str) -> tuple[bytes, list[int]]:
    """All lines as one text, and where in it so many words (n,) of each that is not blank end; further words may follow.

    Raises: BadBody (a line has fewer).
    """
    text = b"".join(lines)
    letters = np.append(_LETTER[np.frombuffer(text, np.uint8)], False)
    ends = np.flatnonzero(letters[:-1] & ~letters[1:]) + 1  # of every word
    until = np.searchsorted(ends, np.cumsum([len(line) for line in lines]), side="right")  # words up to the end of each line
    found = np.diff(until, prepend=0)
    rows = np.flatnonzero(found)
    if (found[rows] < words).any():
        short = int(np.flatnonzero(found[rows] < words)[0])
        raise BadBody(f"fewer values than announced: {lines[rows[short]][:80].decode('latin-1').strip()!r}", where=where)
    return text, ends[until[rows] - found[rows] + words - 1].tolist()


def with_added(text: bytes, places: list[int], added: list[bytes]) -> bytes:
    """The text with something put in at each of the places (n,), which ascend."""
    starts = [0, *places]
    kept = [text[start:stop] for start, stop in zip(starts, places, strict=False)]
    return b"".join([part for pair in zip(kept, added, strict=True) for part in pair]) + text[starts[-1] :]


def added_texts(answer: Labelled, rows: slice, separator: str = " ", point: str = ".") -> list[bytes]:
    """What goes behind some rows: class, confidence and colour, with a separator before each. point: the decimal point."""
    classes = enumerate(answer.label_map.classes)
    pairs = [(f"{separator}{index}{separator}", separator.join(map(str, ("", *each.colour)))) for index, each in classes]
    heads, tails = ([each.encode() for each in column] for column in zip(*pairs, strict=True))
    labels, sure = answer.labels[rows].tolist(), confidence_texts(answer.confidence[rows], point)
    return [heads[label] + each + tails[label] for label, each in zip(labels, sure, strict=True)]
