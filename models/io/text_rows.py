"""The rows of a text cloud, a block of whole lines at a time: counted, and turned into numbers.

R rows of a block, C columns, F of them numbers. Blocks of nothing but plain rows go through `plain_decimals`; one with anything else in
it is read line by line, which also says which line an error is in.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, TruncatedFile
from models.io.decimals import plain_decimals
from models.io.source import BLOCK_BYTES, Source, parse_count
from models.io.text_layout import COMMENTS, TextLayout, fields, is_row

KEPT_BYTES = 1 << 24  # glibc keeps freed memory up to twice the largest piece that it mapped; else every block would map its pages anew
_SWAPPED = bytes.maketrans(b",.", b".,")

Doubles = npt.NDArray[np.float64]
Chars = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


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


def count_rows(source: Source, layout: TextLayout) -> int:
    """N, the rows of the file; more than are wanted are refused as soon as there are. Raises: BadBody, TruncatedFile, TooManyPoints."""
    total, line, left = 0, layout.line, layout.count
    for block in line_blocks(source, layout.start, layout.newline):
        places, lines, left = row_places(block, layout, line, left)
        total += len(places)
        line += lines
        source.admit(total)
    if left:
        raise TruncatedFile(f"{left} rows fewer than the count before them says", where=f"line {line}")
    return total


def row_places(block: bytes, layout: TextLayout, line: int, left: int | None) -> tuple[Sequence[int], int, int | None]:
    """Which lines of a block are rows, from 0 on; `line` is the number of its first, `left` how many rows are to come by the last count.

    Also how many lines have an end, and how many rows are to come after the block. Raises: BadBody.
    """
    chars = np.frombuffer(block, np.uint8)
    ends = chars == layout.newline[0]
    lines = int(np.count_nonzero(ends))
    rows = _rows_of(block, chars, ends, lines, layout.newline)
    if rows == lines + (not ends[-1]) and (left is None or rows <= left):
        return range(rows), lines, None if left is None else left - rows
    numbered = _numbered(block, line, layout.newline)
    if left is not None:
        numbered, left = _without_counts(numbered, left)
    return [number - line for number, _ in numbered], lines, left


def _rows_of(block: bytes, chars: Chars, ends: Bools, lines: int, newline: bytes) -> int:
    """How many lines of a block are neither blank nor comments. chars: its bytes; ends: where lines end; lines: how many do."""
    if any(marker[:1] in block for marker in COMMENTS):  # one byte is found much faster than two
        return sum(map(is_row, block.split(newline)))
    blanks = chars <= 32
    if not ends[0] and not (ends[1:] & blanks[:-1]).any():
        return lines + bool(block[block.rfind(newline) + 1 :].strip())
    filled = np.concatenate([[0], np.cumsum(~blanks, dtype=np.int32)])  # characters before each place that are not blank
    places = np.concatenate([[0], np.flatnonzero(ends), [len(chars)]])
    return int(np.count_nonzero(np.diff(filled[places])))


def _numbered(block: bytes, line: int, newline: bytes) -> list[tuple[int, bytes]]:
    """The rows of a block, with the numbers of their lines; its first is `line`."""
    return [(number, text) for number, text in enumerate(block.split(newline), line) if is_row(text)]


def _without_counts(rows: list[tuple[int, bytes]], left: int) -> tuple[list[tuple[int, bytes]], int]:
    """The rows without the counts of further scans, as a PTS file may have them one after another, and how many of the last are to come.

    Raises: BadBody (rows go on after as many as the count said).
    """
    out = []
    for number, text in rows:
        if left:
            out.append((number, text))
            left -= 1
        elif text.strip().isdigit():
            left = parse_count(text.strip().decode("ascii"), f"line {number}")
        else:
            raise BadBody("more rows than the count before them says", where=f"line {number}")
    return out, left


def read_rows(source: Source, layout: TextLayout) -> Iterator[Doubles]:
    """The numbers (R, F), a block of rows at a time. Raises: BadBody (names the line)."""
    line, left = layout.line, layout.count
    np.empty(KEPT_BYTES, np.uint8)
    for block in line_blocks(source, layout.start, layout.newline):
        values = _plain(block, layout)
        if values is None or (left is not None and len(values) > left):
            rows = _numbered(block, line, layout.newline)
            if left is not None:
                rows, left = _without_counts(rows, left)
            values = _carefully(rows, layout)
        elif left is not None:
            left -= len(values)
        line += _line_ends(block, layout.newline)
        if len(values):
            yield values


def _line_ends(block: bytes, newline: bytes) -> int:
    """`block.count(newline)`, ten times as fast."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == newline[0]))


def check_rows(block: bytes, layout: TextLayout) -> None:
    """Raises BadBody where a row of the first block is not one of the layout."""
    if _plain(block, layout) is None:
        rows = _numbered(block, layout.line, layout.newline)
        _carefully(rows if layout.count is None else _without_counts(rows, layout.count)[0], layout)


def _plain(block: bytes, layout: TextLayout) -> Doubles | None:
    """The numbers of a block of nothing but rows of plain numbers and words; None where there is anything else."""
    if b'"' in block:
        return None
    if layout.newline != b"\n":
        block = block.replace(layout.newline, b"\n")
    if len(layout.numeric) < layout.columns:
        without = _without_words(block, layout)
        if without is None:
            return None
        block = without
    if layout.decimal_comma:
        if b"." in block:
            return None
        block = block.translate(_SWAPPED)
    return plain_decimals(block, len(layout.numeric), layout.separator)


def _without_words(block: bytes, layout: TextLayout) -> bytes | None:
    """The lines without the columns that are no numbers; None where not all have C columns, each one followed by one separator."""
    block = block if block.endswith(b"\n") else block + b"\n"
    chars = np.frombuffer(block, np.uint8)
    marks = np.flatnonzero((chars == layout.separator[0]) | (chars == 10))
    if len(marks) % layout.columns:
        return None
    grid = marks.reshape(-1, layout.columns)  # (R, C): where each column ends
    if not (chars.take(grid[:, -1]) == 10).all() or np.count_nonzero(chars == 10) != len(grid):
        return None
    kept = np.zeros(layout.columns, np.bool_)
    kept[list(layout.numeric)] = True
    mask = np.repeat(np.tile(kept, len(grid)), np.diff(marks, prepend=-1))
    last = layout.numeric[-1]
    mask[grid[:, last]] = last == layout.columns - 1  # the separator before words that are left out goes with them
    mask[grid[:, -1]] = True
    return chars[mask].tobytes()


def _carefully(rows: list[tuple[int, bytes]], layout: TextLayout) -> Doubles:
    """Row by row: blank lines, comments, quotes, NaN, and empty fields, which are read as NaN. Raises: BadBody (names the line)."""
    out = np.empty((len(rows), len(layout.numeric)))
    every = len(layout.numeric) == layout.columns
    for place, (number, text) in enumerate(rows):
        words = fields(text.decode("latin-1"), layout.separator)
        if len(words) != layout.columns:
            raise BadBody(f"{len(words)} columns, the first row has {layout.columns}: {_shown(text)}", where=f"line {number}")
        try:
            out[place] = [_number(word, layout.decimal_comma) for word in (words if every else [words[each] for each in layout.numeric])]
        except ValueError:
            raise BadBody(f"not a row of numbers: {_shown(text)}", where=f"line {number}") from None
    return out


def _number(word: str, decimal_comma: bool) -> float:
    if "_" in word:  # Python reads 1_000, files do not
        raise ValueError
    if not word:
        return np.nan
    return float(word.replace(",", ".") if decimal_comma else word)


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("latin-1").strip())
