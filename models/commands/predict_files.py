"""`fip predict FILE...`: files that are named, one after the other."""

import json
from collections.abc import Callable
from pathlib import Path

import click

from models.cli import describe, exit_code
from models.commands.predict_out import make_folders, plan
from models.commands.predict_progress import Progress
from models.commands.predict_rows import ADVICE, Options, Row, advised, answer, shown
from models.errors import InputError
from models.predictor import Predictor


def label_files(
    files: tuple[Path, ...],
    out: str | None,
    fmt: str | None,
    load: Callable[[], tuple[Predictor, Row]],
    options: Options,
    *,
    force: bool,
    as_json: bool,
) -> int:
    """The exit code: that of the last file that could not be used. Raises: UsageError and BadParameter (see `plan`), CannotWrite."""
    targets = plan(files, out, fmt, options.input_format, force=force)
    predictor, ref = load()
    if out is not None and predictor.manifest.task != "segment":
        raise click.UsageError(f"--out: {ref['name']} gives no point a class; --task segment, or --model, chooses a model that does")
    make_folders(targets)
    worst, advise = 0, options.advise
    with Progress() as progress:
        for path, target in zip(files, targets, strict=True):

            def tell(doing: str, long: bool, name: str = shown(path)) -> None:
                if doing:
                    progress.say(f"{name}{doing}", at_once=long)

            try:
                answered = answer(predictor, ref, path, options, target, tell)
            except InputError as error:
                worst = exit_code(error)
                progress.clear()
                click.echo(describe(error, source=str(path)), err=True)
                if as_json:
                    click.echo(json.dumps({"file": str(path), "code": error.code, "detail": error.detail, "where": error.where}))
                continue
            progress.clear()
            click.echo(json.dumps(answered.row) if as_json else answered.text)
            if advise and advised(predictor, answered):
                click.echo(ADVICE, err=True)
                advise = False
    return worst
