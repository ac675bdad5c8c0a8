"""Numbers as text: read to the last bit, or left to a slower reader."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.io import decimals
from models.io.decimals import plain_decimals

plain_number = st.one_of(
    st.integers(-(10**14), 10**14).map(str),
    st.decimals(-1000, 1000, places=6).map(str),
    st.from_regex(r"-?([0-9]{1,7}\.[0-9]{0,8}|\.[0-9]{1,14})", fullmatch=True),
)
any_number = st.one_of(
    plain_number,
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e7, 1e7).map(lambda value: f"{value:.10f}"),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: f"{value:.18e}"),
    st.from_regex(r"[-+]?([0-9]{1,26}\.?[0-9]{0,26}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,4})?", fullmatch=True),
    st.integers(1 << 53, 1 << 62).map(lambda value: str(value | 1)),  # of 54 bits and more: many lie halfway between two float64
)
LAYOUTS = [(b" ", " ", "\n"), (b" ", " \t", " \r\n"), (b",", ",", "\n"), (b",", ", ", "\r\n"), (b";", ";", "\n"), (b"\t", "\t", "\n")]


def rows_of(number):
    return st.integers(1, 4).flatmap(lambda columns: st.lists(st.lists(number, min_size=columns, max_size=columns), min_size=1))


@given(rows_of(plain_number))
def test_plain_decimals_are_read_to_the_last_bit(rows):
    text = "\n".join(" ".join(row) for row in rows).encode()
    expected = np.array([[float(word) for word in row] for row in rows])
    for found in (plain_decimals(text, len(rows[0])), plain_decimals(b" " + text.replace(b" ", b" \t") + b" \r\n", len(rows[0]))):
        assert found is not None
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@given(rows_of(any_number), st.sampled_from(LAYOUTS))
def test_any_numbers_are_read_to_the_last_bit_in_any_layout(rows, layout):
    separator, between, end = layout
    text = "".join(between.join(row) + end for row in rows).encode()
    found = plain_decimals(text, len(rows[0]), separator)
    assert found is not None
    expected = np.array([[float(word) for word in row] for row in rows])
    np.testing.assert_array_equal(found.view(np.uint64), expected.view(np.uint64))


@pytest.mark.parametrize("form", ["%.6f", "%.10f", "%.18e", "%.17g", "%g", "%12.3f", "%.8e", "%d", "%+.4f", "%.25f"])
def test_a_hundred_thousand_numbers_as_programs_write_them(form):
    values = np.random.default_rng(0).normal([500_000, 5_400_000, 0.01], [1000, 1000, 1], (30_000, 3))
    text = "".join(" ".join([form] * 3) % tuple(row) + "\n" for row in values.tolist())
    found = plain_decimals(text.encode(), 3)
    assert found is not None
    np.testing.assert_array_equal(found.ravel(), [float(word) for word in text.split()])


def test_bits_of_every_kind_of_float():
    bits = np.random.default_rng(1).integers(0, 1 << 64, 60_000, dtype=np.uint64).view(np.float64)
    bits = bits[np.isfinite(bits)]
    found = plain_decimals("\n".join(map(repr, bits.tolist())).encode(), 1)
    assert found is not None
    np.testing.assert_array_equal(found[:, 0].view(np.uint64), bits.view(np.uint64))


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_are_cut_at_line_ends(monkeypatch, block):
    values = np.random.default_rng(2).normal(size=(500, 4))
    text = "\n".join(" ".join(map(repr, row)) for row in values.tolist()).encode()
    monkeypatch.setattr(decimals, "BLOCK_BYTES", block)
    np.testing.assert_array_equal(plain_decimals(text, 4), values)


@given(st.text(alphabet="0123456789.-+eE \n\tn_\xa0,;#", max_size=30), st.integers(1, 3))
def test_what_is_not_plain_is_left_to_a_slower_reader(text, columns):
    found = plain_decimals(text.encode("latin-1"), columns)
    if found is not None:
        rows = [line.split() for line in text.replace("\t", " ").split("\n") if line.strip(" ")]
        np.testing.assert_array_equal(found, [[float(word) for word in row] for row in rows])


@given(st.lists(st.lists(st.text(alphabet="0123456789.-+e ", max_size=5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_fields_of_csv_are_not_shifted(rows):
    """What is read has one number between any two commas: float() agrees field by field."""
    text = "\n".join(",".join(row) for row in rows)
    found = plain_decimals(text.encode(), len(rows[0]), b",")
    if found is not None:
        lines = [line for line in text.split("\n") if line.strip()]
        assert len(lines) == len(text.rstrip("\n").split("\n"))
        np.testing.assert_array_equal(found, [[float(word) for word in line.split(",")] for line in lines])


@pytest.mark.parametrize(
    "text",
    ["", "\n", "1 2", "1 2 3 4", "1 2 3\n\n4 5 6\n", "1 2 3\n4 5\n6 7 8 9\n", "1,2,3"],
)
def test_other_rows_are_left_to_a_slower_reader(text):
    assert plain_decimals(text.encode(), 3) is None


@pytest.mark.parametrize(
    "word", ["nan", ".", "-", "1e", "e5", "1.2.3", "1e5.0", "1e2e3", "--3", "+-3", "3-", "1e--3", "3\x00", "3\x0b4", "1_0", "0x1"]
)
def test_words_that_are_no_numbers_are_left_to_a_slower_reader(word):
    assert plain_decimals(f"1 2 {word}\n".encode(), 3) is None
    assert plain_decimals(f"1 2 3\n1 2 {word}\n1.5 2e3 3\n".encode(), 3) is None


@pytest.mark.parametrize("text", [b"1,,3", b"1 2,3", b",1,2", b"1,2,", b"1,2 3,", b"1 2 3", b"1,2,3,\n4,5", b"1;2;3"])
def test_empty_and_double_fields_of_csv_are_none(text):
    assert plain_decimals(text + b"\n", 3, b",") is None
