"""The clouds of a folder and all folders in it, one after the other: a million files are never a list."""

import os
from collections.abc import Iterator
from pathlib import Path

from models.io import ENDINGS as _ENDINGS
from models.io import is_cloud_file

ENDINGS = tuple(ending.decode() for ending in _ENDINGS)
MOST_DOUBTFUL = 20
Identity = tuple[int, int]  # device and inode


class Walk:
    """The files that are clouds (`is_cloud_file`, whatever their columns are called), as paths relative to `folder`: those of a folder by
    name, then those of its folders.

    What links lead to comes last, and no folder comes twice: loops end, and a file is known by its path without links where it has
    one. Nothing is read of `leave_out`, where answers go, whichever way one gets there. While the files are gone through, these fill:
    passed_over, how many files are hidden or no clouds; doubtful, the first of those that have the ending of clouds and are not hidden,
    and num_doubtful, how many there are; unreadable, folders that cannot be listed; folders that were listed.
    """

    def __init__(self, folder: Path, leave_out: Path | None = None) -> None:
        self.folder, self._leave_out = folder, leave_out
        self.passed_over = self.num_doubtful = 0
        self.doubtful: list[str] = []
        self.unreadable: list[tuple[str, OSError]] = []
        self.folders: set[Identity] = set()

    def __iter__(self) -> Iterator[str]:
        left_out = None if self._leave_out is None else identity(self._leave_out)
        real_left_out = None if self._leave_out is None else os.path.realpath(self._leave_out)
        here, behind_links = [""], [""][:0]
        while here or behind_links:
            folder = here.pop() if here else behind_links.pop(0)
            try:
                found = self._listed(folder, left_out)
            except OSError as error:
                self.unreadable.append((folder, error))
                continue
            below: list[str] = []
            for entry in found:
                path = f"{folder}/{entry.name}" if folder else entry.name
                link = entry.is_symlink()
                if link and real_left_out is not None and within(os.path.realpath(entry.path), real_left_out):
                    continue
                is_folder = os.path.isdir(entry.path) if link else entry.is_dir()  # noqa: PTH112 (says False of a loop of links)
                if entry.name.startswith("."):
                    self.passed_over += not is_folder
                elif is_folder:
                    (behind_links if link else below).append(path)
                elif is_cloud_file(entry.path, any_names=True):
                    yield path
                else:
                    self._pass_over(path)
            here += reversed(below)

    def _pass_over(self, path: str) -> None:
        self.passed_over += 1
        if path.lower().endswith(ENDINGS):
            self.num_doubtful += 1
            if len(self.doubtful) < MOST_DOUBTFUL:
                self.doubtful.append(path)

    def _listed(self, folder: str, left_out: Identity | None) -> list[os.DirEntry[str]]:
        """By name; nothing, where it was listed before. Raises: OSError."""
        path = self.folder / folder
        status = path.stat()
        found = (status.st_dev, status.st_ino)
        if found in self.folders or found == left_out:
            return []
        with os.scandir(path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        self.folders.add(found)
        return listed


def identity(path: Path) -> Identity | None:
    """What a folder is, by whatever path one gets there; None of what does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def within(path: str, folder: str) -> bool:
    """Whether a real path is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
