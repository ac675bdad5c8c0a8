"""The files of jobs: ID/input until a job has ended, ID/result after that; what is here is whole and on the disk."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from models.durable import sync, sync_path, whole_file
from service.errors import AnswerTooLarge, SpoolFull
from service.jobs.records import is_id
from service.uploads import NO_ROOM

PIECE = 1 << 20
SPARE = 1 << 20  # bytes that have to be free beside those of a result that did not fit, before it is computed again

Name = Literal["input", "result"]


@dataclass(frozen=True)
class Kept:
    bytes: int
    sha256: str


class Files:
    """Used from threads only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep_input(self, job: str, source: BinaryIO) -> Kept:
        """Copy the file of a new job. Of one that does not fit nothing is left. Raises: SpoolFull."""
        folder, digest, size = self._folder / job, hashlib.sha256(), 0
        try:
            with _room_for("body"):
                folder.mkdir(mode=0o700)
                source.seek(0)
                with (folder / "input").open("xb") as target:
                    while piece := source.read(PIECE):
                        digest.update(piece)
                        size += target.write(piece)
                    sync(target)
                sync_path(folder)
                sync_path(self._folder)
        except BaseException:
            self.drop(job)
            raise
        return Kept(size, digest.hexdigest())

    def keep_result(self, job: str, write: Callable[[BinaryIO], None], most: int, ever: int) -> Kept:
        """Have the result written, if there is room for so many bytes; nothing is left of one that is not whole.

        ever: bytes for which there will be room at some time. Raises: SpoolFull, AnswerTooLarge, OSError, as `write`.
        """
        written = 0
        try:
            with _room_for("result"), whole_file(self._folder / job / "result") as file:
                try:
                    write(file)
                    kept = read_through(file)
                finally:
                    written = os.fstat(file.fileno()).st_size
                if kept.bytes > ever:
                    raise AnswerTooLarge(f"the result has {kept.bytes} bytes; all files of jobs together may have {ever}", where="format")
                if kept.bytes > most:
                    raise SpoolFull("no room for the result beside those of the jobs before", where="result")
        except SpoolFull as error:
            raise SpoolFull(error.detail, where="result", needs=written) from error
        return kept

    def check_room(self, needs: int, most: int) -> None:
        """Whether a result that did not fit may now. Raises: SpoolFull, OSError."""
        if needs > most or needs + SPARE > shutil.disk_usage(self._folder).free:
            raise SpoolFull("no room yet for the result", where="result", needs=needs)

    def open(self, job: str, name: Name) -> BinaryIO:
        """Raises: FileNotFoundError."""
        return (self._folder / job / name).open("rb")

    def drop(self, job: str) -> None:
        """Remove all of them, if there are any."""
        shutil.rmtree(self._folder / job, ignore_errors=True)

    def drop_input(self, job: str) -> None:
        (self._folder / job / "input").unlink(missing_ok=True)

    def lost(self, kept: Mapping[str, Name]) -> list[str]:
        """The jobs of these whose result is not there."""
        return [job for job, name in kept.items() if name == "result" and not (self._folder / job / name).exists()]

    def sweep(self, kept: Mapping[str, Name]) -> int:
        """Remove every file of a job but these, and what a process that was killed left half-written; how many jobs lost something."""
        swept = 0
        for folder in self._folder.iterdir():
            if not is_id(folder.name):
                continue
            if folder.name not in kept:
                swept += 1
                shutil.rmtree(folder, ignore_errors=True)
                continue
            rest = [each for each in folder.iterdir() if each.name != kept[folder.name]]
            swept += bool(rest)
            for each in rest:
                each.unlink(missing_ok=True)
        return swept


def read_through(file: BinaryIO) -> Kept:
    """What would be kept of a file."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while piece := file.read(PIECE):
        digest.update(piece)
        size += len(piece)
    return Kept(size, digest.hexdigest())


@contextmanager
def _room_for(what: str) -> Iterator[None]:
    """Raises: SpoolFull, where the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise SpoolFull(f"no room for the {what}: {error.strerror}", where=what) from error
