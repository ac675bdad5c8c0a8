"""Where `fip predict --out` writes: decided, and refused, before anything is computed."""

import errno
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import click

from models.answers import ANSWERS, OWN, SAME
from models.answers.names import JSON_EXTENSION, answer_name
from models.durable import whole_file
from models.errors import BadOption, nearest

JSON = "json"
ENDINGS = {**{name: each.extension for name, each in ANSWERS.items()}, JSON: JSON_EXTENSION}
FORMATS = (SAME, *ENDINGS)
DEFAULT = "ply"


class CannotWrite(click.ClickException):
    """The disk is full, or there may nothing be written: no other answer could be written either, so that nothing more is computed."""

    exit_code = 2

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: cannot be written: {error.strerror or error}")


@dataclass(frozen=True)
class Target:
    """A file that does not exist yet, or that may be replaced, and what it will hold: a name of FORMATS. named: who asks chose its name."""

    path: Path
    fmt: str
    named: bool = False

    def check_ending(self, fmt: str) -> None:
        """Whether the answer, of a name of ANSWERS, may have that name. Who says --format other than `same` knows what the file will be.

        Raises: BadOption.
        """
        ending = _by_ending(self.path)
        if self.named and self.fmt == SAME and ending not in (None, fmt):
            raise BadOption(
                f"--format same gives {fmt} here, and the name {self.path.name!r} is that of {ending}; "
                f"say --format {ending}, or end the name with {ENDINGS[fmt]}",
                where="--out",
            )

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """An empty file to write, in a folder that is made if need be; it is there under its name, whole, or not at all.

        Raises: CannotWrite, BadOption (there is no file of so long a name).
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as out:
                yield out


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong there goes wrong in writing a path. Raises: CannotWrite, BadOption (there is no file of so long a name)."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadOption("the name of the answer is too long", where=str(path)) from error
        raise CannotWrite(path, error) from error


def target_name(name: str, fmt: str, input_format: str | None) -> str:
    """The answer's name, where the format of the file may have been said and not be told by its name."""
    return answer_name(name, OWN.get(input_format, input_format) if fmt == SAME and input_format is not None else fmt)


def refuse_alone(fmt: str | None, *, force: bool) -> None:
    """Raises: UsageError (what --out writes was said, and there is none)."""
    if fmt is not None or force:
        raise click.UsageError(f"{'--format' if fmt else '--force'} is about what --out writes, and there is no --out")


def check_format(fmt: str | None) -> None:
    """Raises: BadParameter."""
    if fmt is not None and fmt not in FORMATS:
        raise refused(f"unknown value {fmt!r}{nearest(fmt, FORMATS)} (known: {', '.join(FORMATS)})", "--format")


def plan(files: Sequence[Path], out: str | None, fmt: str | None, input_format: str | None, *, force: bool) -> list[Target | None]:
    """A target for each file; None for all without `out`, which is a folder unless it has an ending and there is a single file.

    Raises: UsageError, BadParameter (a format that is not known, a target that is a file to read, that exists, or that two files share).
    """
    check_format(fmt)
    if out is None:
        refuse_alone(fmt, force=force)
        return [None] * len(files)
    if len(files) > 1 and Path(out).suffix and not Path(out).is_dir() and not out.endswith("/"):
        raise refused(f"{out!r} is the name of one file, and there are {len(files)} to write; name a folder, or end it with /", "--out")
    if len(files) > 1 or not Path(out).suffix or out.endswith("/") or Path(out).is_dir():
        folder, fmt = Path(out), fmt or DEFAULT
        targets = [Target(folder / target_name(path.name, fmt, input_format), fmt) for path in files]
    else:
        targets = [Target(Path(out), fmt or _said_by_ending(Path(out)), named=True)]
    _check(files, targets, force)
    return [*targets]


def make_folders(targets: Sequence[Target | None]) -> None:
    """Raises: BadParameter (one cannot be made)."""
    for folder in {target.path.parent for target in targets if target is not None}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(f"the folder {folder} cannot be made: {error.strerror}", "--out") from error


def _by_ending(path: Path) -> str | None:
    """The format that a name is of; None of one that no answer has."""
    found = [name for name, ending in ENDINGS.items() if path.name.lower().endswith(ending)]
    return max(found, key=lambda name: len(ENDINGS[name]), default=None)


def _said_by_ending(path: Path) -> str:
    """Raises: BadParameter."""
    found = _by_ending(path)
    if found is None:
        raise refused(f"the ending of {path.name!r} names no format; say it with --format (known: {', '.join(FORMATS)})", "--out")
    return found


def _check(files: Sequence[Path], targets: Sequence[Target], force: bool) -> None:
    """Raises: BadParameter."""
    paths = [target.path for target in targets]
    read = {path.resolve() for path in files}
    for path in paths:
        if path.resolve() in read:
            raise refused(f"{path} is a file to read; give another folder or name", "--out")
        if path.is_dir():
            raise refused(f"{path} is a folder", "--out")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise refused(f"{path} is no plain file, and is not replaced", "--out")
        if path.exists() and not force:
            raise refused(f"{path} exists; --force replaces it", "--out")
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise refused(f"{times} of the files would be written to {path}; give each call a folder of its own", "--out")


def refused(message: str, option: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint=option)
