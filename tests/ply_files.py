"""PLY files of every dialect, as hypothesis makes them up: any bits, any order of elements, lists, comments, ends of lines."""

import struct
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.ply_dropped import KINDS

FORMS = ("ascii", "binary_little_endian", "binary_big_endian")
BLANKS = st.sampled_from([b" ", b"  ", b"\t"])
ASIDES = st.sampled_from(["comment made by hand", "obj_info 7 \xe9", "comment end_header is near", "", "comment"])
NAMES = st.sampled_from(["a", "b", "label", "LABEL", "fip_label", "Confidence", "label_blue", "nx", "\xe9"])


@dataclass(frozen=True)
class Element:
    """columns: the words of each property, its name last."""

    name: str
    columns: tuple[tuple[str, ...], ...]
    rows: int


@st.composite
def ply_files(draw: st.DrawFn) -> bytes:
    form = draw(st.sampled_from(FORMS))
    line_end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    elements = draw(
        st.permutations([draw(vertices()), draw(faces()), Element("camera", (("float", "view"), ("f8", "roll")), draw(st.integers(0, 2)))])
    )
    lines = ["ply", f"format {form} 1.0"]
    for each in elements:
        lines.append(f"element {each.name} {each.rows}")
        for words in each.columns:
            lines += [*draw(st.lists(ASIDES, max_size=1)), f"{draw(st.sampled_from(['', ' ']))}property {' '.join(words)}"]
    lines += [*draw(st.lists(ASIDES, max_size=2)), "end_header"]
    header = line_end.join([line.encode("latin-1") for line in lines] + [b""])
    if form == "ascii":
        return header + _text(draw, elements)
    order = ">" if "big" in form else "<"
    parts = [_row(draw, each, order) for each in elements for _ in range(each.rows)]
    return header + b"".join(parts) + draw(st.binary(max_size=9))


@st.composite
def vertices(draw: st.DrawFn) -> Element:
    """x, y, z and other columns and lists in any order, one row or more."""
    kind = st.sampled_from(sorted(KINDS))
    names = ["x", "y", "z", *draw(st.lists(NAMES, max_size=4, unique=True))]
    columns: list[tuple[str, ...]] = [(draw(kind), name) for name in names]
    columns += [("list", draw(st.sampled_from(["uchar", "int16", "u4"])), draw(kind), f"l{i}") for i in range(draw(st.integers(0, 2)))]
    return Element(draw(st.sampled_from(["vertex", "Vertex"])), tuple(draw(st.permutations(columns))), draw(st.integers(1, 5)))


@st.composite
def faces(draw: st.DrawFn) -> Element:
    return Element("face", (("list", "uchar", "int", "vertex_indices"), ("uchar", "flag")), draw(st.integers(0, 4)))


def _length(draw: st.DrawFn) -> int:
    return draw(st.sampled_from([3, 3, 3, 0, 1, 4]))


def _row(draw: st.DrawFn, element: Element, order: str) -> bytes:
    """Any bits."""
    parts = []
    for words in element.columns:
        length = _length(draw) if words[0] == "list" else 1
        if words[0] == "list":
            parts.append(struct.pack(order + KINDS[words[1]], length))
        size = length * struct.calcsize(KINDS[words[-2]])
        parts.append(draw(st.binary(min_size=size, max_size=size)))
    return b"".join(parts)


def _text(draw: st.DrawFn, elements: list[Element]) -> bytes:
    """Rows with blanks and blank lines anywhere, words that the header does not announce, and at times no last line end."""
    lines = []
    for each in elements:
        for _ in range(each.rows):
            words = []
            for column in each.columns:
                length = _length(draw) if column[0] == "list" else 1
                words += [str(length)] if column[0] == "list" else []
                whole = KINDS[column[-2]] not in "fd"
                number = st.integers(0, 100).map(str) if whole else st.sampled_from(["1.5", "-2e3", "nan", "0", ".25", "1.00", "-inf"])
                words += [draw(number) for _ in range(length)]
            words += draw(st.lists(st.sampled_from(["99", "more"]), max_size=2)) if each.name.lower() == "vertex" else []
            line = b"".join(draw(BLANKS) + word.encode() for word in words)
            lines.append(draw(st.sampled_from([line, line.lstrip(), line + b" "])))
            lines += [b" "] * draw(st.sampled_from([0, 0, 0, 1]))
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    return end.join(lines) + draw(st.sampled_from([b"", end, end + end + b"and a tail\n"]))
