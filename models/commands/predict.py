"""`fip predict`: label files with a checkpoint, through the same reader and Predictor as the service."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commands.options import engine_option, precision_option, registry_option

if TYPE_CHECKING:
    from models.commands.predict_rows import Row
    from models.manifest import Axis, Precision, Task
    from models.predictor import Predictor
    from models.registry import Catalogue


@click.command(short_help="Classify point-cloud files, or every point in them.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--model",
    envvar="FIP_MODEL",
    metavar="NAME|DIR",
    help="NAME, NAME:VERSION, NAME@ALIAS or a folder.  [default: the bundled one of the task]",
)
@click.option("--task", type=click.Choice(["classify", "segment"]), help="What to do.  [default: what the model does, else classify]")
@registry_option
@click.option("--up", type=click.Choice(["x", "y", "z"]), help="The file's up axis, where it is not the model's.")
@click.option("--unit", metavar="UNIT", help="Unit of the coordinates (m, cm, mm, ...), for models that work in metres.")
@click.option("--input-format", metavar="FORMAT", help="Format of the files, where name and content do not tell.")
@click.option("--top", type=click.IntRange(min=1), help="How many classes to print for a file.  [default: 1, of points 5]")
@click.option("--out", "-o", metavar="DIR|FILE", help="Where the class of every point is written: a folder, or of one FILE a file.")
@click.option("--format", "fmt", metavar="FORMAT", help="What --out is: ply, label, npz, raw, json.  [default: by its ending, else ply]")
@click.option("--force", is_flag=True, help="Let --out replace files; a FILE that is read is never replaced.")
@click.option("--device", envvar="FIP_DEVICE", default="cpu", show_default=True, help="Where the net runs: cpu, cuda, cuda:1.")
@engine_option
@precision_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
@click.pass_context
def predict(
    ctx: click.Context,
    files: tuple[Path, ...],
    model: str | None,
    task: "Task | None",
    registry: str | None,
    up: "Axis | None",
    unit: str | None,
    input_format: str | None,
    top: int | None,
    out: str | None,
    fmt: str | None,
    force: bool,
    device: str,
    engine: str | None,
    precision: "Precision | None",
    as_json: bool,
) -> int:
    """Print the class of each point-cloud FILE with its score, best first; with a model that segments, the shares of its points.

    Such a model gives every point a class, which --out writes: street.bin becomes street.ply in a folder, or the FILE of that name.
    A file that cannot be used is reported on stderr and does not stop the others; the exit code is then 3.
    """
    from models.cli import describe, exit_code
    from models.commands.predict_out import make_folders, plan
    from models.commands.predict_rows import Options, answer
    from models.errors import InputError
    from models.io import FORMATS
    from models.voxelize import UNITS_M

    _one_of(unit, UNITS_M, "--unit")
    _one_of(input_format, FORMATS, "--input-format")
    targets = plan(files, out, fmt, force=force)
    named = ctx.get_parameter_source("model") == click.core.ParameterSource.COMMANDLINE
    predictor, ref = load_model(model, registry, _device(device), engine, precision or "fp32", task=task, named=named)
    if out is not None and predictor.manifest.task != "segment":
        raise click.UsageError(f"--out: {ref['name']} gives no point a class; --task segment, or --model, chooses a model that does")
    make_folders(targets)
    options, worst = Options(up, unit, input_format, top), 0
    for path, target in zip(files, targets, strict=True):
        try:
            row, text = answer(predictor, ref, path, options, target)
        except InputError as error:
            worst = exit_code(error)
            click.echo(describe(error, source=str(path)), err=True)
            if as_json:
                click.echo(json.dumps({"file": str(path), "code": error.code, "detail": error.detail, "where": error.where}))
            continue
        click.echo(json.dumps(row) if as_json else text)
    return worst


def load_model(
    model: str | None,
    registry: str | None,
    device: str,
    engine: str | None = None,
    precision: "Precision" = "fp32",
    *,
    task: "Task | None" = None,
    named: bool = True,
) -> tuple["Predictor", "Row"]:
    """The model of a name or folder, and how answers name it: as the service does, where it is in a registry.

    named: whether the caller named it just now. One that he has in his environment is the default of its own task only.
    Raises: BadModelName, UnknownModel, WrongTask, BadCheckpoint, RegistryUnavailable.
    """
    from models.artefact import read_manifest
    from models.predictor import Predictor
    from models.registry import open_catalogue

    catalogue = open_catalogue(registry)
    reference = model or catalogue.default(task or "classify")
    if task is not None and model is not None and not named and _task_of(reference, catalogue) != task:
        reference = catalogue.default(task)
    folder, entry = catalogue.locate(reference)
    predictor = Predictor.load(folder, device, engine, precision)
    if task is not None:
        predictor.require(task)
    if entry is None:
        name, version = predictor.manifest.name, folder.name if folder.name.isdecimal() else None
    else:
        name, version = entry.model.name, str(entry.model.version)
    return predictor, {"name": name, "version": version, "digest": read_manifest(folder)[1]}


def _task_of(reference: str, catalogue: "Catalogue") -> "Task":
    from models.artefact import read_manifest

    return read_manifest(catalogue.locate(reference)[0])[0].task


def _device(text: str) -> str:
    from models.device import parse_device
    from models.errors import BadOption

    try:
        return parse_device(text)
    except BadOption as error:
        raise click.BadParameter(f"{error.detail} (known: {', '.join(error.known)})", param_hint="--device") from error


def _one_of(value: str | None, known: Iterable[str], option: str) -> None:
    """Refuse an unknown value before anything is loaded. The lists live in modules too heavy for `--help`."""
    from models.errors import nearest

    if value is not None and value not in known:
        raise click.BadParameter(f"unknown value {value!r}{nearest(value, known)} (known: {', '.join(known)})", param_hint=option)
