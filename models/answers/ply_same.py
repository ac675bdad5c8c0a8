"""A PLY file as it came, and behind the columns of its points the answer: format, header, every row and every other element stay.

Into the header go five properties behind the last one of the vertex element, and before its end comments that list the classes; each
ends as the line before it does. Behind the bytes of each vertex go its added values. All else is copied byte for byte.

In an ascii row they go directly behind the values that the header announces. Some writers leave further words there, which readers
pass over; they stay, and behind the added values they shift nothing.
"""

from itertools import islice
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from models.answers.copying import copy_bytes
from models.answers.labelled import Labelled, added_names, added_types, packed_rows
from models.answers.ply_lines import added_lines, checked_header, class_comments
from models.answers.text_rows import added_texts, whole_rows, with_added, words_end
from models.errors import BadBody, TruncatedFile
from models.io.ply_binary import Rows, vertex_rows
from models.io.ply_header import Element, Header, read_header
from models.io.source import ROWS_AT_A_TIME, Source, text_lines
from models.labels import LabelMap


def write_same_ply(answer: Labelled, out: BinaryIO) -> None:
    """The file, labelled. A later element that is cut off stays as it is. Raises: what reading the file raises."""
    source = answer.file.source
    header = read_header(source)
    out.write(labelled_header(source, header, answer.label_map))
    end = _write_binary(answer, header, out) if header.byte_order else _write_ascii(answer, header, out)
    copy_bytes(source, end, source.size, out)


def labelled_header(source: Source, header: Header, label_map: LabelMap) -> bytes:
    """The header of the file with what is added. Raises: BadOption (too large for our own reader)."""
    vertex = header.elements[header.vertex]
    names = added_names(each.name for each in vertex.properties)
    lines = source.read(0, header.offset).splitlines(keepends=True)
    place = _after_properties(lines, header.vertex)
    line_end = _line_end(lines[place - 1])
    properties = [(line + line_end).encode("latin-1") for line in added_lines(names, label_map)]
    room = checked_header(len(vertex.properties) + len(names), header.offset + sum(map(len, properties)))
    line_end = _line_end(lines[-2])
    comments = [(line + line_end).encode("ascii") for line in class_comments(label_map, names[0], room, line_end)]
    return b"".join([*lines[:place], *properties, *lines[place:-1], *comments, lines[-1]])


def _after_properties(lines: list[bytes], element: int) -> int:
    """The number of the line behind the last property of an element, which has some."""
    found, elements = 0, -1
    for number, line in enumerate(lines):
        words = line.decode("latin-1").split()
        elements += words[:1] == ["element"]
        if words[:1] == ["property"] and elements == element:
            found = number + 1
    return found


def _line_end(line: bytes) -> str:
    return line[len(line.rstrip(b"\r\n")) :].decode("ascii")


def _write_binary(answer: Labelled, header: Header, out: BinaryIO) -> int:
    """What stands before the vertices, and the vertices; where in the file they end."""
    source = answer.file.source
    codes = [header.byte_order + each[-2:] for each in added_types(answer.label_map)]
    done, end = 0, header.offset
    for rows in vertex_rows(source, header):
        copy_bytes(source, end, rows.begin, out)  # of the first ones; after that there is nothing between
        out.write(_joined(rows, packed_rows(codes, answer.added(slice(done, done + len(rows))))))
        done, end = done + len(rows), rows.begin + len(rows.data)
    return end


def _joined(rows: Rows, behind: npt.NDArray[np.uint8]) -> bytes | memoryview:
    """The bytes of n rows, each with what goes behind it (n, A)."""
    if rows.width is not None:
        table = np.empty((len(rows), rows.width + behind.shape[1]), np.uint8)
        table[:, : rows.width] = np.frombuffer(rows.data, np.uint8).reshape(-1, rows.width)
        table[:, rows.width :] = behind
        return table.data
    blob, width = behind.tobytes(), behind.shape[1]
    return with_added(bytes(rows.data), rows.ends.tolist(), [blob[start : start + width] for start in range(0, len(blob), width)])


def _write_ascii(answer: Labelled, header: Header, out: BinaryIO) -> int:
    """What stands before the vertices, and the vertices; where in the file they end."""
    source, vertex = answer.file.source, header.elements[header.vertex]
    before = sum(element.count for element in header.elements[: header.vertex] if element.properties)
    begin = header.offset + sum(len(line) for line in whole_rows(text_lines(source, header.offset), before))
    copy_bytes(source, header.offset, begin, out)
    end, done = begin, 0
    lines = whole_rows(text_lines(source, begin), vertex.count)
    while block := list(islice(lines, ROWS_AT_A_TIME)):
        words = np.array([_words_of(line, vertex) for line in block if line.strip()]) if vertex.has_lists else len(vertex.properties)
        text, places = words_end(block, words, f"vertices from {done} on")
        out.write(with_added(text, places, added_texts(answer, slice(done, done + len(places)))))
        end, done = end + len(text), done + len(places)
    if done < vertex.count:
        raise TruncatedFile(f"the header announces {vertex.count} vertices, the body has {done}")
    return end


def _words_of(line: bytes, vertex: Element) -> int:
    """How many words the announced values of a row are, its lists counted out. Raises: BadBody."""
    words, count = line.split(), 0
    for each in vertex.properties:
        if each.length_code and count < len(words):
            try:
                count += int(words[count])
            except ValueError as error:
                raise BadBody(f"not the length of a list: {words[count][:20].decode('latin-1')!r}", where="vertex") from error
        count += 1
    return count
