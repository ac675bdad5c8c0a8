"""Rooms of S3DIS as one file each: read once from their annotations, and then as fast as any other cloud.

A room is an `.npz` with xyz (N, 3) float32 metres, rgb (N, 3) uint8, label (N,) uint8 into NAMES, how many bytes of its text
were `repaired`, and which `files` it is of. It depends on the text alone, so that the same room has the same bytes on every machine.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.cache import cache_dir
from models.durable import locked
from models.errors import BadDataset
from training.datasets.s3dis_text import read_points
from training.progress import progress

NAMES = (
    *("ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board", "clutter"),
    "stairs",  # a class of the raw files, not of the benchmark
)
CLUTTER = NAMES.index("clutter")
VERSION = 1  # of what is written; another one is another key
_FILE = re.compile(r"([A-Za-z]+)_\d+\.txt")
_AREA = re.compile(r"Area_(\d+)")


@dataclass(frozen=True)
class Room:
    """files: its annotations, sorted, as (name, bytes, time of change in ns). area: its number."""

    folder: Path
    area: int
    title: str
    files: tuple[tuple[str, int, int], ...]

    @property
    def key(self) -> str:
        """A digest of the names, sizes and times of its files: another one says that they may have changed, without reading them."""
        return hashlib.sha256(repr((VERSION, self.title, self.files)).encode()).hexdigest()[:16]

    @property
    def sizes(self) -> int:
        """A digest of the names and sizes of its files, which are the same on every machine."""
        sizes = [file[:2] for file in self.files]
        return int(hashlib.sha256(repr((VERSION, self.title, sizes)).encode()).hexdigest()[:15], 16)

    @property
    def changed(self) -> int:
        """When the last of its files was changed, in ns."""
        return max(mtime for _, _, mtime in self.files)

    @property
    def strange(self) -> tuple[str, ...]:
        """Classes of its files that are none of NAMES, and count as clutter."""
        return tuple(sorted({_class_of(name) for name, _, _ in self.files} - set(NAMES)))


def find_rooms(root: Path, areas: Sequence[int] | None = None) -> tuple[list[Room], list[str]]:
    """(rooms of those areas, or of all, sorted; problems with folders that hold none). Stray and hidden files are passed over."""
    rooms, problems = [], []
    for area, number in area_folders(root):
        if areas is not None and number not in areas:
            continue
        for folder in sorted(path for path in area.iterdir() if path.is_dir() and not path.name.startswith(".")):
            title = f"{area.name}/{folder.name}"
            files = _annotations(folder / "Annotations")
            rooms.append(Room(folder / "Annotations", number, title, files))
            if not files:
                problems.append(f"{title}/Annotations holds no CLASS_NUMBER.txt")
    return rooms, problems


def area_folders(root: Path) -> list[tuple[Path, int]]:
    """(folder, number) of every `Area_N`, sorted."""
    matches = [(path, _AREA.fullmatch(path.name)) for path in sorted(root.iterdir()) if path.is_dir()]
    return [(path, int(match[1])) for path, match in matches if match]


def _annotations(folder: Path) -> tuple[tuple[str, int, int], ...]:
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.stat()) for entry in entries if _FILE.fullmatch(entry.name)]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))


def _class_of(name: str) -> str:
    return name.partition("_")[0]


def cache_folder() -> Path:
    """Where rooms are kept that nobody prepared. Raises: BadDataset (there is no place for them)."""
    try:
        return cache_dir() / "scenes" / "s3dis"
    except RuntimeError as error:
        raise BadDataset(f"no place to prepare rooms in: {error}; set FIP_CACHE, or use `fip data prepare s3dis`") from error


def cached_rooms(rooms: Sequence[Room], folder: Path) -> list[Path]:
    """The file of every room, those that are not there yet read from their annotations. What was done before a stop stays done.

    Raises: BadDataset (damaged text: names file and line; the folder cannot be written).
    """
    paths = [folder / f"{room.title.replace('/', '.')}.{room.key}.npz" for room in rooms]
    write_rooms(rooms, paths)
    return paths


def write_rooms(rooms: Sequence[Room], paths: Sequence[Path]) -> None:
    """Write every room that is not there, whole and of the same text, whoever else is at it. Raises: BadDataset."""
    missing = [(room, path) for room, path in zip(rooms, paths, strict=True) if not _is_done(room, path)]
    if not missing:
        return
    try:
        for folder in {path.parent for _, path in missing}:
            folder.mkdir(parents=True, exist_ok=True)
        for room, path in progress(missing, "preparing rooms", len(missing)):
            with locked(path.parent / ".lock"):
                if not _is_done(room, path):  # another process may have been faster
                    _write_room(room, path)
    except OSError as error:
        text = f"a room cannot be prepared: {error.strerror}; set FIP_CACHE to a folder with space, or use `fip data prepare s3dis`"
        raise BadDataset(text, where=str(error.filename or paths[0].parent)) from error


def _is_done(room: Room, path: Path) -> bool:
    """Whether the room is there, whole, and made of files of the same names, sizes and last change."""
    return _number(path, "files") == room.sizes and path.stat().st_mtime_ns == room.changed


def _write_room(room: Room, path: Path) -> None:
    parts, labels, repaired = [], [], 0
    for name, _, _ in room.files:
        xyz, rgb, count = read_points(room.folder / name, f"{room.title}/Annotations/{name}")
        kind = _class_of(name)
        parts.append((xyz, rgb))
        labels.append(np.full(len(xyz), NAMES.index(kind) if kind in NAMES else CLUTTER, np.uint8))
        repaired += count
    xyz, rgb = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(xyz):
        raise BadDataset("the room has no points", where=f"{room.title}/Annotations")
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, xyz=xyz, rgb=rgb, label=np.concatenate(labels), repaired=np.uint32(repaired), files=np.int64(room.sizes))
    os.utime(part, ns=(room.changed, room.changed))
    part.replace(path)


def repaired_bytes(path: Path) -> int | None:
    """How many bytes were repaired in a room; None where there is no whole file."""
    return _number(path, "repaired")


def _number(path: Path, name: str) -> int | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return int(stored[name])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
