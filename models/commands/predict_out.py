"""Where `fip predict --out` writes: decided, and refused, before anything is computed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from models.answers import ANSWERS, SAME
from models.answers.names import JSON_EXTENSION, answer_name
from models.durable import whole_file
from models.errors import BadOption, nearest

JSON = "json"
ENDINGS = {**{name: each.extension for name, each in ANSWERS.items()}, JSON: JSON_EXTENSION}
FORMATS = (SAME, *ENDINGS)
DEFAULT = "ply"


@dataclass(frozen=True)
class Target:
    """A file that does not exist yet, or that may be replaced, and what it will hold: a name of FORMATS."""

    path: Path
    fmt: str

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """An empty file to write; it is there under its name, whole, or not at all. Raises: BadOption (it cannot be written)."""
        try:
            with whole_file(self.path) as out:
                yield out
        except OSError as error:
            raise BadOption(f"cannot be written: {error.strerror or error}", where=str(self.path)) from error


def plan(files: Sequence[Path], out: str | None, fmt: str | None, *, force: bool) -> list[Target | None]:
    """A target for each file; None for all without `out`, which is a folder unless it has an ending and there is a single file.

    Raises: UsageError, BadParameter (a format that is not known, a target that is a file to read, that exists, or that two files share).
    """
    if fmt is not None and fmt not in FORMATS:
        raise _refused(f"unknown value {fmt!r}{nearest(fmt, FORMATS)} (known: {', '.join(FORMATS)})", "--format")
    if out is None:
        if fmt is not None or force:
            raise click.UsageError(f"{'--format' if fmt else '--force'} is about what --out writes, and there is no --out")
        return [None] * len(files)
    if len(files) > 1 and Path(out).suffix and not Path(out).is_dir() and not out.endswith("/"):
        raise _refused(f"{out!r} is the name of one file, and there are {len(files)} to write; name a folder, or end it with /", "--out")
    if len(files) > 1 or not Path(out).suffix or out.endswith("/") or Path(out).is_dir():
        folder, fmt = Path(out), fmt or DEFAULT
        targets = [Target(folder / answer_name(path.name, fmt), fmt) for path in files]
    else:
        targets = [Target(Path(out), fmt or _by_ending(Path(out)))]
    _check(files, targets, force)
    return [*targets]


def make_folders(targets: Sequence[Target | None]) -> None:
    """Raises: BadParameter (one cannot be made)."""
    for folder in {target.path.parent for target in targets if target is not None}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(f"the folder {folder} cannot be made: {error.strerror}", "--out") from error


def _by_ending(path: Path) -> str:
    """Raises: BadParameter."""
    found = [name for name, ending in ENDINGS.items() if path.name.lower().endswith(ending)]
    if not found:
        raise _refused(f"the ending of {path.name!r} names no format; say it with --format (known: {', '.join(FORMATS)})", "--out")
    return max(found, key=lambda name: len(ENDINGS[name]))


def _check(files: Sequence[Path], targets: Sequence[Target], force: bool) -> None:
    """Raises: BadParameter."""
    paths = [target.path for target in targets]
    read = {path.resolve() for path in files}
    for path in paths:
        if path.resolve() in read:
            raise _refused(f"{path} is a file to read; give another folder or name", "--out")
        if path.is_dir():
            raise _refused(f"{path} is a folder", "--out")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise _refused(f"{path} is no plain file, and is not replaced", "--out")
        if path.exists() and not force:
            raise _refused(f"{path} exists; --force replaces it", "--out")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise _refused(f"{times} of the files would be written to {path}; give each call a folder of its own", "--out")


def _refused(message: str, option: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint=option)
