"""Labelled text clouds. A file of the same kind comes back as it was, every line byte for byte, with the answer behind each row.

For files of other kinds `xyz` has a first line that names the columns, as CloudCompare writes it; `pts` has the number of points there.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from operator import add
from typing import BinaryIO

from models.answers.labelled import Labelled, added_names, plain_columns
from models.answers.text_numbers import number_texts
from models.answers.text_rows import added_texts
from models.errors import BadBody
from models.io.text import layout_of
from models.io.text_layout import COMMENTS, REMARK, TextLayout
from models.io.text_lines import line_blocks, row_places

COLOUR = {"red": "R", "green": "G", "blue": "B"}


def write_xyz(answer: Labelled, out: BinaryIO) -> None:
    """`//X Y Z R G B intensity ... label confidence label_red label_green label_blue`, then the rows, separated by blanks."""
    if answer.file.fmt == "xyz":
        write_same_text(answer, out)
        return
    names = plain_columns(answer.file.records).names
    words = [name.upper() if place < 3 else COLOUR.get(name, "_".join(name.split())) for place, name in enumerate(names)]
    out.write(("//" + " ".join([*words, *added_names(names)]) + "\n").encode())
    out.writelines(plain_rows(answer, " ", names))


def write_pts(answer: Labelled, out: BinaryIO) -> None:
    """The number of points, then rows of x, y, z, intensity and colour as far as there are, the other columns, and what is added."""
    if answer.file.fmt == "pts":
        write_same_text(answer, out)
        return
    names = plain_columns(answer.file.records).names
    first = [name for name in ("x", "y", "z", "intensity", *COLOUR) if name in names]
    out.write(b"%d\n" % len(answer.cloud))
    out.writelines(plain_rows(answer, " ", (*first, *(name for name in names if name not in first))))


def plain_rows(answer: Labelled, separator: str, order: tuple[str, ...]) -> Iterator[bytes]:
    """The rows, a block at a time: the columns of the file in some order of their names, and what is added."""
    plain = plain_columns(answer.file.records)
    places = [plain.names.index(name) for name in order]
    for rows, columns in plain.blocks(answer.cloud):
        words = zip(*(number_texts(columns[place]) for place in places), strict=True)
        lines = map(separator.encode().join, words)
        yield b"\n".join([*map(add, lines, added_texts(answer, rows, separator)), b""])


def write_same_text(answer: Labelled, out: BinaryIO) -> None:
    """The file with the answer behind each row, separated as the file is, and its names behind those of the columns, where there are some.

    Blank lines, comments, counts, line ends, quotes and decimal commas stay. Raises: what reading the file raises.
    """
    source = answer.file.source
    layout = layout_of(source)
    out.write(_labelled_head(source.read(0, layout.start), layout))
    done, line, left = 0, layout.line, layout.count
    for block in line_blocks(source, layout.start, layout.newline):
        lines = block.split(layout.newline)
        places, ended, left = row_places(block, layout.newline, line, left)
        rows = slice(done, done + len(places))
        if rows.stop > len(answer.cloud):
            break
        added = added_texts(answer, rows, layout.separator.decode("ascii"), "," if layout.decimal_comma else ".")
        out.write(layout.newline.join(_with_words(lines, places.tolist(), added, _rest(block, layout))))
        done, line = rows.stop, line + ended
    if done != len(answer.cloud):
        raise BadBody(f"the file has other than the {len(answer.cloud)} rows that were read")


def _labelled_head(head: bytes, layout: TextLayout) -> bytes:
    """What stands before the rows, with the added names behind those of the columns, separated and quoted as these are."""
    if layout.header is None:
        return head
    start, end = layout.header
    if layout.closed:
        end = start + len(head[start:end].rstrip(b" " + layout.separator))  # `x,y,z,` stays closed
    line = head[start:end]
    separator = next((each for each in (b", ", layout.separator, b",", b"\t") if each in line.strip()), b" ")
    quote = b'"' if line.rstrip().endswith(b'"') else b""
    names = [quote + name.encode() + quote for name in added_names(layout.names)]
    return head[:end] + b"".join(separator + name for name in names) + head[end:]


def _rest(block: bytes, layout: TextLayout) -> re.Pattern[bytes] | None:
    """What finds the place of the answer in a row: before a comment, or the separator at its end; None without these."""
    remarks = layout.remarks and any(marker[:1] in block for marker in COMMENTS)
    if not (remarks or layout.closed):
        return None
    end = rb"(?:%b[ \t]*)?" % layout.separator if layout.closed else b""
    remark = rb"(?:%b)?" % REMARK.pattern if remarks else b""
    return re.compile(end + remark + rb"\r?$")


def _with_words(lines: list[bytes], places: Sequence[int], words: list[bytes], rest: re.Pattern[bytes] | None) -> Iterable[bytes]:
    """Lines without their ends, those at some places with words in them, before the `rest`; a CR that belongs to the end stays there."""
    rows = lines if len(places) == len(lines) else [lines[place] for place in places]
    if rest is None:
        longer = [line[:-1] + word + b"\r" if line.endswith(b"\r") else line + word for line, word in zip(rows, words, strict=True)]
    else:
        longer = [_put(line, word, rest) for line, word in zip(rows, words, strict=True)]
    if len(longer) == len(lines):
        return longer
    out = list(lines)
    for place, line in zip(places, longer, strict=True):
        out[place] = line
    return out


def _put(line: bytes, word: bytes, rest: re.Pattern[bytes]) -> bytes:
    found = rest.search(line)
    place = found.start() if found else len(line)
    return line[:place] + word + line[place:]
