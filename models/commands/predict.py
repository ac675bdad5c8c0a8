"""`fip predict`: label files with a checkpoint, through the same reader and Predictor as the service."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commands.options import engine_option, precision_option, registry_option

if TYPE_CHECKING:
    from models.manifest import Axis, Precision
    from models.predictor import Predictor

Row = dict[str, object]


@dataclass(frozen=True)
class Options:
    """What the caller says of the files, and how many classes he wants to see."""

    up: "Axis | None"
    unit: str | None
    input_format: str | None
    top: int


@click.command(short_help="Classify point-cloud files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--model", envvar="FIP_MODEL", metavar="NAME|DIR", help="NAME, NAME:VERSION, NAME@ALIAS or a folder.  [default: the bundled one]"
)
@registry_option
@click.option("--up", type=click.Choice(["x", "y", "z"]), help="The file's up axis, where it is not the model's.")
@click.option("--unit", metavar="UNIT", help="Unit of the coordinates (m, cm, mm, ...), for models that work in metres.")
@click.option("--input-format", metavar="FORMAT", help="Format of the files, where name and content do not tell.")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="How many classes to print for a file.")
@click.option("--device", envvar="FIP_DEVICE", default="cpu", show_default=True, help="Where the net runs: cpu, cuda, cuda:1.")
@engine_option
@precision_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
def predict(
    files: tuple[Path, ...],
    model: str | None,
    registry: str | None,
    up: "Axis | None",
    unit: str | None,
    input_format: str | None,
    top: int,
    device: str,
    engine: str | None,
    precision: "Precision | None",
    as_json: bool,
) -> int:
    """Print the class of each point-cloud FILE with its score, best first.

    A file that cannot be used is reported on stderr and does not stop the others; the exit code is then 3.
    """
    from models.cli import describe, exit_code
    from models.errors import InputError
    from models.io import FORMATS
    from models.voxelize import UNITS_M

    _one_of(unit, UNITS_M, "--unit")
    _one_of(input_format, FORMATS, "--input-format")
    predictor, ref = load_model(model, registry, _device(device), engine, precision or "fp32")
    options = Options(up, unit, input_format, top)
    worst = 0
    for path in files:
        try:
            row = {"file": str(path), "model": ref, **classify_file(predictor, path, options)}
        except InputError as error:
            worst = exit_code(error)
            click.echo(describe(error, source=str(path)), err=True)
            if as_json:
                click.echo(json.dumps({"file": str(path), "code": error.code, "detail": error.detail, "where": error.where}))
            continue
        click.echo(json.dumps(row) if as_json else as_text(row))
    return worst


def load_model(
    model: str | None, registry: str | None, device: str, engine: str | None = None, precision: "Precision" = "fp32"
) -> tuple["Predictor", Row]:
    """The model of a name or folder, and how answers name it: as the service does, where it is in a registry.

    Raises: BadModelName, UnknownModel, BadCheckpoint, RegistryUnavailable.
    """
    from models.artefact import read_manifest
    from models.predictor import Predictor
    from models.registry import open_catalogue

    catalogue = open_catalogue(registry)
    folder, entry = catalogue.locate(model or catalogue.default("classify"))
    predictor = Predictor.load(folder, device, engine, precision)
    if entry is None:
        name, version = predictor.manifest.name, folder.name if folder.name.isdecimal() else None
    else:
        name, version = entry.model.name, str(entry.model.version)
    return predictor, {"name": name, "version": version, "digest": read_manifest(folder)[1]}


def classify_file(predictor: "Predictor", path: Path, options: Options) -> Row:
    """Answer for one file, with the fields of `POST /v1/classify`. Raises: InputError."""
    from models.io import read_cloud

    cloud = read_cloud(path, options.input_format)
    voxels = predictor.voxelize(cloud, up=options.up, unit=options.unit)
    (answer,) = predictor.classify([voxels])
    labels = predictor.manifest.labels
    ranked = [{"label": labels[i], "index": int(i), "score": float(answer.scores[i])} for i in answer.ranking[: options.top]]
    return {"predictions": ranked, "num_points": len(cloud), "num_voxels": answer.num_voxels, "filled": list(answer.filled)}


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


def as_text(row: Row) -> str:
    """`chair.ply: chair 0.93, stool 0.04`."""
    ranked = row["predictions"]
    assert isinstance(ranked, list)
    return f"{row['file']}: " + ", ".join(f"{entry['label']} {entry['score']:.3f}" for entry in ranked)
