"""Arrays of one value a point as `.npy` data, written a block of points at a time."""

from collections.abc import Callable
from typing import IO

import numpy as np
import numpy.typing as npt

from models.io.records import BLOCK_ROWS

Values = npt.NDArray[np.generic]


def write_column(out: IO[bytes], dtype: np.dtype[np.generic], count: int, values: Callable[[slice], Values]) -> None:
    """The bytes of N values; `values` gives those of some of the points."""
    for start in range(0, count, BLOCK_ROWS):
        block = values(slice(start, min(start + BLOCK_ROWS, count)))
        out.write(np.ascontiguousarray(block, dtype).view(np.uint8).data)


def write_array_header(out: IO[bytes], dtype: np.dtype[np.generic], shape: tuple[int, ...], *, fortran: bool = False) -> None:
    """What stands before the data of an `.npy` array."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
