"""Long arrays of numbers are taken out of JSON and parsed in pieces: what comes out is what a JSON parser finds."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadInference
from service.inference import numbers
from service.inference.numbers import LongArray, without_long_arrays


@pytest.fixture(autouse=True, scope="module")
def _small() -> object:
    """Arrays of any length go the way of long ones, a few numbers at a time."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("LONG", 1), ("PIECE", 7), ("LONGEST_PIECE", 400)):
            patch.setattr(numbers, name, size)
        yield


VALUES = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
FLAT = st.lists(VALUES, max_size=30)
ROWS = st.lists(st.lists(VALUES, max_size=4), max_size=12)
KEYS = st.just("data") | st.text()
INDENTS = st.sampled_from([None, 0, 2])


def items_of(array: LongArray) -> list[object]:
    return [item for piece in array.pieces() for item in piece]


def put_back(document: object, taken: dict[str, LongArray]) -> object:
    """The document with its arrays where they were."""
    if isinstance(document, dict):
        return {key: put_back(value, taken) for key, value in document.items()}
    if isinstance(document, list):
        return [put_back(value, taken) for value in document]
    return items_of(taken[document]) if isinstance(document, str) and document in taken else document


@given(data=FLAT | ROWS, indent=INDENTS)
def test_pieces_are_the_array(data: list[object], indent: int | None) -> None:
    text = json.dumps(data, indent=indent).encode()
    array = LongArray(b"x" + text + b"y", 1, 1 + len(text))
    assert items_of(array) == data
    assert array.nested == (bool(data) and isinstance(data[0], list))
    assert array.most >= sum(len(each) if isinstance(each, list) else 1 for each in data)


@given(
    document=st.dictionaries(KEYS, st.text() | FLAT | ROWS | st.dictionaries(KEYS, FLAT | st.text() | st.none()), max_size=5),
    indent=INDENTS,
    plain=st.booleans(),
)
def test_the_document_is_the_same(document: dict[str, object], indent: int | None, plain: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=not plain).encode("utf-8", "replace")
    short, taken = without_long_arrays(text)
    assert put_back(json.loads(short), taken) == json.loads(text)
    assert len(taken) == _arrays(document)


def _arrays(document: dict[str, object]) -> int:
    """Those that are called data."""
    inner = sum(_arrays(each) for each in document.values() if isinstance(each, dict))
    return inner + sum(key == "data" and isinstance(value, list) for key, value in document.items())


def finite(digits: str) -> float:
    """Raises: ValueError (it is too large for a double, which is refused too)."""
    if not math.isfinite(number := float(digits)):
        raise ValueError(digits)
    return number


@given(data=FLAT | ROWS, changed=st.data())
def test_what_is_no_json_is_refused(data: list[object], changed: st.DataObject) -> None:
    """One character is left out, or put in."""
    text = json.dumps(data)[1:-1]
    at = changed.draw(st.integers(0, len(text)))
    text = f"[{text[:at]}{changed.draw(st.sampled_from(['', ',', '-', '.', '1', ' ', 'e']))}{text[at + changed.draw(st.integers(0, 1)) :]}]"
    array = LongArray(text.encode(), 0, len(text))
    try:
        expected: object = json.loads(text, parse_float=finite)
    except ValueError:
        with pytest.raises(BadInference):
            items_of(array)
    else:
        assert items_of(array) == expected


@pytest.mark.parametrize("wrong", [lambda text: text + ",", lambda text: "," + text, lambda text: text.replace(",", ",,", 1)])
def test_commas_without_items(wrong: Callable[[str], str]) -> None:
    for row in ("1", "[1, 2]"):
        text = f"[{wrong(', '.join([row] * 20))}]"
        with pytest.raises(BadInference):
            items_of(LongArray(text.encode(), 0, len(text)))
