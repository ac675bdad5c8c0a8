"""Blocks of text that are not rows of plain numbers alone: read as line by line, and nearly as fast as those that are."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadBody
from models.io import open_cloud, read_cloud
from models.io.text_layout import TextLayout
from models.io.text_lines import only_lines, row_places
from models.io.text_plain import plain_rows
from models.io.text_rows import _carefully
from tests.fire import PROMPT_S

ROWS = 60_000
WORDS = [
    "1",
    "-2.5",
    "nan",
    "NaN",
    "-inf",
    "inf",
    "Infinity",
    "0nan",
    "nan.0",
    "nane0",
    "nan5",
    "1nan",
    "infnan",
    "70000000000003",
    "-",
    "1_0",
]
WORDS += ['"1"', '"2,5"', '"a, b"', '"a ""b"""', '""', "", '"1""2"', '""3""', "x", ' "4" ', '"n"x', '" 5 "', '"1 2"', '"nan"', "3\t", "1,5"]


@given(st.data(), st.sampled_from([b",", b";", b" ", b"\t"]), st.booleans(), st.booleans(), st.booleans())
def test_what_is_read_at_once_is_what_is_read_line_by_line(data, separator, words, comma, closed):
    names = ("w", "x", "y", "z") if words else ("x", "y", "z")
    numeric = tuple(range(len(names) - 3, len(names)))
    closed = closed and separator != b" "
    layout = TextLayout(separator, comma and separator != b",", b"\n", names, numeric, 0, 1, None, None, closed, not words)
    common = st.sampled_from([*data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)), "1", "2", "3.5"])
    rows = data.draw(st.lists(st.lists(common, min_size=len(names), max_size=len(names)), min_size=1, max_size=3))
    end = (separator if closed else b"") + data.draw(st.sampled_from([b"\n", b"\r\n"]))
    text = b"".join(separator.join(word.encode() for word in row) + end for row in rows)
    found = plain_rows(text, layout)
    if found is None or (separator == b" " and b'""' in text):  # csv takes an empty quoted word between blanks for none
        return
    places, _, _ = row_places(text, b"\n", 1, None)
    np.testing.assert_array_equal(found, _carefully(only_lines(text, b"\n", places), 1 + places, layout))


@given(
    st.lists(st.sampled_from(["", " ", "\t", "#", " # a", "//", "/", "/ /", "%", "1 2 3", "  1 2 3", "\v\f", "\x01"])),
    st.sampled_from(["\n", "\r", "\r\n"]),
)
def test_rows_are_the_lines_that_are_neither_blank_nor_comments(lines, end):
    text = end.join([*lines, "1"]).encode()
    newline = end[-1:].encode()
    expected = [place for place, line in enumerate(lines) if line.strip() and not line.strip().startswith(("#", "//", "%"))]
    found, ends, _ = row_places(text, newline, 1, None)
    assert found.tolist() == [*expected, len(lines)]
    assert ends == len(lines)
    kept = only_lines(text, newline, found)
    assert kept == b"".join(lines[place].encode() + end.encode() for place in expected) + b"1"


def seconds(path, n):
    """The fastest of five readings, and that there are n rows."""
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        with open_cloud(path) as file:
            assert sum(map(len, file.records.read())) == n
        best = min(best, time.perf_counter() - started)
    return best


@pytest.mark.parametrize(
    "row",
    ["1.5 2 3 nan\n", "1.5 2 3\n\n", "1.5 2 3\n# c\n", "1.5 2 3 # c\n", '"1.5","2","3"\n', "1.5,2,,3\n", "1.5,2,3,\n", '1.5,2,3,"a, b"\n'],
)
def test_what_is_no_plain_row_does_not_send_a_block_to_the_slow_reader(save, row):
    """Line by line is 20 to 35 times slower than plain rows; the bound leaves room for a busy machine."""
    plain = seconds(save("plain.txt", b"1.5 2 3 4\n" * ROWS), ROWS)
    assert seconds(save("a.txt", row.encode() * ROWS), ROWS) < 15 * plain


@pytest.mark.parametrize("line", [b"\n", b"#\n", b"  \n", b"//\n", b"1\n1 2 3\n"])
def test_megabytes_that_hold_nothing_are_gone_through_at_once(save, line):
    """Not line by line, which is 20 to 35 times slower than rows of as many bytes."""
    size = 8_000_000
    plain = seconds(save("plain.txt", b"1.5 2 3 4\n" * (size // 10)), size // 10)
    path = save("a.txt", b"1\n1 2 3\n" + line * (size // len(line)))
    started = time.perf_counter()
    try:
        found = seconds(path, 1)
    except BadBody:
        found = time.perf_counter() - started
    assert found < 10 * plain


@pytest.mark.parametrize("blank", [b" ", b"\t"])
def test_a_run_of_blanks_before_what_could_be_a_comment_is_gone_through_once(tmp_path, blank):
    path = tmp_path / "a.xyz"
    path.write_bytes(b"1 2 3 // a\n4 5" + blank * 100_000 + b"6\n7 8 9 % b\n7 8 nan // c\n")
    began = time.process_time()
    np.testing.assert_array_equal(read_cloud(path).xyz[:3], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert time.process_time() - began < PROMPT_S  # it took a minute
