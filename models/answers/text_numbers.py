"""Columns of numbers as text: whole numbers as such, floats with as few digits as bring the same value back, confidences with six decimals.

n rows of a block.
"""

import numpy as np
import numpy.typing as npt
import orjson

from models.answers.labelled import Column

MILLION = 1_000_000


def number_texts(column: Column) -> list[bytes]:
    """The values (n,) as text; `1` for a whole number in a column of floats, too."""
    kind, size = column.dtype.kind, column.dtype.itemsize
    if not len(column):
        return []
    if kind != "f":
        native = column.astype(np.uint8 if kind == "b" else column.dtype.newbyteorder("="), copy=False)
        return _json(native).split(b",")
    with np.errstate(invalid="ignore", over="ignore"):  # a NaN that signals
        native = column.astype(np.float64 if size >= 8 else np.float32, copy=False)
    texts = (_json(native) + b",").replace(b".0,", b",")[:-1].split(b",")
    for place in np.flatnonzero(~np.isfinite(native)).tolist():  # JSON has no such numbers
        texts[place] = b"nan" if np.isnan(native[place]) else b"inf" if native[place] > 0 else b"-inf"
    return texts


def _json(values: Column) -> bytes:
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def confidence_texts(confidence: npt.NDArray[np.float32], point: str = ".") -> list[bytes]:
    """`0.987654`, rounded to six decimals; confidences (n,) lie in 0..1. point: the decimal point, one character."""
    left = np.rint(confidence.astype(np.float64) * MILLION).astype(np.int64)  # the product is exact
    out = np.empty((len(left), 8), np.uint8)
    out[:, 1] = ord(point)
    for place in (7, 6, 5, 4, 3, 2, 0):
        left, digit = np.divmod(left, 10)
        out[:, place] = digit + ord("0")
    texts: list[bytes] = out.view("S8")[:, 0].tolist()
    return texts
