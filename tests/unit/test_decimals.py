"""Plain decimals: read to the last bit, or left to a slower reader."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.io.decimals import plain_decimals

plain_number = st.one_of(
    st.integers(-(10**14), 10**14).map(str),
    st.decimals(-1000, 1000, places=6).map(str),
    st.from_regex(r"-?([0-9]{1,7}\.[0-9]{0,8}|\.[0-9]{1,14})", fullmatch=True),
)


@given(st.integers(1, 4).flatmap(lambda columns: st.lists(st.lists(plain_number, min_size=columns, max_size=columns), min_size=1)))
def test_plain_decimals_are_read_to_the_last_bit(rows):
    text = "\n".join(" ".join(row) for row in rows).encode()
    expected = np.array([[float(word) for word in row] for row in rows])
    for found in (plain_decimals(text, len(rows[0])), plain_decimals(b" " + text.replace(b" ", b" \t") + b" \r\n", len(rows[0]))):
        assert found is not None
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@given(st.text(alphabet="0123456789.-+e \n\tn_\xa0", max_size=30), st.integers(1, 3))
def test_what_is_not_plain_is_left_to_a_slower_reader(text, columns):
    found = plain_decimals(text.encode("latin-1"), columns)
    if found is not None:
        rows = [line.split() for line in text.replace("\t", " ").split("\n") if line.strip(" ")]
        np.testing.assert_array_equal(found, [[float(word) for word in row] for row in rows])
