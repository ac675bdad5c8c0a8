"""A PCD file as it came, and behind the values of each point the answer: kind of data, version, viewpoint, width and height, comments
and padding stay, and every value keeps its bits or its text.

A compressed body is not compressed anew: LZF streams may be put one behind the other, so that of the added columns goes behind the
file's own.
"""

import re
from collections.abc import Sequence
from itertools import islice
from typing import BinaryIO

import lzf
import numpy as np

from models.answers.copying import copy_bytes
from models.answers.labelled import Labelled, added_names, added_types, packed_rows
from models.answers.pcd_lines import added_fields, class_lines, room_for_comments, type_words
from models.answers.text_rows import added_texts, whole_rows
from models.errors import TruncatedFile
from models.io.pcd_body import READERS
from models.io.pcd_header import SIZES_BYTES, Header, as_stored, compressed_sizes, key_of, read_header, row_type
from models.io.records import BLOCK_ROWS, Table
from models.io.source import ROWS_AT_A_TIME, text_lines
from models.labels import LabelMap

COMPRESSED_BYTES = (1 << 32) - 1  # a compressed body says its sizes in 32 bits
SPARE_BYTES = 64  # that LZF may need for a block that it cannot make smaller


def write_same_pcd(answer: Labelled, out: BinaryIO) -> None:
    """The file, labelled; what stands behind its points, too. A compressed file that would become larger than one can be is written as
    a binary one. Raises: what reading the file raises.
    """
    source = answer.file.source
    header = read_header(source)
    text = labelled_header(header, answer.file.records.names, answer.label_map)
    if header.data == "ascii":
        out.write(text)
        end = _write_ascii(answer, header, out)
    elif header.data == "binary":
        out.write(text)
        _write_binary(answer, header, out)
        end = header.offset + header.points * header.row_bytes
    else:
        packed_bytes, plain_bytes = compressed_sizes(source, header)
        end = header.offset + SIZES_BYTES + packed_bytes
        if _fits(answer, header.points, packed_bytes, plain_bytes):
            out.write(text)
            _write_compressed(answer, header, out)
        else:
            out.write(_said_binary(text))
            _write_binary(answer, header, out)
    copy_bytes(source, end, source.size, out)


def labelled_header(header: Header, columns: Sequence[str], label_map: LabelMap) -> bytes:
    """The header of the file with what is added. Raises: BadOption (too large for our own reader)."""
    added = added_fields(added_names([*(field.name for field in header.fields), *columns]), label_map)
    fields = header.fields + added
    words = {"FIELDS": [field.name for field in added], **type_words(added)}
    line_end = "\r\n" if header.text.endswith(b"\r\n") else "\n"
    keys = {key_of(line) for line in header.text.split(b"\n")}
    lines: list[bytes] = []
    for line in header.text.split(b"\n")[:-1]:
        key = key_of(line)
        lines.append(_with_words(line + b"\n", words.get(key, [])))
        if key == "FIELDS":  # without SIZE or TYPE all were float32; COUNT is 1 for the added ones, too
            lines += [_line([new, *type_words(fields)[new]], line_end) for new in ("SIZE", "TYPE") if new not in keys]
    room = room_for_comments(fields, sum(map(len, lines)))
    comments = [_line([line], line_end) for line in class_lines(label_map, added[0].name, room, line_end)]
    return b"".join([*lines[:-1], *comments, lines[-1]])


def _with_words(line: bytes, words: list[str]) -> bytes:
    """The line with further words behind the last one."""
    end = len(line.rstrip())
    return line[:end] + b"".join(b" " + word.encode() for word in words) + line[end:]


def _line(words: list[str], line_end: str) -> bytes:
    return (" ".join(words) + line_end).encode()


def _said_binary(text: bytes) -> bytes:
    """A header as it is, but for the kind of data."""
    start = text.rindex(b"\n", 0, -1) + 1
    return text[:start] + re.sub(rb"(?i)binary_compressed", b"binary", text[start:], count=1)


def _write_ascii(answer: Labelled, header: Header, out: BinaryIO) -> int:
    """Every line as it is with the added values behind its last one; where in the file the points end. Raises: TruncatedFile."""
    end, done = header.offset, 0
    lines = whole_rows(text_lines(answer.file.source, end), header.points)
    while block := list(islice(lines, ROWS_AT_A_TIME)):
        count = sum(1 for line in block if line.strip())
        added = iter(added_texts(answer, slice(done, done + count)))
        for line in block:
            stop = len(line.rstrip())
            out.write(b"%b%b%b" % (line[:stop], next(added), line[stop:]) if stop else line)
        end, done = end + sum(map(len, block)), done + count
    if done < header.points:
        raise TruncatedFile(f"the header announces {header.points} points, the body has {done}")
    return end


def _write_binary(answer: Labelled, header: Header, out: BinaryIO) -> None:
    """The bytes of each point, its padding too, and behind them the answer."""
    source = answer.file.source
    stored = as_stored(header, source)
    done = 0
    for table in READERS[header.data](source, stored, row_type(stored)):
        rows = table if stored is header else _padded(table, header)
        behind = packed_rows(added_types(answer.label_map), answer.added(slice(done, done + len(rows))))
        out.write(np.concatenate([rows.view(np.uint8).reshape(len(rows), -1), behind], axis=1).data)
        done += len(rows)


def _padded(table: Table, header: Header) -> Table:
    """Rows that are stored without padding, with zeros in its place."""
    rows = np.zeros(len(table), row_type(header))
    is_padding = [field.is_padding for field in header.fields for _ in range(field.count)]
    places = [name for name, padding in zip(rows.dtype.names or (), is_padding, strict=True) if not padding]
    for name, place in zip(table.dtype.names or (), places, strict=True):
        rows[place] = table[name]
    return rows


def _fits(answer: Labelled, points: int, packed_bytes: int, plain_bytes: int) -> bool:
    """Whether a compressed body can say its sizes once the answer is added, however badly that compresses."""
    added = points * sum(np.dtype(code).itemsize for code in added_types(answer.label_map))
    return max(packed_bytes, plain_bytes) + 2 * added <= COMPRESSED_BYTES


def _write_compressed(answer: Labelled, header: Header, out: BinaryIO) -> None:
    """The compressed columns of the file as they are, and behind them those of the answer, one after another."""
    packed_bytes, plain_bytes = compressed_sizes(answer.file.source, header)
    place = out.tell()
    start = header.offset + SIZES_BYTES
    out.write(bytes(SIZES_BYTES))
    copy_bytes(answer.file.source, start, start + packed_bytes, out)
    for column in range(len(added_types(answer.label_map))):
        for first in range(0, header.points, BLOCK_ROWS):
            block = answer.added(slice(first, min(first + BLOCK_ROWS, header.points)))[column].tobytes()
            packed = lzf.compress(block, 2 * len(block) + SPARE_BYTES)
            out.write(packed)
            packed_bytes += len(packed)
            plain_bytes += len(block)
    end = out.tell()
    out.seek(place)
    out.write(np.array([packed_bytes, plain_bytes], "<u4").tobytes())
    out.seek(end)
