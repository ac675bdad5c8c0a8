"""The lines of an ascii PLY or PCD file as rows: what both readers share.

n lines make a table (n,) with one scalar field a word.
"""

import numpy as np

from models.io.decimals import plain_decimals
from models.io.records import Table

EXACT_IN_DOUBLE = 1 << 53


def parse_fast(lines: list[bytes], out: Table, *, further: bool) -> bool:
    """Fill `out` from as many lines, if that can be done without looking at each; `further`: lines may have words behind those wanted."""
    return _parse_plain(lines, out) or _parse_numbers(lines, out, further)


def _parse_plain(lines: list[bytes], out: Table) -> bool:
    """Plain decimals, exactly the announced columns."""
    names = out.dtype.names or ()
    values = plain_decimals(b"".join(lines), len(names))
    if values is None or len(values) != len(lines):
        return False
    for name, column in zip(names, values.T, strict=True):
        out[name] = column
        if out.dtype[name].kind not in "iu":
            continue
        if (out[name] != column).any():  # 256 or 0.5 in a column of bytes
            return False
        if out.dtype[name].itemsize == 8 and np.abs(column).max() >= EXACT_IN_DOUBLE:  # rounded on the way
            return False
    return True


def _parse_numbers(lines: list[bytes], out: Table, further: bool) -> bool:
    """Whatever numpy reads: NaN, the widest integers, further columns."""
    if not lines[0].decode("latin-1").strip():  # numpy warns instead of raising when a text has no data at all
        return False
    columns = range(len(out.dtype.names or ())) if further else None
    try:
        values = np.loadtxt(lines, out.dtype, comments=None, usecols=columns, ndmin=1, encoding="ascii")
    except ValueError:
        return False
    if len(values) == len(lines):
        out[:] = values
    return len(values) == len(lines)


def number(word: bytes, whole: bool) -> float:
    """One word; a whole number may be written as `255.0`. Raises: ValueError."""
    if b"_" in word:  # Python reads 1_000, files do not
        raise ValueError(f"not a number: {word[:20].decode('latin-1')!r}")
    if not whole:
        return float(word)
    try:
        return int(word)
    except ValueError:
        value = float(word)
        if not value.is_integer():
            raise
        return int(value)
