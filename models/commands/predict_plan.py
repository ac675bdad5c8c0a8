"""What is left to label of a folder, and whether its answers may be written: decided before anything is computed."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from models.commands.predict_journal import NAME, Done, Head, Journal, read_journal
from models.commands.predict_out import DEFAULT, Target, check_format, refuse_alone, refused, target_name
from models.commands.predict_rows import shown
from models.commands.predict_walk import ENDINGS, Walk, identity
from models.errors import FileError

OUT = "OUT_DIR"


@dataclass(frozen=True)
class Job:
    """A folder to read, and where answers go, if anywhere, as what: a name of predict_out.FORMATS."""

    folder: Path
    out: Path | None
    fmt: str
    input_format: str | None = None
    resume: bool = False
    force: bool = False

    @property
    def journal(self) -> Path:
        assert self.out is not None
        return self.out / NAME

    def walk(self) -> Walk:
        return Walk(self.folder, self.out)

    def target(self, name: str) -> Target | None:
        """Where the answer for a file goes, of which the name in the folder is given."""
        if self.out is None:
            return None
        folder, _, file = name.rpartition("/")
        return Target(self.out / folder / target_name(file, self.fmt, self.input_format), self.fmt)


def folder_job(
    files: Sequence[Path], out: str | None, fmt: str | None, input_format: str | None, *, resume: bool, force: bool
) -> Job | None:
    """What is asked of a folder; None where files are named, or one that is not there. Raises: UsageError, BadParameter."""
    first, *others = files
    if not first.is_dir():
        if resume and first.exists():
            raise click.UsageError(f"--resume is about a folder, and {shown(first)} is a file")
        if first.exists() or first.name.lower().endswith(ENDINGS) or len(others) > 1:
            return None  # a file, or one that is missing
    if len(others) > 1 or (others and out is not None):
        raise click.UsageError("after a folder comes the one that its answers go to, and nothing else")
    target = others[0] if others else None if out is None else Path(out)
    check_format(fmt)
    if target is None:
        refuse_alone(fmt, force=force)
    return Job(first, target, fmt or DEFAULT, input_format, resume, force)


def check_folders(job: Job) -> None:
    """Raises: FileError (no folder, no cloud in it), UsageError and BadParameter (where answers would go)."""
    if job.out is None and job.resume:
        raise click.UsageError("--resume is about what is written to OUT_DIR, and there is none")
    if not job.folder.is_dir():
        raise FileError("there is no such file or folder", where=shown(job.folder))
    if job.out is not None and job.out.exists():
        if not job.out.is_dir():
            raise refused(f"{shown(job.out)} is a file, and the answers for a folder need a folder", OUT)
        if job.out.samefile(job.folder):
            raise refused("it is the folder that is read; give another one, which may lie in it", OUT)
    if next(iter(job.walk()), None) is None:
        raise FileError(f"there is no file in it that can be read; known endings: {', '.join(ENDINGS)}", where=shown(job.folder))


def earlier(job: Job, head: Head) -> Journal:
    """What an earlier run has done, to go on with; an empty journal is begun anew. Raises: BadParameter, FileError (see read_journal)."""
    try:
        journal = read_journal(job.journal)
    except FileError:
        if job.force:
            return Journal()
        raise
    if journal.head is None:
        return Journal()
    difference = head.difference(journal.head)
    if job.resume and difference is None:
        return journal
    if job.force:
        return Journal()
    if job.resume:
        raise refused(f"{shown(job.journal)} is of another run: {difference}; --force starts over", "--resume")
    raise refused(
        f"{shown(job.journal)} is of an earlier run, which labelled {sum(map(bool, journal.files.values())):,} files; "
        "--resume goes on with it, --force starts over",
        OUT,
    )


@dataclass(frozen=True)
class Left:
    """The files of a job, and which of them a journal does not have."""

    job: Job
    journal: Journal

    def count(self) -> int:
        """How many. Everything that stands in the way is found by this. Raises: BadParameter."""
        walk, count = self.job.walk(), 0
        folders: set[Path] = set()
        taken: dict[str, str] = {}  # of the folder that is gone through
        for name in walk:
            target = self.job.target(name)
            if target is not None:
                if target.path.parent not in folders:
                    folders.add(target.path.parent)
                    taken = {}
                if (other := taken.setdefault(target.path.name, name)) != name:
                    raise refused(
                        f"the answers for {shown(other)} and {shown(name)} would both be called {shown(target.path.name)}; "
                        "with --format same each is called as its file",
                        "--format",
                    )
            count += self.wanted(name, target)
        self._check_apart(folders, walk)
        return count

    def wanted(self, name: str, target: Target | None) -> bool:
        """Whether a file is still to be labelled. Raises: BadParameter (what is called as its answer may not be replaced)."""
        if target is None:
            return True
        try:
            status = target.path.lstat()
        except OSError:  # nothing there; where there cannot be anything, writing says so
            return True
        if not stat.S_ISREG(status.st_mode):
            raise refused(f"{shown(target.path)} is no plain file, and is not replaced", OUT)
        head = self.journal.head
        if name in self.journal.files:
            done = self.journal.done(name)
            return done is None or (done.out, done.out_size) != (self._out(target), status.st_size) or changed(self.job.folder / name, done)
        if self.job.force or (head is not None and head.replaces):
            return True
        if self.job.resume:
            raise refused(f"{shown(target.path)} exists, and was not written by the run to resume; --force replaces it", OUT)
        raise refused(f"{shown(target.path)} exists; --force replaces it, and --resume goes on with a run that was stopped", OUT)

    def done(self, name: str, target: Target, before: "Stamp", points: int, classes: dict[str, int]) -> Done:
        """What the journal is told of a file. Raises: OSError (its answer is gone)."""
        return Done(*before, self._out(target), target.path.stat().st_size, points, classes)

    def _out(self, target: Target) -> str:
        assert self.job.out is not None
        return target.path.relative_to(self.job.out).as_posix()

    def _check_apart(self, folders: set[Path], walk: Walk) -> None:
        """That no answer comes to lie among the files that are read. Raises: BadParameter."""
        for folder in folders:
            if identity(folder) in walk.folders:
                raise refused(f"{shown(folder)} is one of the folders that are read; give another one, which may lie in them", OUT)


Stamp = tuple[int, int]  # size and mtime_ns, by which a file is known to be as it was


def stamp(path: Path) -> Stamp | None:
    """Of a file that is not there, or may not be looked at, None."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def changed(path: Path, done: Done) -> bool:
    """Whether a file is no longer the one that was labelled."""
    return stamp(path) != (done.size, done.mtime_ns)
