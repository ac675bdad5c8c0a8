"""What is taken for trouble of the machine, and what for the job's own fault."""

import errno

from models.errors import FileError, FipError
from service.errors import SpoolFull
from service.jobs.runner import _of_the_disk


def test_trouble_of_the_disk_is_told_from_damaged_files() -> None:
    disk: list[Exception] = [OSError(errno.EIO, "x"), OSError("x"), SpoolFull("x"), _from(FileError("x"), OSError(errno.EMFILE, "x"))]
    file: list[Exception] = [ValueError(), _from(FileError("x"), OSError(errno.EINVAL, "x")), _from(FileError("x"), ValueError())]
    assert [_of_the_disk(error) for error in disk] == [True] * len(disk)
    assert [_of_the_disk(error) for error in file] == [False] * len(file)


def _from(error: FipError, cause: Exception) -> FipError:
    error.__cause__ = cause
    return error
