"""Very many paths below one folder, in two arrays: no Python object a path, so that forked workers share the memory."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Paths:
    """F paths relative to root, one after another in `blob`; path i is blob[offsets[i] : offsets[i + 1]]. offsets (F + 1,)."""

    root: Path
    blob: bytes
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def raw(self, index: int) -> bytes:
        """The relative path as the file system spells it, `/` between its parts."""
        return self.blob[self.offsets[index] : self.offsets[index + 1]]

    def path(self, index: int) -> Path:
        """The path to open."""
        return self.root / os.fsdecode(self.raw(index))

    def relative(self, index: int) -> str:
        """The relative path for people: what cannot be printed is escaped."""
        return printable(self.raw(index))

    def take(self, rows: npt.NDArray[np.integer]) -> "Paths":
        """The paths of the given rows, in that order, and no others kept."""
        lengths = np.diff(self.offsets)[rows]
        blob = b"".join(self.raw(int(row)) for row in rows)
        return Paths(self.root, blob, offsets_of(lengths))


def offsets_of(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """(F,) lengths -> (F + 1,) places where each begins and the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def printable(name: bytes) -> str:
    """A file name that is safe to print: line ends, terminal codes and bytes that are no text are escaped."""
    text = os.fsdecode(name)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def sorted_names(names: bytes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The order in which n names, one after another in `names`, are sorted by their bytes. lengths (n,) -> rows (n,)."""
    width = int(lengths.max(initial=1))
    padded = np.zeros((len(lengths), width), np.uint8)
    padded[np.arange(width) < lengths[:, None]] = np.frombuffer(names, np.uint8)  # a name holds no zero byte: padding sorts first
    return np.argsort(padded.view(f"S{width}").reshape(-1), kind="stable").astype(np.int64, copy=False)
