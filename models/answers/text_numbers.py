"""Columns of numbers as text: whole numbers as such, floats with as few digits as bring the same value back, confidences with six decimals.

n rows of a block.
"""

import numpy as np
import numpy.typing as npt

from models.answers.labelled import Column

MILLION = 1_000_000
_SHORT = 6  # digits that a float32 always can have; nine tell any two of them apart
_EXACT_POWER = 22  # the largest power of ten that is a float64


def number_texts(column: Column) -> list[str]:
    """The values (n,) as text; `1` for a whole number in a column of floats, too."""
    if column.dtype.kind in "iub":
        return list(map(str, column.astype(np.int64 if column.dtype.kind == "b" else column.dtype).tolist()))
    doubles = column if column.dtype.itemsize == 8 else as_short(column.astype(np.float32))
    return [text[:-2] if text.endswith(".0") else text for text in map(repr, doubles.tolist())]


def as_short(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The float64 (n,) with the fewest digits that round to the values (n,)."""
    exact = values.astype(np.float64)
    out = exact.copy()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponents = np.floor(np.log10(np.abs(exact)))
    todo = np.flatnonzero(np.isfinite(exponents) & (np.abs(exponents) < _EXACT_POWER - 8))
    rare = np.isfinite(exponents)
    rare[todo] = False
    out[rare] = [float(str(each)) for each in values[rare]]
    for digits in range(_SHORT, 10):
        places = digits - 1 - exponents[todo]
        scale = 10.0 ** np.abs(places)  # exact
        short = np.where(places >= 0, np.rint(exact[todo] * scale) / scale, np.rint(exact[todo] / scale) * scale)
        found = short.astype(np.float32) == values[todo]
        out[todo[found]] = short[found]
        todo = todo[~found]
    out[todo] = [float(str(each)) for each in values[todo]]
    return out


def confidence_texts(confidence: npt.NDArray[np.float32], point: str = ".") -> list[bytes]:
    """`0.987654`, rounded to six decimals; confidences (n,) lie in 0..1. point: the decimal point, one character."""
    left = np.rint(confidence.astype(np.float64) * MILLION).astype(np.int64)  # the product is exact
    out = np.empty((len(left), 8), np.uint8)
    out[:, 1] = ord(point)
    for place in (7, 6, 5, 4, 3, 2, 0):
        left, digit = np.divmod(left, 10)
        out[:, place] = digit + ord("0")
    return [bytes(each) for each in out.view("S8")[:, 0].tolist()]
