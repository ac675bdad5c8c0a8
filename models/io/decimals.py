"""Columns of numbers as text, such as `-12.345678 7 1.5e-05`, to float64: all numbers of a block at once, to the last bit.

R rows, C columns, T = R · C numbers, each of which may have a sign, a dot and an exponent. numpy's reader takes numbers one by one;
here the places of separators, dots and exponents are found for a whole block, and then the digits of every number are read eight at
a time: the eight bytes that end at its dot, and those at its end, make one word each, of which three multiplications make a number.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from models.io.text_scale import scaled

BLOCK_BYTES = 1 << 18  # what is worked on at once stays in the cache of the processor
NUMBERS_AT_ONCE = 1 << 15  # of lines that differ from each other
MOST_DIGITS = 19  # of a number read here: 10^19 < 2^64; float() reads longer ones
_FRONT = b"0" * 31 + b"\n"  # before a block: every number follows a gap, and three words can be loaded before the first end
_NEWLINE, _BLANK, _PLUS, _COMMA, _MINUS, _DOT, _EXPONENT = b"\n +,-.e"
_BLANKS = np.isin(np.arange(256), [9, 10, 13, 32])
EXACT = 1 << 53  # whole numbers up to here are float64
MOST_EXPONENT = 10**9  # far beyond the range of float64
_TENS = 10 ** np.arange(MOST_DIGITS + 1, dtype=np.uint64)
_FLOAT_TENS = _TENS.astype(np.float64)
_LAST = np.array([(0x0F0F0F0F0F0F0F0F >> 8 * (8 - n)) << 8 * (8 - n) for n in range(9)], np.uint64)  # the digits of the last n bytes
_PAIRS, _QUADS = (np.uint64(each) for each in (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF))

Places = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Block:
    """A block of text. chars: its bytes; words: the eight from each of them on, the first one lowest; plus: whether there are plus signs.

    marks (M,): places of all that is neither digit nor sign; kinds (M,): what stands there, an exponent as `e`. signs: how many characters
    are neither mark nor digit, which are signs if there are so many.
    """

    text: bytes
    chars: Bytes
    words: Words
    marks: Places
    kinds: Bytes
    signs: int
    plus: bool


@dataclass(frozen=True)
class _Numbers:
    """Numbers (n,) by the marks around and in them: the gap before each, its dot, where its digits stop and where it ends.

    A number without a dot has it where its digits stop; they stop at the exponent, and without one where the number ends. dotted, raised: 1
    where it has them, else 0.
    """

    gaps: Places
    dots: Places
    stops: Places
    ends: Places
    dotted: Places
    raised: Places

    @property
    def places(self) -> tuple[Places, Places, Places, Places]:
        return self.gaps, self.dots, self.stops, self.ends


def plain_decimals(text: bytes, columns: int, separator: bytes = b" ") -> Doubles | None:
    """The numbers (R, C) of R lines that all have C of them; None where there is anything else for a slower reader to see to: NaN,
    words, comments, blank lines, rows of another length, empty fields.

    separator: one byte; space stands for any run of blanks (space, tab, CR), and around any other there may be such a run.
    """
    tables = []
    start = 0
    while start < len(text):
        stop = start + BLOCK_BYTES
        if stop < len(text):
            stop = text.rfind(b"\n", start, stop) + 1 or text.find(b"\n", stop) + 1 or len(text)
        table = _table(text[start:stop], columns, separator[0])
        if table is None:
            return None
        tables.append(table)
        start = stop
    if len(tables) > 1:
        return np.concatenate(tables)
    return tables[0] if tables else None


def _table(text: bytes, columns: int, separator: int) -> Doubles | None:
    block = _block(b"".join((_FRONT, text, b"" if text.endswith(b"\n") else b"\n")), separator)
    marks, kinds = block.marks, block.kinds
    row = int(np.argmax(kinds[1:] == _NEWLINE)) + 1  # marks of the first line
    if (len(marks) - 1) % row == 0 and (kinds[1 + row :] == kinds[1:-row]).all():
        first = _numbers(marks[: row + 1], kinds[: row + 1], columns, separator)
        if first is not None and (table := _regular(block, row, first)) is not None:
            return table
    return _irregular(block, columns, separator)


def _irregular(block: _Block, columns: int, separator: int) -> Doubles | None:
    """Lines that may differ from each other, some at a time, for each number takes 200 bytes meanwhile."""
    marks, kinds = block.marks, block.kinds
    newlines = np.flatnonzero(kinds == _NEWLINE)  # the first mark is one, and the last
    cuts = [*newlines[: -1 : max(1, NUMBERS_AT_ONCE // columns)].tolist(), len(marks) - 1]
    tables, signs = [], 0
    for start, stop in pairwise(cuts):
        some = marks[start : stop + 1]
        numbers = _numbers(some, kinds[start : stop + 1], columns, separator)
        if numbers is None:
            return None
        starts, dots, stops, ends = (some[each] for each in numbers.places)
        found = _values(block, starts + 1, dots, stops, ends, numbers.dotted, numbers.raised)
        if found is None:
            return None
        tables.append(found[0].reshape(-1, columns))
        signs += found[1]
    return np.concatenate(tables) if tables and signs == block.signs else None


def _block(text: bytes, separator: int) -> _Block:
    """The block that a text is, which begins with _FRONT and ends with a newline."""
    chars = np.frombuffer(text, np.uint8)
    mask = chars ^ np.uint8(3) <= _DOT ^ 3  # up to the dot, but neither minus nor comma; one comparison instead of three
    plus = b"+" in text
    if plus:
        mask ^= chars == _PLUS
    if separator == _COMMA or separator > _DOT:
        mask |= chars == separator
    raised = b"e" in text or b"E" in text
    if raised:
        mask |= (chars | 32) == _EXPONENT
    digits = int(np.count_nonzero(chars - np.uint8(48) < 10))  # characters below "0" wrap around
    marks = np.flatnonzero(mask)
    kinds = chars.take(marks)
    if raised:
        kinds[kinds == 69] = _EXPONENT
    words = np.ndarray(len(chars) - 7, "<u8", text, strides=(1,)).astype(np.uint64)  # contiguous, which makes takes fast
    return _Block(text, chars, words, marks, kinds, len(chars) - digits - len(marks), plus)


def _numbers(marks: Places, kinds: Bytes, columns: int, separator: int) -> _Numbers | None:
    """The numbers (T,) between the first mark, a gap, and the last. None unless there are C in each line, one separator between any two."""
    inside = (kinds == _DOT) | (kinds == _EXPONENT)
    if not (inside | _BLANKS.take(kinds) | (kinds == separator)).all():
        return None
    ends = np.flatnonzero(~inside[1:] & (inside[:-1] | (np.diff(marks) > 1))) + 1
    raised = (kinds[ends - 1] == _EXPONENT).astype(np.int64)
    stops = ends - raised
    dotted = (kinds[stops - 1] == _DOT).astype(np.int64)
    dots = stops - dotted
    gaps = dots - 1
    lines = np.cumsum(kinds == _NEWLINE)
    rows = np.arange(len(ends)) // columns
    if len(ends) != (lines[-1] - 1) * columns or inside[gaps].any() or (lines[gaps] - 1 != rows).any():
        return None
    if separator != _BLANK:
        separators = np.cumsum(kinds == separator)
        if separators[-1] != len(ends) - (lines[-1] - 1) or (separators[gaps] != np.arange(len(ends)) - rows).any():
            return None
    return _Numbers(gaps, dots, stops, ends, dotted, raised)


def _regular(block: _Block, row: int, first: _Numbers) -> Doubles | None:
    """Lines that all have the same marks, as programs write them. row: how many of a line; first: the numbers (C,) of the first line."""
    marks, columns = block.marks, len(first.ends)
    rows = (len(marks) - 1) // row
    blank = np.ones(row + 1, np.bool_)
    blank[np.concatenate([[0], first.dots, first.stops, first.ends])] = False
    second = np.flatnonzero(blank)
    layouts = 2 * first.raised + first.dotted  # (C,)
    if not len(second) and (layouts == layouts[0]).all():  # all columns alike: their numbers are read one after another
        starts, dots, stops, ends = (marks[each[0] :: row // columns][: rows * columns] for each in first.places)
        found = _values(block, starts + 1, dots, stops, ends, layouts[0] & 1, layouts[0] >> 1)
        return found[0].reshape(rows, columns) if found is not None and found[1] == block.signs else None
    grid = np.empty((row + 1, rows), np.int64)  # the marks of every line, after the one before it
    grid[1:] = marks[1:].reshape(rows, row).T
    grid[0] = marks[:-1:row]
    if (grid[second] - grid[second - 1] != 1).any():  # a second blank that ends a number in another line
        return None
    table = np.empty((rows, columns))
    signs = 0
    for layout in set(layouts.tolist()):
        alike = np.flatnonzero(layouts == layout)
        starts, dots, stops, ends = (grid[each[alike]] for each in first.places)
        found = _values(block, starts + 1, dots, stops, ends, layout & 1, layout >> 1)
        if found is None:
            return None
        table[:, alike] = found[0].T
        signs += found[1]
    return table if signs == block.signs else None


def _values(
    block: _Block, starts: Places, dots: Places, stops: Places, ends: Places, dotted: Places | int, raised: Places | int
) -> tuple[Doubles, int] | None:
    """The numbers, of the shape of their places, and how many signs they have; None where one lacks digits.

    dotted, raised: 1 where a number has a dot and an exponent, else 0.
    """
    first = block.chars.take(starts)
    minus = first == _MINUS
    signed = minus | (first == _PLUS) if block.plus else minus
    signs = int(np.count_nonzero(signed))
    whole = dots - starts  # digits before the dot
    whole -= signed
    after = stops - dots
    after -= dotted
    decimals = _same(after)
    lengths = whole + decimals
    if lengths.min() < 1:
        return None
    mantissas = _digits(block.words, dots, whole)
    if np.any(dotted):
        mantissas *= _TENS.take(decimals, mode="clip")
        mantissas += _digits(block.words, stops, decimals)
    long = lengths > MOST_DIGITS if lengths.max() > MOST_DIGITS else None
    if not np.any(raised) and long is None and mantissas.max() <= EXACT:
        values = mantissas.view(np.int64) / _FLOAT_TENS.take(decimals)  # both exact: one division rounds once (Clinger 1990)
    else:
        exponents = _exponents(block, stops, ends, raised)
        if exponents is None:
            return None
        signs += exponents[1]
        values, unsure = scaled(mantissas, exponents[0] - decimals)
        if long is not None:
            unsure |= long
        try:
            for place in zip(*np.nonzero(unsure), strict=True):
                values[place] = abs(float(block.text[starts[place] : ends[place]]))
        except ValueError:  # a sign within the digits
            return None
    if signs:
        values.view(np.uint64)[...] |= minus.astype(np.uint64) << np.uint64(63)
    return values, signs


def _exponents(block: _Block, stops: Places, ends: Places, raised: Places | int) -> tuple[Places, int] | None:
    """The powers of ten after the `e` of the numbers that have one, 0 for others, and how many have signs; None where one has no digits.

    Those of more than eight digits are any beyond the range of float64.
    """
    out = np.zeros(stops.shape, np.int64)
    some = np.broadcast_to(np.asarray(raised, np.bool_), stops.shape)
    if not some.any():
        return out, 0
    marks, last = stops[some], ends[some]
    first = block.chars.take(marks + 1)
    minus = first == _MINUS
    signed = minus | (first == _PLUS)
    lengths = last - marks - 1 - signed
    if lengths.min() < 1:
        return None
    found = _digits(block.words, last, lengths).view(np.int64)
    found[lengths > 8] = MOST_EXPONENT
    out[some] = np.where(minus, -found, found)
    return out, int(np.count_nonzero(signed))


def _same(values: Places) -> Places | np.int64:
    """The one value that all have, which is faster to work with, or else all of them."""
    lowest, highest = values.min(), values.max()
    return lowest if lowest == highest else values


def _digits(words: Words, ends: Places, lengths: Places | np.int64) -> Words:
    """The numbers that are written with `lengths` digits before the places `ends`; right where there are at most MOST_DIGITS."""
    total = _eight(words, ends - 8, lengths)
    for place in range(8, min(int(lengths.max()), MOST_DIGITS), 8):
        total += _eight(words, ends - (8 + place), lengths - place) * _TENS[place]
    return total


def _eight(words: Words, places: Places, lengths: Places | np.int64) -> Words:
    """The last `lengths` digits, at most eight, of those at the places; the first digit is the lowest byte, and worth most."""
    found = words.take(places)
    found &= _LAST.take(lengths, mode="clip")
    found *= np.uint64(10 << 8 | 1)
    found >>= np.uint64(8)
    found &= _PAIRS
    found *= np.uint64(100 << 16 | 1)
    found >>= np.uint64(16)
    found &= _QUADS
    found *= np.uint64(10_000 << 32 | 1)
    found >>= np.uint64(32)
    return found
