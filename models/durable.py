"""Files that survive a crash at any moment: written, synced, then renamed into place; and a lock that dies with its process."""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

CHUNK = 1 << 20


class NotTheOwner(PermissionError):
    """A file cannot be replaced by one that belongs to the same user and group."""


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if need be. The system drops it when the process ends, however that happens.

    Raises: BlockingIOError (without `wait`: another holds it).
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on a file; an absent file is held by nobody."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_whole(path: Path, content: bytes, *, mode: int | None = None, as_before: bool = False) -> None:
    """Replace a file by new content, all at once and durably. Whoever writes the same file must hold the same lock.

    mode: its permissions, from the first byte on; None leaves them to the umask. as_before: one that is replaced leaves its owner, group
    and permissions to the new one. Raises: NotTheOwner (they cannot be left to it: nothing is replaced); OSError.
    """
    part = path.with_name(f".{path.name}.part")
    if mode is not None:  # what a process that was killed left may be open to all
        part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(part, flags, 0o666 if mode is None else mode), "wb") as file:
        file.write(content)
        if as_before:
            _take_after(path, part, file.fileno())
        sync(file)
    part.replace(path)
    sync_path(path.parent)


def _take_after(path: Path, part: Path, descriptor: int) -> None:
    """Give a new file the owner, group and permissions of the one of that name, if there is one. Raises: as `write_whole`."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    ours = os.fstat(descriptor)
    try:
        if (before.st_uid, before.st_gid) != (ours.st_uid, ours.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    except OSError as error:
        part.unlink(missing_ok=True)
        belongs = f"it belongs to user {before.st_uid} and group {before.st_gid}"
        raise NotTheOwner(error.errno, f"{belongs}, and whoever replaces it must be able to leave it to them", str(path)) from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """As `write_whole`, of content that is written piece by piece: a new file that can be sought and read, hidden beside the old one.

    It takes the name `path` when all went well; of what was written before an exception nothing is left. Nobody else writes the same
    file meanwhile. Raises: BlockingIOError (another does just now); OSError.
    """
    part = path.with_name(f".{path.name}.part")
    with _new_part(part) as file:  # locked until it has its name
        try:
            yield file
            sync(file)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync_path(path.parent)


def _new_part(part: Path) -> BinaryIO:
    """A new and locked file. One of a process that was killed makes way for it. Raises: as `whole_file`."""
    while True:
        try:
            file = part.open("x+b")
        except FileExistsError:
            _clear(part)
            continue
        try:
            if _locked_here(file.fileno(), part):
                return file
        except BlockingIOError:  # by who found it before it was locked, and will remove it
            file.close()
            raise
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        file.close()


def _clear(part: Path) -> None:
    """Remove what nobody writes; what a link leads to stays. Raises: as `whole_file`."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        part.unlink(missing_ok=True)
        return
    try:
        if _locked_here(descriptor, part):
            part.unlink()
    finally:
        os.close(descriptor)


def _locked_here(descriptor: int, path: Path) -> bool:
    """Lock an open file, and say whether it still is the one of that name: who had the lock may have renamed or removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EAGAIN, "it is being written by another process", str(path)) from None
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def copy_synced(source: Path, target: Path) -> str:
    """Copy one file onto the disk, not only into its cache, and return the sha256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        sync(writer)
    return digest.hexdigest()


def sync_path(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder, as they are."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(file: IO[bytes] | IO[str]) -> None:
    """Have the disk keep what was written, before the file gets its name: a power cut then leaves the old file or the new one."""
    file.flush()
    os.fsync(file.fileno())
