"""`fip predict`: label files with a checkpoint, through the same reader and Predictor as the service."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commands.options import device_option, engine_option, precision_option, registry_option, tile_options

if TYPE_CHECKING:
    from models.commands.predict_rows import Row
    from models.manifest import Axis, Precision, Task
    from models.predictor import Predictor
    from models.registry import Catalogue


ANSWER_NAMES = ("same", "ply", "pcd", "las", "laz", "xyz", "pts", "csv", "npy", "npz", "label", "lidarseg", "raw", "json")  # of predict_out
TASK_HELP = "What to do.  [default: what the model does; where none is named, segment if answers are to be written, else classify]"
EXAMPLES = """\b
Examples:
  fip predict chair.ply                                 what is it?
  fip predict --task segment street.las                 what is in it, by points?
  fip predict street.las -o labelled.las                every point with its class
  fip predict scans labelled --format same              the same for a folder and all in it
  fip predict scans labelled --format same --resume     go on where that was stopped
"""


@click.command(short_help="Classify point-cloud files, or every point in them.", epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, metavar="FILE... | IN_DIR [OUT_DIR]", type=click.Path(path_type=Path))
@click.option(
    "--model",
    envvar="FIP_MODEL",
    metavar="NAME|DIR",
    help="NAME, NAME:VERSION, NAME@ALIAS or a folder.  [default: the bundled one of the task]",
)
@click.option("--task", type=click.Choice(["classify", "segment"]), help=TASK_HELP)
@registry_option
@click.option("--up", type=click.Choice(["x", "y", "z"]), help="The file's up axis, where it is not the model's.")
@click.option("--unit", metavar="UNIT", help="Unit of the coordinates (m, cm, mm, ...), for models that work in metres.")
@click.option("--input-format", metavar="FORMAT", help="Format of the files, where name and content do not tell.")
@click.option("--top", type=click.IntRange(min=1), help="How many classes to print for a file.  [default: 1, of points 5]")
@click.option("--out", "-o", metavar="DIR|FILE", help="Where the class of every point is written: a folder, or of one FILE a file.")
@click.option("--format", "fmt", metavar="FORMAT", help=f"What --out is: {', '.join(ANSWER_NAMES)}.  [default: by its ending, else ply]")
@click.option("--resume", is_flag=True, help="Of IN_DIR label only what OUT_DIR does not have yet from this model and these options.")
@click.option("--force", is_flag=True, help="Let --out replace files, and OUT_DIR start over; a FILE that is read is never replaced.")
@tile_options
@device_option("Where the net runs: cpu, cuda, cuda:1.")
@engine_option
@precision_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text; of a folder, the summary is the last.")
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
    resume: bool,
    force: bool,
    tile_voxels: int | None,
    tile_halo: int | None,
    device: str,
    engine: str | None,
    precision: "Precision | None",
    as_json: bool,
) -> int:
    """Print the class of each point-cloud FILE with its score, best first; with a model that segments, the shares of its points.

    Such a model gives every point a class, which --out writes: street.bin becomes street.ply in a folder, or the FILE of that name.
    --format same gives the file itself with columns added and nothing else changed (of a KITTI scan its .label). Clouds of any size are
    labelled, large ones tile by tile.

    Of a folder, IN_DIR, all files of known endings are taken, those of its folders too, and OUT_DIR gets the same shape. Run again with
    --resume, the same command goes on where it was stopped, however that happened. Passed over are hidden files, other endings, and
    .txt, .csv and .asc that are not five or more rows of three or more numbers; the summary counts them, and names the latter.

    A file that cannot be used is reported on stderr and does not stop the others; the exit code is then 3.
    """
    from models.commands.predict_files import label_files
    from models.commands.predict_folder import label_folder
    from models.commands.predict_plan import folder_job
    from models.commands.predict_rows import Options, tile_size
    from models.io import FORMATS
    from models.voxelize import UNITS_M

    _one_of(unit, UNITS_M, "--unit")
    _one_of(input_format, FORMATS, "--input-format")
    named = ctx.get_parameter_source("model") == click.core.ParameterSource.COMMANDLINE
    chosen = task is not None or bool(named and model)
    options = Options(up, unit, input_format, top, tile_size(tile_voxels, tile_halo), advise=not chosen)

    job = folder_job(files, out, fmt, input_format, resume=resume, force=force)
    written = out is not None if job is None else job.out is not None

    def load() -> tuple["Predictor", "Row"]:
        wanted = "segment" if task is None and written and not (named and model) else task
        return load_model(model, registry, _device(device), engine, precision or "fp32", task=wanted, named=named)

    if job is not None:
        return label_folder(job, load, options, as_json=as_json)
    return label_files(files, out, fmt, load, options, force=force, as_json=as_json)


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
