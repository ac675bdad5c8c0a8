"""Going through folders: one level of names, or all cloud files below a folder, sorted, in compact arrays."""

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.io import ENDINGS as _ENDINGS
from models.io import is_cloud_file
from training.datasets.paths import Paths, offsets_of, printable, sorted_names

ENDINGS = tuple(ending.decode() for ending in _ENDINGS)
KINDS_OF_ENDINGS = 64  # endings of ignored files that are told apart; a folder of FILE.000001, … has one for each file
OTHER_ENDINGS = "(others)"


@dataclass(frozen=True)
class Level:
    """What a folder holds itself: folders, sorted; the first cloud file by name; other files, counted by ending."""

    folders: tuple[bytes, ...] = ()
    first_cloud: bytes | None = None
    ignored: Counter[str] = field(default_factory=Counter)


def look(root: Path, prefix: bytes, problems: list[str]) -> Level:
    """One level, without going deeper. A folder that cannot be read is noted in `problems`."""
    folders, first, ignored = [], None, Counter[str]()
    for entry, is_folder in _entries(root, prefix, problems):
        if is_folder:
            folders.append(entry.name)
        elif not is_cloud_file(entry.path):
            _count(ignored, entry.name)
        elif first is None or entry.name < first:
            first = entry.name
    return Level(tuple(sorted(folders)), first, ignored)


class Walk:
    """Collects the cloud files below folders of root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self.ignored: Counter[str] = Counter()
        self._blob = bytearray()
        self._lengths, self._sizes, self._mtimes = array("q"), array("q"), array("q")

    def add(self, prefix: bytes) -> int:
        """Take in all files below one folder, those of a folder before those of its folders; says how many."""
        before = len(self._lengths)
        stack: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(prefix, ())]
        while stack:
            folder, above = stack.pop()
            identity = _identity(self.root, folder)
            if identity in above:
                self.problems.append(f"{printable(folder)}/ is a link to a folder that it lies in")
            elif identity is None:
                self.problems.append(f"{printable(folder)}/ cannot be read")
            else:
                stack += [(inner, (*above, identity)) for inner in reversed(self._add_level(folder))]
        return len(self._lengths) - before

    def _add_level(self, folder: bytes) -> list[bytes]:
        """Take in the files of one folder; its folders, sorted."""
        folders = []
        place = folder + b"/" if folder else b""  # nothing before what lies in root itself
        names, lengths, sizes, mtimes = bytearray(), array("q"), array("q"), array("q")
        for entry, is_folder in _entries(self.root, folder, self.problems):
            if is_folder:
                folders.append(place + entry.name)
            elif not is_cloud_file(entry.path):
                _count(self.ignored, entry.name)
            else:
                size, mtime = _stat(entry)
                names += entry.name
                lengths.append(len(entry.name))
                sizes.append(size)
                mtimes.append(mtime)
        if lengths:
            self._append(place, bytes(names), *(np.frombuffer(column, np.int64) for column in (lengths, sizes, mtimes)))
        return sorted(folders)

    def _append(
        self, prefix: bytes, names: bytes, lengths: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], mtimes: npt.NDArray[np.int64]
    ) -> None:
        order, starts = sorted_names(names, lengths), offsets_of(lengths)
        for row in order:
            self._blob += prefix
            self._blob += names[starts[row] : starts[row + 1]]
        self._lengths.frombytes((lengths[order] + len(prefix)).tobytes())
        self._sizes.frombytes(sizes[order].tobytes())
        self._mtimes.frombytes(mtimes[order].tobytes())

    def paths(self) -> Paths:
        return Paths(self.root, bytes(self._blob), offsets_of(np.array(self._lengths, np.int64)))

    def sizes(self) -> npt.NDArray[np.int64]:
        return np.array(self._sizes, np.int64)

    def mtimes(self) -> npt.NDArray[np.int64]:
        return np.array(self._mtimes, np.int64)


def _entries(root: Path, prefix: bytes, problems: list[str]) -> Iterator[tuple[os.DirEntry[bytes], bool]]:
    """What is not hidden in a folder, and whether it is a folder itself, in the order of the system."""
    path = os.path.join(os.fsencode(root), prefix)  # noqa: PTH118 - names that are not text stay bytes
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.name.startswith(b"."):
                    yield entry, _is_folder(entry)
    except OSError as error:
        problems.append(f"{printable(prefix) + '/' if prefix else 'it'} cannot be read: {error.strerror}")


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: neither
        return False


def _identity(root: Path, folder: bytes) -> tuple[int, int] | None:
    try:
        found = os.stat(os.path.join(os.fsencode(root), folder))  # noqa: PTH116, PTH118 - as above
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stat(entry: os.DirEntry[bytes]) -> tuple[int, int]:
    """(bytes, time of change in ns); -1 for what cannot be looked at: reading it will say why."""
    try:
        found = entry.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _count(ignored: Counter[str], name: bytes) -> None:
    ending = os.path.splitext(printable(name))[1].lower() or "(none)"  # noqa: PTH122 - as above
    ignored[ending if ending in ignored or len(ignored) < KINDS_OF_ENDINGS else OTHER_ENDINGS] += 1
