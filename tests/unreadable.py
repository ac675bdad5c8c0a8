"""A folder that cannot be read, also by root."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def make_unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of somebody else's. The tests may run as root, whom its permissions would not stop."""
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return iter(listed(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
