"""A block of rows of a text cloud to numbers, all at once: what is no number is taken out, or replaced by one, before.

R rows, C columns, F of them numbers.
"""

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from models.io.decimals import plain_decimals
from models.io.text_layout import TextLayout

_SWAPPED = bytes.maketrans(b",.", b".,")
_NAN, _INF = b"70000000000003", b"70000000000007"  # what stands for them; a block with such numbers is left to a slower reader
_SPELT = {b"nan": _NAN, b"NaN": _NAN, b"NAN": _NAN, b"infinity": _INF, b"Infinity": _INF, b"inf": _INF, b"Inf": _INF, b"INF": _INF}
_DIGIT = np.isin(np.arange(256), list(b"0123456789."))
_QUOTE = ord('"')

Doubles = npt.NDArray[np.float64]


def plain_rows(block: bytes, layout: TextLayout) -> Doubles | None:
    """The numbers (R, F) of a block of nothing but rows; None where there is anything that only a slower reader can make out."""
    if layout.newline != b"\n":
        block = block.replace(layout.newline, b"\n")
    if not block.endswith(b"\n"):
        block += b"\n"
    if b'"' in block:
        unquoted = _unquoted(block, layout.separator)
        if unquoted is None:
            return None
        block = unquoted
    if layout.closed:
        block = block.replace(layout.separator + b"\n", b"\n").replace(layout.separator + b"\r\n", b"\r\n")
    if len(layout.numeric) < layout.columns:
        without = _without_words(block, layout)
        if without is None:
            return None
        block = without
    if layout.decimal_comma:
        if b"." in block:
            return None
        block = block.translate(_SWAPPED)
    found = _numbers_only(block, layout.separator)
    values = None if found is None else plain_decimals(found[0], len(layout.numeric), layout.separator)
    return values if values is None or found is None or not any(found[1:]) else _with_missing(values, *found[1:], layout)


def _with_missing(values: Doubles, missing: int, infinite: int, layout: TextLayout) -> Doubles | None:
    """The values (R, F) with NaN and infinities for what stands for them; None unless as many do as were put there."""
    size = np.abs(values)
    nans, infs = size == float(_NAN), size == float(_INF)
    if np.count_nonzero(nans) != missing or np.count_nonzero(infs) != infinite:
        return None
    if layout.separator == b"\t" and nans.all(axis=1).any():  # of nothing but tabs: a blank line
        return None
    values[nans] = np.nan
    values[infs] = np.copysign(np.inf, values[infs])
    return values


def _numbers_only(block: bytes, separator: bytes) -> tuple[bytes, int, int] | None:
    """The rows with numbers for empty fields, NaN and infinities, how many stand for NaN, and how many for infinities.

    None where one of these words touches what could be a part of the number: `0nan`, `nan.0`.
    """
    counts = {_NAN: 0, _INF: 0}
    if separator != b" " and any(each in block for each in (separator * 2, separator + b"\n", separator + b"\r", b"\n" + separator)):
        if _NAN in block:
            return None
        block, counts[_NAN] = _empty_field(separator).subn(_NAN, block)
    if b"n" in block or b"N" in block:
        if not counts[_NAN] and (_NAN in block or _INF in block):
            return None
        if _letters_touch_digits(block):
            return None
        for word, number in _SPELT.items():
            with_numbers = block.replace(word, number)
            counts[number] += (len(with_numbers) - len(block)) // (len(number) - len(word))  # bytes.count takes as long as that
            block = with_numbers
            if b"n" not in block and b"N" not in block:
                break
    return block, counts[_NAN], counts[_INF]


def _letters_touch_digits(block: bytes) -> bool:
    """Whether a letter other than the `e` of a number is beside a digit or a dot."""
    chars = np.frombuffer(block, np.uint8)
    letters = np.flatnonzero(chars >= ord("A"))
    found = chars.take(letters)
    before = _DIGIT.take(chars.take(letters - 1, mode="clip"))
    after = _DIGIT.take(chars.take(letters + 1, mode="clip"))
    return bool(np.where((found | 32) == ord("e"), ~before, before | after).any())


def _unquoted(block: bytes, separator: bytes) -> bytes | None:
    """The rows without quotes, and with `_` for separators between them; None where quotes are elsewhere than around fields."""
    chars = np.frombuffer(block, np.uint8).copy()
    quotes = np.flatnonzero(chars == _QUOTE)
    if len(quotes) % 2:
        return None
    opened, closed = quotes[::2], quotes[1::2]
    before = np.where(opened > 0, chars.take(opened - 1, mode="clip"), 10)
    before = np.where((before == 32) & (opened > 1), chars.take(opened - 2, mode="clip"), before) if separator != b" " else before
    after = chars.take(closed + 1)  # there is one, for a block ends with a newline
    if not np.isin(before, [10, separator[0], _QUOTE]).all() or not np.isin(after, [10, 13, 32, separator[0], _QUOTE]).all():
        return None
    chars[closed[after == _QUOTE]] = ord("w")  # two quotes in a field: it holds a word
    steps = np.zeros(len(chars), np.int8)
    steps[opened], steps[closed] = 1, -1
    inside = np.cumsum(steps, dtype=np.int8).view(np.bool_)
    if (inside & ((chars == 10) | (chars == 13))).any():
        return None
    chars[inside & ((chars == separator[0]) | ((chars == 9) if separator == b" " else False))] = ord("_")
    return chars.tobytes().translate(None, b'"')


@lru_cache(maxsize=8)
def _empty_field(separator: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?<=%b)(?=[%b\r\n])|(?:^|(?<=\n))(?=%b)" % ((separator,) * 3))


def _without_words(block: bytes, layout: TextLayout) -> bytes | None:
    """The lines without the columns that are no numbers; None where not all have C columns, each one followed by one separator."""
    if layout.separator == b" " and (block.startswith(b" ") or b"\n " in block or b"  " in block):
        return None
    chars = np.frombuffer(block, np.uint8)
    marks = np.flatnonzero((chars == layout.separator[0]) | (chars == 10))
    if len(marks) % layout.columns:
        return None
    grid = marks.reshape(-1, layout.columns)  # (R, C): where each column ends
    if not (chars.take(grid[:, -1]) == 10).all() or np.count_nonzero(chars == 10) != len(grid):
        return None
    kept = np.zeros(layout.columns, np.bool_)
    kept[list(layout.numeric)] = True
    mask = np.repeat(np.tile(kept, len(grid)), np.diff(marks, prepend=-1))
    last = layout.numeric[-1]
    mask[grid[:, last]] = last == layout.columns - 1  # the separator before words that are left out goes with them
    mask[grid[:, -1]] = True
    return chars[mask].tobytes()
