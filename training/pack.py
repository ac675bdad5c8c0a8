"""Tuples of arrays on disk, read one at a time: what training caches, without holding it in memory.

A pack is two files, the bytes of all arrays and an index that is written last: without its index a pack does not exist, so
a stop while writing leaves none. Reads are positional: forked workers share one descriptor and no memory.
"""

import array as packed
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.durable import locked, sync
from models.errors import BadRunDir

DTYPES = ("<f4", "<f8", "|u1", "<i4", "<i8")
ABSENT = -1  # rows of an array that a tuple lacks

Array = npt.NDArray[np.generic]


class Pack:
    """Tuples of K arrays, (n,) or (n, width), some of them None. Opened for reading."""

    def __init__(self, path: Path) -> None:
        """Raises: BadRunDir (missing or damaged)."""
        self._path = path
        try:
            self._file = path.open("rb")
            self._index = np.load(_index_of(path), allow_pickle=False)  # (D, 1 + 3 K) int64: offset, then rows, width, dtype of each
        except (OSError, ValueError, EOFError) as error:
            raise BadRunDir(f"missing or damaged: {error}", where=str(path)) from error

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, row: int) -> tuple[Array | None, ...]:
        """The arrays of one tuple. Raises: BadRunDir (the file is shorter than its index says)."""
        offset, *shapes = (int(value) for value in self._index[row])
        arrays: list[Array | None] = []
        for rows, width, code in zip(shapes[::3], shapes[1::3], shapes[2::3], strict=True):
            if rows == ABSENT:
                arrays.append(None)
                continue
            dtype = np.dtype(DTYPES[code])
            size = rows * max(width, 1) * dtype.itemsize
            data = os.pread(self._file.fileno(), size, offset)
            if len(data) != size:
                raise BadRunDir("shorter than its index says; remove it to have it made again", where=str(self._path))
            flat = np.frombuffer(data, dtype)
            arrays.append(flat.reshape(rows, width) if width else flat)
            offset += size
        return tuple(arrays)

    def close(self) -> None:
        self._file.close()


def write_pack(path: Path, tuples: Iterable[Sequence[Array | None]]) -> None:
    """Write all tuples; they must have the same number of arrays. Raises: BadRunDir (cannot be written)."""
    index = packed.array("q")  # a list of a million lists would be most of the memory that is used
    offset = width = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _index_of(path).unlink(missing_ok=True)
        with path.open("wb") as file:
            for arrays in tuples:
                entry = [offset]
                for array in arrays:
                    entry += _shape(array)
                    if array is not None:
                        offset += file.write(np.ascontiguousarray(array).data)
                index.extend(entry)
                width = len(entry)
            sync(file)
        part = _index_of(path).with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, np.frombuffer(index, np.int64).reshape(-1, max(width, 1)), allow_pickle=False)
            sync(file)
        part.replace(_index_of(path))
    except OSError as error:
        raise BadRunDir(f"cannot be written: {error}", where=str(path)) from error


def made_pack(path: Path, tuples: Callable[[], Iterable[Sequence[Array | None]]]) -> Pack:
    """The pack that is there, or one of these tuples: of processes that want it at once the first makes it. Raises: BadRunDir."""
    if not has_pack(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not has_pack(path):
                    write_pack(path, tuples())
        except OSError as error:
            raise BadRunDir(f"cannot be written: {error}", where=str(path)) from error
    return Pack(path)


def has_pack(path: Path) -> bool:
    """Whether a pack was written here to its end."""
    return _index_of(path).is_file()


def _shape(array: Array | None) -> tuple[int, int, int]:
    if array is None:
        return ABSENT, 0, 0
    return len(array), array.shape[1] if array.ndim == 2 else 0, DTYPES.index(array.dtype.newbyteorder("<").str)


def _index_of(path: Path) -> Path:
    return path.with_suffix(".index.npy")
