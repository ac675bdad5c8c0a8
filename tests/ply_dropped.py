"""What a labelled PLY was before: the added properties taken out again, value by value and without any of our own readers."""

import re
import struct
from collections.abc import Iterator

KINDS = {
    **dict.fromkeys(("char", "int8", "i1"), "b"),
    **dict.fromkeys(("uchar", "uint8", "u1", "bool"), "B"),
    **dict.fromkeys(("short", "int16", "i2"), "h"),
    **dict.fromkeys(("ushort", "uint16", "u2"), "H"),
    **dict.fromkeys(("int", "int32", "i4"), "i"),
    **dict.fromkeys(("uint", "uint32", "u4"), "I"),
    **dict.fromkeys(("int64", "i8"), "q"),
    **dict.fromkeys(("uint64", "u8"), "Q"),
    **dict.fromkeys(("float", "float32", "f4"), "f"),
    **dict.fromkeys(("double", "float64", "f8"), "d"),
}
ADDED = 5
Element = tuple[str, int, list[list[str]]]  # name, rows, the words of each property


def dropped(answer: bytes, comments: int) -> tuple[bytes, list[str]]:
    """The file without the last five properties of its vertices and the last `comments` lines before the end of its header, and the
    names of those properties.
    """
    end = re.search(rb"(?<=[\r\n])[ \t]*end_header[ \t]*(\r\n|\r|\n|$)", answer)
    assert end is not None
    stop = end.start(1) + 1 if b"\n" not in answer[: end.start()] else end.end()
    lines = answer[:stop].splitlines(keepends=True)
    elements = list(_elements(lines))
    place = max(number for number, name in _property_lines(lines) if name == "vertex") + 1
    names = [line.split()[-1].decode("latin-1") for line in lines[place - ADDED : place]]
    header = lines[: place - ADDED] + lines[place : len(lines) - 1 - comments] + lines[-1:]
    form = next(words[1] for words in map(bytes.split, lines) if words[:1] == [b"format"])
    body = answer[stop:]
    kept = _ascii(body, elements) if form == b"ascii" else _binary(body, elements, ">" if b"big" in form else "<")
    return b"".join(header) + kept, names


def _elements(lines: list[bytes]) -> Iterator[Element]:
    found: list[Element] = []
    for words in (line.decode("latin-1").split() for line in lines):
        if words[:1] == ["element"]:
            found.append((words[1].lower(), int(words[2]), []))
        elif words[:1] == ["property"]:
            found[-1][2].append(words[1:])
    return iter(found)


def _property_lines(lines: list[bytes]) -> Iterator[tuple[int, str]]:
    """The numbers of the lines of properties, each with the name of its element, of which the first of a name counts."""
    name, seen = "", set[str]()
    for number, words in enumerate(line.decode("latin-1").split() for line in lines):
        if words[:1] == ["element"]:
            name = words[1].lower() if words[1].lower() not in seen else ""
            seen.add(words[1].lower())
        elif words[:1] == ["property"]:
            yield number, name


def _binary(body: bytes, elements: list[Element], order: str) -> bytes:
    kept, place = b"", 0
    for name, count, properties in elements:
        rows = []
        for _ in range(count):
            start = place
            for number, words in enumerate(properties):
                if number == len(properties) - ADDED and name == "vertex":
                    rows.append(body[start:place])
                place += struct.calcsize(KINDS[words[-2]]) * _length(body, place, words, order)
                place += struct.calcsize(KINDS[words[1]]) if words[0] == "list" else 0
        if name == "vertex":
            return kept + b"".join(rows) + body[place:]
        kept += body[len(kept) : place]
    raise AssertionError("no vertices")


def _length(body: bytes, place: int, words: list[str], order: str) -> int:
    return int(struct.unpack_from(order + KINDS[words[1]], body, place)[0]) if words[0] == "list" else 1


def _ascii(body: bytes, elements: list[Element]) -> bytes:
    lines = iter(body.splitlines(keepends=True))
    kept = []
    for name, count, properties in elements:
        for _ in range(count if properties else 0):
            line = next(lines)
            while not line.strip():
                kept.append(line)
                line = next(lines)
            if name == "vertex":
                spans = [found.span() for found in re.finditer(rb"\S+", line)]
                word = 0
                for words in properties[:-ADDED]:
                    word += 1 + (int(line[slice(*spans[word])]) if words[0] == "list" else 0)
                line = line[: spans[word - 1][1]] + line[spans[word + ADDED - 1][1] :]
            kept.append(line)
        if name == "vertex":
            break
    return b"".join([*kept, *lines])
