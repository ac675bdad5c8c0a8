"""The rows of a text cloud, a block of whole lines at a time: counted, and turned into numbers.

R rows of a block, C columns, F of them numbers. Blocks of plain rows go through `plain_decimals` at once; of others what is no number
is taken out first: blank lines, comments, quotes, NaN. Only what is then still none is read line by line, which also says which line an
error is in.
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, TruncatedFile
from models.io.source import Source
from models.io.text_layout import COMMENTS, REMARK, TextLayout, fields
from models.io.text_lines import Places, line_blocks, only_lines, row_places
from models.io.text_plain import plain_rows

KEPT_BYTES = 1 << 24  # glibc keeps freed memory up to twice the largest piece that it mapped; else every block would map its pages anew

_HASH = re.compile(rb"#(?![0-9A-Fa-f]{6})[^\r\n]*")

Doubles = npt.NDArray[np.float64]


def count_rows(source: Source, layout: TextLayout) -> int:
    """N, the rows of the file; more than are wanted are refused as soon as there are. Raises: BadBody, TruncatedFile, TooManyPoints."""
    total, line, left = 0, layout.line, layout.count
    for block in line_blocks(source, layout.start, layout.newline):
        places, lines, left = row_places(block, layout.newline, line, left)
        total += len(places)
        line += lines
        source.admit(total)
    if left:
        raise TruncatedFile(f"{left} rows fewer than the count before them says", where=f"line {line}")
    return total


def read_rows(source: Source, layout: TextLayout) -> Iterator[Doubles]:
    """The numbers (R, F), a block of rows at a time. Raises: BadBody (names the line)."""
    line, left = layout.line, layout.count
    np.empty(KEPT_BYTES, np.uint8)
    for block in line_blocks(source, layout.start, layout.newline):
        values = plain_rows(block, layout)
        if values is None or (left is not None and len(values) > left):
            places, ends, left = row_places(block, layout.newline, line, left)
            values = _some_rows(block, places, line, layout)
        else:
            ends = int(np.count_nonzero(np.frombuffer(block, np.uint8) == layout.newline[0]))  # bytes.count is ten times slower
            left = None if left is None else left - len(values)
        line += ends
        if len(values):
            yield values


def check_rows(block: bytes, layout: TextLayout) -> None:
    """Raises BadBody where a row of the first block is not one of the layout."""
    if block and plain_rows(block, layout) is None:
        places, _, _ = row_places(block, layout.newline, layout.line, layout.count)
        _some_rows(block, places, layout.line, layout)


def _some_rows(block: bytes, places: Places, line: int, layout: TextLayout) -> Doubles:
    """The numbers of some lines (R,) of a block, whose first is `line`. Raises: BadBody."""
    rows = only_lines(block, layout.newline, places)
    values = plain_rows(rows, layout)
    if values is None and layout.remarks and any(marker[:1] in rows for marker in COMMENTS):
        if not layout.closed:
            rows = _HASH.sub(b"", rows)  # a pattern that begins with one byte is found sooner
        rows = REMARK.sub(b"", rows) if layout.closed or b"//" in rows or b"%" in rows or b"#" in rows else rows
        values = plain_rows(rows, layout)
    return _carefully(rows, line + places, layout) if values is None else values


def _carefully(rows: bytes, numbers: Places, layout: TextLayout) -> Doubles:
    """Row by row: the lines (R,) with these numbers, whatever their fields hold. Raises: BadBody (names the line)."""
    out = np.empty((len(numbers), len(layout.numeric)))
    every = len(layout.numeric) == layout.columns
    for place, text in enumerate(rows.split(layout.newline)[: len(numbers)]):
        words = fields(text.decode("latin-1"), layout.separator)
        if layout.closed and len(words) == layout.columns + 1 and not words[-1]:
            words.pop()
        if len(words) != layout.columns:
            raise BadBody(f"{len(words)} columns, the first row has {layout.columns}: {_shown(text)}", where=f"line {numbers[place]}")
        try:
            out[place] = [_number(word, layout.decimal_comma) for word in (words if every else [words[each] for each in layout.numeric])]
        except ValueError:
            raise BadBody(f"not a row of numbers: {_shown(text)}", where=f"line {numbers[place]}") from None
    return out


def _number(word: str, decimal_comma: bool) -> float:
    if "_" in word:  # Python reads 1_000, files do not
        raise ValueError
    if not word:
        return np.nan
    return float(word.replace(",", ".") if decimal_comma else word)


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("latin-1").strip())
