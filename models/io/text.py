"""Text clouds: XYZ, TXT, ASC, PTS and CSV are one format with many dialects, told from the first lines; see `read_text`."""

from collections.abc import Iterator

import numpy as np

from models.errors import BadBody, FileError, TruncatedFile
from models.io.records import Records, Table
from models.io.source import Source
from models.io.text_layout import HEAD_BYTES, TextLayout, text_layout
from models.io.text_rows import check_rows, count_rows, read_rows

FEWEST_BYTES = 2  # of a column in a row


def read_text(source: Source) -> Records:
    """The columns of numbers, as float64, so that what is written is kept.

    Columns are separated by blanks, commas, semicolons or tabs, and a separator may end a row; with anything but commas numbers may have
    decimal commas. Lines end with LF, CR LF or CR; blank ones and comments (`#`, `//`, `%`) are passed over, also a comment behind the
    numbers of a row. The columns have the names of a first row of words or of a comment such as CloudCompare's `//X Y Z R G B`; without,
    they are told by their number and values (`text_columns`), and a first column of consecutive whole numbers is an `id`.

    What cannot be told: whether the fourth of four columns is an intensity or a class (it is taken for an intensity); colours where those
    of the first rows are all black; what is behind x, y, z in rows of eight columns or more, so that our own answers without names (to XYZ
    without a header, to PTS) come back with `column_3`, ... and no intensity or colour. Columns of words are not read. A count before the
    rows is checked; as in PTS, further counts may follow, with their rows. Quoted fields may hold separators, but no line ends.

    Raises: BadHeader, HeaderTooLarge, UnsupportedFormat (UTF-16), MissingCoordinates, TruncatedFile, TooManyPoints, BadBody (names the
    line); reading the rows BadBody.
    """
    layout = layout_of(source)
    least = FEWEST_BYTES * layout.columns
    if layout.count is not None and layout.count > (source.size - layout.start + 1) // least:
        raise TruncatedFile(
            f"{layout.count} rows of {layout.columns} columns are announced, the file has {source.size} bytes",
            where=f"line {layout.line - 1}",
        )
    count = count_rows(source, layout)
    dtype = np.dtype([(layout.names[place], "f8") for place in layout.numeric])

    def read() -> Iterator[Table]:
        left = count
        for values in read_rows(source, layout):
            left -= len(values)
            if left < 0:
                break
            yield values.view(dtype)[:, 0]
        if left:
            raise BadBody(f"the file has other than the {count} rows that were counted in it")

    return Records(count, dtype, read)


def layout_of(source: Source) -> TextLayout:
    """How the text is laid out. Raises: as `read_text`."""
    return text_layout(source.read(0, HEAD_BYTES), source.size <= HEAD_BYTES)


def guess_text(head: bytes, whole: bool = False) -> str | None:
    """The kind of text cloud that the first bytes of a file are of, where they are clearly rows of numbers: `xyz`, `pts` or `csv`."""
    try:
        layout = text_layout(head, whole)
        check_rows(head[layout.start :] if whole else head[layout.start : head.rfind(layout.newline) + 1], layout)
    except FileError:
        return None
    if len(layout.numeric) < layout.columns and layout.header is None:
        return None
    return "csv" if layout.separator in (b",", b";") else "xyz" if layout.count is None else "pts"
