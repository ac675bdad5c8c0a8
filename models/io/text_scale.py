"""m · 10^p to the nearest float64, for whole arrays: what is left of reading a number once its digits and its exponent are known.

The power is held as the sum of two doubles, so that the product is known to about 104 bits; where that does not decide between two
neighbouring float64, the number is said to be unsure. Source: Dekker 1971, A floating-point technique for extending the available
precision (the product); Ziv 1991, Fast evaluation of elementary mathematical functions (the test).
"""

from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt

FARTHEST = 250  # powers of ten for which no part of the product leaves the range of float64
_SPLIT = 134217729.0  # 2^27 + 1: halves of 26 bits, whose products are exact
_MARGIN = 2.0**-95  # of the product; its error is below 2^-103

Doubles = npt.NDArray[np.float64]


def scaled(mantissas: npt.NDArray[np.uint64], powers: npt.NDArray[np.int64]) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """m · 10^p (n,) of m < 2^64, rounded once, and where (n,) it is not sure to be; those are m · 10^p to 15 digits or anything."""
    beyond = np.abs(powers) > FARTHEST
    high_powers, low_powers = (each.take(powers + FARTHEST, mode="clip") for each in _powers())
    high = mantissas.astype(np.float64)
    with np.errstate(invalid="ignore"):  # more digits than a mantissa holds leave any, such as 2^64 - 1, which rounds beyond 64 bits
        low = (mantissas - high.astype(np.uint64)).view(np.int64).astype(np.float64)  # exact: what rounding to 53 bits left
    product, tail = _product(high, high_powers)
    tail += high * low_powers
    tail += low * high_powers
    margin = product * _MARGIN
    values = product + (tail - margin)
    return values, (values != product + (tail + margin)) | beyond


def _product(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """a · b as the sum of two doubles, exactly."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    error = a_high * b_high
    error -= product
    error += a_high * b_low
    error += a_low * b_high
    error += a_low * b_low
    return product, error


def _halves(a: Doubles) -> tuple[Doubles, Doubles]:
    high = a * _SPLIT
    high -= high - a
    return high, a - high


@cache
def _powers() -> tuple[Doubles, Doubles]:
    """10^p for p from -FARTHEST to FARTHEST as the sums of two doubles."""
    exact = [Fraction(10) ** power for power in range(-FARTHEST, FARTHEST + 1)]
    high = [float(each) for each in exact]
    low = [float(each - Fraction(rounded)) for each, rounded in zip(exact, high, strict=True)]
    return np.array(high), np.array(low)
