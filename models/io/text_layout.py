"""How a text cloud is laid out, told from its first lines: what separates columns, where the rows begin, and what the columns are.

S rows of the head are looked at, C columns. A row is what is not blank and no comment (`#`, `//`, `%` at its start). Before the rows there
may be a line with their count (PTS, CloudCompare), a row or a comment with the names of the columns, or both.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import BadBody, BadHeader, HeaderTooLarge, MissingCoordinates, UnsupportedFormat
from models.io.source import parse_count
from models.io.text_columns import column_names, names_mean_coordinates

HEAD_BYTES = 1 << 16  # the first row must lie in them
SAMPLE_ROWS = 200
COLUMNS = 256
BOM = b"\xef\xbb\xbf"
COMMENTS = (b"#", b"//", b"%")
# A comment behind the numbers, with the blanks before it; no `#ff0000`. Begun where a run of blanks begins, or it would take squared time.
REMARK = re.compile(rb"(?<![ \t])(?:[ \t]*#(?![0-9A-Fa-f]{6}(?:[0-9A-Fa-f]{2})?\b)|[ \t]+(?://|%))[^\r\n]*")
SEPARATORS = (b";", b"\t", b",", b" ")  # tried in this order; a space stands for any run of blanks
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class TextLayout:
    """separator: one byte; newline: what ends a line, LF (also after CR) or CR. names (C,): of all columns; numeric: which are numbers.

    start: the byte where the first row begins; line: its number, from 1; count: of rows, where a line before them says it; header: the
    bytes (from, to) of the line that names the columns, its end not counted. closed: rows end with a separator; remarks: a comment may
    stand behind the numbers of a row, which then are all there is in one.
    """

    separator: bytes
    decimal_comma: bool
    newline: bytes
    names: tuple[str, ...]
    numeric: tuple[int, ...]
    start: int
    line: int
    count: int | None
    header: tuple[int, int] | None
    closed: bool
    remarks: bool

    @property
    def columns(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class _Line:
    number: int
    start: int
    text: bytes

    @property
    def is_row(self) -> bool:
        return is_row(self.text)

    @property
    def where(self) -> str:
        return f"line {self.number}"


def is_row(line: bytes) -> bool:
    """Whether a line is neither blank nor a comment."""
    found = line.strip()
    return bool(found) and not found.startswith(COMMENTS)


def text_layout(head: bytes, whole: bool) -> TextLayout:
    """The layout of the file that begins with `head`; whole: there is no more of it.

    Raises: BadHeader, BadBody, HeaderTooLarge, UnsupportedFormat (UTF-16), MissingCoordinates.
    """
    newline, lines = _lines(head, whole)
    rows = [line for line in lines if line.is_row]
    if not rows:
        raise HeaderTooLarge(f"no row of numbers in the first {HEAD_BYTES >> 10} kB", where="line 1") if not whole else BadHeader("no rows")
    first = 1 if len(rows) > 1 and rows[0].text.strip().isdigit() else 0
    count = parse_count(rows[0].text.strip().decode("ascii"), rows[0].where) if first else None
    if _is_header(rows[first].text):
        header, sample = rows[first], rows[first + 1 : first + 1 + SAMPLE_ROWS]
    else:
        header, sample = None, rows[first : first + SAMPLE_ROWS]
    if not sample:
        raise BadHeader(f"no row of numbers after {rows[first].text[:40].decode('latin-1')!r}", where=rows[first].where)
    separator, table = _table_without_remarks(sample, header)
    closed = _is_closed(table, separator, header)
    if closed:
        width = max(map(len, table)) - 1
        table = [row[:width] for row in table]
    width = _checked_width(table, sample[0], header)
    decimal_comma = separator != b"," and any(_DECIMAL_COMMA.fullmatch(word) for row in table for word in row)
    values = _values(table, width, decimal_comma)
    numeric = tuple(np.flatnonzero(_are_numbers(table, width)).tolist())
    if len(numeric) < 3:
        found = sample[0].text[:60].decode("latin-1").strip()
        raise BadHeader(f"not a row of numbers: {found!r}", where=sample[0].where)
    names, named_by = _names(header, lines, sample[0], separator, width)
    span = (named_by.start, named_by.start + len(named_by.text.rstrip(b"\r"))) if named_by else None
    chosen = column_names(names, values, numeric)
    remarks = len(numeric) == width
    return TextLayout(separator, decimal_comma, newline, chosen, numeric, sample[0].start, sample[0].number, count, span, closed, remarks)


def _lines(head: bytes, whole: bool) -> tuple[bytes, list[_Line]]:
    """What ends lines, and those that the head has whole, from 1 on. Raises: UnsupportedFormat, BadHeader, BadBody."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnsupportedFormat("the text is UTF-16; save it as UTF-8", where="line 1")
    if b"\0" in head:
        line = head.count(b"\n", 0, head.index(b"\0")) + 1
        raise BadHeader("not a text: there are NUL bytes in it", where=f"line {line}")
    newline = b"\r" if b"\r" in head and b"\n" not in head else b"\n"
    start = len(BOM) if head.startswith(BOM) else 0
    lines = []
    texts = head[start:].split(newline)
    if not whole and len(texts) == 1:
        raise BadBody(f"the line is longer than {HEAD_BYTES >> 10} kB", where="line 1")
    for number, text in enumerate(texts if whole else texts[:-1], 1):
        lines.append(_Line(number, start, text))
        start += len(text) + len(newline)
    return newline, lines


def fields(line: str, separator: bytes) -> list[str]:
    """The words of a row; quoted ones may hold separators."""
    if '"' in line:
        try:
            found = next(csv.reader([line.strip(" \r\n")], delimiter=separator.decode("ascii"), skipinitialspace=True), [])
        except csv.Error:
            return [line]
        return [word.strip() for word in found if word or separator != b" "]
    if separator == b" ":
        return line.split()
    return [word.strip() for word in line.strip(" \r\n").split(separator.decode("ascii"))]


def is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None or _DECIMAL_COMMA.fullmatch(word) is not None


def _is_header(line: bytes) -> bool:
    """Whether a row has words and no numbers, whatever separates them."""
    words = [word.strip('" ') for word in re.split(r"[;,\t ]+", line.decode("latin-1").strip())]
    return not any(_NUMBER.fullmatch(word) for word in words)


def _table_without_remarks(sample: list[_Line], header: _Line | None) -> tuple[bytes, list[list[str]]]:
    """What separates the columns, and the words of the rows, without the comments behind them where nothing but numbers is before these."""
    cut = [REMARK.sub(b"", line.text) for line in sample]
    if any(len(text) < len(line.text) for text, line in zip(cut, sample, strict=True)):
        separator, table = _table(cut, sample[0])
        fits = header is None or _words(header.text, separator, len(table[0])) is not None
        if fits and len(table[0]) >= 3 and all(is_number(word) for row in table for word in row if word):
            return separator, table
    return _table([line.text for line in sample], sample[0])


def _is_closed(table: list[list[str]], separator: bytes, header: _Line | None) -> bool:
    """Whether rows end with a separator, behind which no name is; some may lack it."""
    width = max(map(len, table))
    if separator == b" " or width < 4 or any(row[-1] if len(row) == width else len(row) < width - 1 for row in table):
        return False
    names = None if header is None else _words(header.text, separator, width)
    return names is None or not names[-1]


def _table(lines: Sequence[bytes], first: _Line) -> tuple[bytes, list[list[str]]]:
    """What separates the columns, and the words of the rows."""
    texts = [line.decode("latin-1").rstrip("\r") for line in lines]
    for separator in SEPARATORS:
        table = [fields(text, separator) for text in texts]
        width, times = Counter(map(len, table)).most_common(1)[0]
        rows = (row for row in table if len(row) == width)
        runs_on = any(len(word.split()) > 1 and all(map(is_number, word.split())) for row in rows for word in row)
        if separator == b" " or (width >= 3 and times > len(table) / 2 and not runs_on):
            return separator, table
    raise AssertionError(first)


def _checked_width(table: list[list[str]], first: _Line, header: _Line | None) -> int:
    width = Counter(map(len, table)).most_common(1)[0][0]
    if width > COLUMNS:
        raise HeaderTooLarge(f"{width} columns, the limit is {COLUMNS}", where=first.where)
    if width < 3:
        text = (header or first).text[:60].decode("latin-1").strip()
        if header is not None or not all(map(is_number, table[0])):
            raise BadHeader(f"not rows of numbers: {text!r}", where=(header or first).where)
        raise MissingCoordinates(f"the rows have {width} columns; x, y and z take three", where=first.where)
    return width


def _values(table: list[list[str]], width: int, decimal_comma: bool) -> npt.NDArray[np.float64]:
    """The numbers (S, C) of the rows that have C words, NaN where there is another word."""
    rows = [row for row in table if len(row) == width]
    out = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        for column, word in enumerate(row):
            if (_DECIMAL_COMMA if decimal_comma and "," in word else _NUMBER).fullmatch(word):
                out[place, column] = float(word.replace(",", "."))
    return out


def _are_numbers(table: list[list[str]], width: int) -> npt.NDArray[np.bool_]:
    """Which columns (C,) hold numbers: they have one, and no more words than numbers; some fields may be empty."""
    rows = [row for row in table if len(row) == width]
    numbers = np.sum([[is_number(word) for word in row] for row in rows], axis=0)
    filled = np.sum([[word != "" for word in row] for row in rows], axis=0)
    return np.asarray((numbers > 0) & (2 * numbers >= filled))


def _names(header: _Line | None, lines: list[_Line], first: _Line, separator: bytes, width: int) -> tuple[list[str] | None, _Line | None]:
    """The names (C,) that a row or the last fitting comment before the rows gives, and its line. Raises: BadHeader."""
    if header is not None:
        names = _words(header.text, separator, width) or _words(header.text.rstrip(b" \r" + separator), separator, width)
        if names is None:
            text = header.text[:60].decode("latin-1").strip()
            raise BadHeader(f"the names {text!r} are not as many as the {width} columns of {first.where}", where=header.where)
        return names, header
    for line in reversed([line for line in lines if line.number < first.number and line.text.strip() and not line.is_row]):
        names = _words(line.text.strip().lstrip(b"#/%"), separator, width)
        if names is not None and names_mean_coordinates(names):
            return names, line
    return None, None


def _words(line: bytes, separator: bytes, width: int) -> list[str] | None:
    """The `width` words of a line, separated as the rows are or by blanks or commas; None where they are not as many."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = line.decode("latin-1").strip()
    for each in (separator, b" ", b","):
        words = [word.strip(",; ") for word in fields(text, each)]
        if len(words) == width and not any(map(is_number, words)):
            return words
    return None
