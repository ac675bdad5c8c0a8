"""An `.npy` file with two more columns: the array (N, C) becomes (N, C + 2), the last ones are the class and its confidence.

An array has one type for all columns. It stays as it is where it holds classes and confidences (float32, float64: the bytes of the
original stay, too); float16 and whole numbers become the smallest float that holds all three, as long as no value changes.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from models.answers.arrays import Values, write_array_header, write_column
from models.answers.copying import PIECE_BYTES, copy_bytes
from models.answers.labelled import EXACT_IN_DOUBLE, Labelled, index_type
from models.errors import BadOption
from models.io import CloudFile
from models.io.npy import COLUMNS, HEADER_BYTES, Layout, parse_layout
from models.io.records import BLOCK_ROWS
from models.io.source import Source
from models.labels import LabelMap

ADDED_COLUMNS = 2


def check_npy(file: CloudFile, label_map: LabelMap) -> None:
    """Raises: BadOption (not an .npy file; more columns than our own reader admits; whole numbers that no float holds)."""
    if file.fmt != "npy":
        raise BadOption(
            f"an npy answer is an npy file with two more columns, and the format of this file is {file.fmt}; ask for npz", where="format"
        )
    layout = _layout(file.source)
    if layout.shape[1] + ADDED_COLUMNS > COLUMNS:
        raise BadOption(f"{layout.shape[1]} columns and two more; npy answers hold {COLUMNS}; ask for another format", where="format")
    if layout.dtype.kind in "iu" and layout.dtype.itemsize == 8:
        for piece in _pieces(file.source, layout):
            if piece.min() < -EXACT_IN_DOUBLE or piece.max() > EXACT_IN_DOUBLE:
                raise BadOption(
                    f"with confidences the {layout.dtype} array becomes float64, which does not hold all its values, so ask for npz",
                    where="format",
                )


def write_npy(answer: Labelled, out: BinaryIO) -> None:
    """The array of the file, in its order (C or Fortran), with the class and the confidence behind the columns of each point.

    What follows the array in the file stays behind it.
    """
    source = answer.file.source
    layout = _layout(source)
    count, width = layout.shape
    dtype = _type_with_answer(layout, answer.label_map)
    write_array_header(out, dtype, (count, width + ADDED_COLUMNS), fortran=layout.fortran)
    if layout.fortran:
        for piece in _pieces(source, layout):
            out.write(piece.astype(dtype, copy=False).view(np.uint8).data)
        write_column(out, dtype, count, lambda rows: answer.labels[rows])
        write_column(out, dtype, count, lambda rows: answer.confidence[rows])
    else:
        _write_rows(answer, layout, dtype, out)
    copy_bytes(source, layout.offset + layout.size, source.size, out)


def _layout(source: Source) -> Layout:
    return parse_layout(source.read(0, HEADER_BYTES), source.size, "array")


def _type_with_answer(layout: Layout, label_map: LabelMap) -> np.dtype[np.generic]:
    """The array's own type where it holds classes (below 65,536) and float32 exactly, else what numpy finds for all three."""
    if layout.dtype.kind == "f" and layout.dtype.itemsize >= 4:
        return layout.dtype
    return np.result_type(layout.dtype, np.dtype(index_type(label_map)), np.float32).newbyteorder("<")


def _pieces(source: Source, layout: Layout) -> Iterator[Values]:
    """The values of the array as they follow each other in the file, a megabyte at a time."""
    end = layout.offset + layout.size
    for start in range(layout.offset, end, PIECE_BYTES):
        yield np.frombuffer(source.read_all(start, min(PIECE_BYTES, end - start)), layout.dtype)


def _write_rows(answer: Labelled, layout: Layout, dtype: np.dtype[np.generic], out: BinaryIO) -> None:
    """The rows of an array in C order, each with its answer."""
    count, width = layout.shape
    row_bytes = width * layout.dtype.itemsize
    for start in range(0, count, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, count))
        data = answer.file.source.read_all(layout.offset + start * row_bytes, (rows.stop - start) * row_bytes)
        table = np.empty((rows.stop - start, width + ADDED_COLUMNS), dtype)
        table[:, :width] = np.frombuffer(data, layout.dtype).reshape(-1, width)
        table[:, width] = answer.labels[rows]
        table[:, width + 1] = answer.confidence[rows]
        out.write(table.view(np.uint8).data)
