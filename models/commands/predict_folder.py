"""`fip predict IN_DIR OUT_DIR`: every cloud of a folder, its answer in a folder of the same shape; stopped at any moment, it goes on."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from models.cli import describe
from models.commands.predict_journal import Head, Journal, Writer, appending
from models.commands.predict_out import CannotWrite, Target, refused, writing
from models.commands.predict_plan import OUT, Job, Left, check_folders, earlier, stamp
from models.commands.predict_progress import Progress
from models.commands.predict_rows import ADVICE, Options, Row, Tell, advised, answer, shown
from models.commands.predict_table import Report
from models.durable import is_held, locked
from models.errors import FileError, InputError
from models.predictor import Predictor

SOME_FAILED = 3  # as models.cli says of a file that cannot be used


def label_folder(job: Job, load: Callable[[], tuple[Predictor, Row]], options: Options, *, as_json: bool) -> int:
    """The exit code. Raises: FileError and BadParameter (see models.commands.predict_plan), UsageError, CannotWrite."""
    check_folders(job)
    predictor, ref = load()
    if job.out is None:
        left = Left(job, Journal())
        return Run(left, left.count(), predictor, ref, options, as_json).labelled()
    if predictor.manifest.task != "segment":
        raise click.UsageError(f"OUT_DIR: {ref['name']} gives no point a class; --task segment, or --model, chooses a model that does")
    head = head_of(job, options, predictor, ref)
    count = Left(job, free(job, head)).count()
    with ExitStack() as held:
        held.enter_context(owned(job))
        journal = earlier(job, head)  # as it stands now that nobody else writes it
        with writing(job.journal):
            writer = held.enter_context(appending(job.journal, journal, head))
        return Run(Left(job, journal), count, predictor, ref, options, as_json, writer).labelled()


def head_of(job: Job, options: Options, predictor: Predictor, ref: Row) -> Head:
    """What decides the answers of a run."""
    tile = {"tile_voxels": options.tile.voxels, "tile_halo": options.tile.halo}
    said = {"format": job.fmt, "up": options.up, "unit": options.unit, "input_format": options.input_format}
    return Head(ref, said | tile | {"precision": predictor.precision}, job.force)


def free(job: Job, head: Head) -> Journal:
    """What there is of an earlier run. Raises: CannotWrite; BadParameter (one is still going on, or see `earlier`); FileError."""
    with writing(job.journal):
        held = is_held(job.journal)
    if held:
        raise in_use(job)
    return earlier(job, head)


@contextmanager
def owned(job: Job) -> Iterator[None]:
    """OUT_DIR, made if need be, is nobody else's meanwhile. Raises: BadParameter, CannotWrite."""
    assert job.out is not None
    with ExitStack() as held:
        try:
            job.out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(job.journal, wait=False))
        except BlockingIOError:
            raise in_use(job) from None
        except OSError as error:
            raise CannotWrite(job.journal, error) from error
        yield


def in_use(job: Job) -> click.BadParameter:
    return refused(f"another run is writing to {shown(job.out or '')} just now", OUT)


class Unexpected(InputError):
    """A file that something went wrong with that nobody foresaw."""

    code = "unexpected"


@dataclass
class Run:
    """The files of a job, one after the other. left: what is to do, `count` files of it; rows go to stdout, all else to stderr."""

    left: Left
    count: int
    predictor: Predictor
    ref: Row
    options: Options
    as_json: bool
    writer: Writer | None = None
    number: int = 0  # of files begun

    def __post_init__(self) -> None:
        self.walk = self.left.job.walk()
        self.rows = self.as_json or self.writer is None
        self.advise = self.options.advise
        self.progress = Progress(shown=not (self.rows and sys.stdout.isatty()))
        self.report = Report("points" if self.predictor.manifest.task == "segment" else "files")

    def labelled(self) -> int:
        """The exit code. Raises: CannotWrite, after telling what was done until then."""
        try:
            with self.progress:
                for name in self.walk:
                    self._file(name)
                for name, error in self.walk.unreadable:
                    self._failed(name, FileError(f"the folder cannot be listed: {error.strerror}"))
        except (click.ClickException, KeyboardInterrupt):
            self._tell()
            if self.writer is not None:
                click.echo("stopped; with --resume the same command goes on from here", err=True)
            raise
        self._tell()
        return SOME_FAILED if self.report.failed else 0

    def _file(self, name: str) -> None:
        """Raises: CannotWrite; BadParameter (what was not there at first stands in the way)."""
        target, path = self.left.job.target(name), self.left.job.folder / name
        if not self.left.wanted(name, target):
            self._skipped(name, path, target)
            return
        self.number += 1
        before = stamp(path)
        try:
            if self.writer is not None:
                with writing(self.left.job.journal):
                    self.writer.begin(name)
            answered = answer(self.predictor, self.ref, path, self.options, target, self._teller(name))
            if self.writer is not None and target is not None and before is not None:
                with writing(self.left.job.journal):
                    self.writer.done(name, self.left.done(name, target, before, answered.points, answered.counts))
        except InputError as error:
            self._failed(name, error)
            return
        except click.ClickException:
            raise
        except Exception as error:  # a defect of ours, or too little memory, may not cost the thousands of files that follow
            self._failed(name, Unexpected(f"{type(error).__name__}: {error}"))
            return
        self.report.add_answer(answered)
        self._row(answered.row, answered.text)
        if self.advise and advised(self.predictor, answered):
            self.progress.clear()
            click.echo(ADVICE, err=True)
            self.advise = False

    def _skipped(self, name: str, path: Path, target: Target | None) -> None:
        done = self.left.journal.done(name)
        assert done is not None  # nothing that is only begun is skipped
        assert target is not None
        self.report.add_skipped(done)
        if self.as_json:
            self._row({"file": str(path), "skipped": True, "num_points": done.points, "out": str(target.path)}, "")

    def _failed(self, name: str, error: InputError) -> None:
        path = str(self.left.job.folder / name)
        self.report.add_failure(path, error)
        self.progress.clear()
        click.echo(describe(error, source=shown(path)), err=True)
        if self.as_json:
            self._row({"file": path, "code": error.code, "detail": error.detail, "where": error.where}, "")

    def _row(self, row: Row, text: str) -> None:
        if self.rows:
            self.progress.clear()
            click.echo(json.dumps(row) if self.as_json else text)

    def _teller(self, name: str) -> Tell:
        """Says which file it is, what is being done with it, and how fast it went until then."""
        head = f"file {self.number:,} of {max(self.number, self.count):,}"
        rate = f", {self.report.points_per_second:,.0f} points/s" if self.report.points else ""

        def tell(doing: str, long: bool) -> None:
            self.progress.say(f"{head}{doing}{rate}: {shown(name)}", at_once=long)

        tell("", False)
        return tell

    def _tell(self) -> None:
        """The summary."""
        walk = self.walk
        self.report.passed_over, self.report.num_doubtful = walk.passed_over, walk.num_doubtful
        self.report.doubtful = [str(walk.folder / name) for name in walk.doubtful]
        if self.as_json:
            click.echo(json.dumps(self.report.row()))
            return
        if self.rows and self.report.labelled:
            click.echo()
        click.echo(self.report.table())
