"""`fip predict`: label files with a checkpoint, through the same reader and Predictor as the service."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from models.manifest import Axis
    from models.predictor import Predictor

Row = dict[str, object]


@click.command(short_help="Classify point-cloud files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME|DIR", help="Bundled or registered model, or a checkpoint folder.  [default: the bundled one]")
@click.option(
    "--registry", envvar="FIP_REGISTRY", type=click.Path(path_type=Path), help="Registry folder; its models win over the bundled ones."
)
@click.option("--up", type=click.Choice(["x", "y", "z"]), help="The file's up axis, where it is not the model's.")
@click.option("--unit", metavar="UNIT", help="Unit of the coordinates (m, cm, mm, ...), for models that work in metres.")
@click.option("--input-format", metavar="FORMAT", help="Format of the files, where name and content do not tell.")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="How many classes to print for a file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
def predict(
    files: tuple[Path, ...],
    model: str | None,
    registry: Path | None,
    up: "Axis | None",
    unit: str | None,
    input_format: str | None,
    top: int,
    as_json: bool,
) -> int:
    """Print the class of each point-cloud FILE with its score, best first.

    A file that cannot be used is reported on stderr and does not stop the others; the exit code is then 3.
    """
    from models.cli import describe, exit_code
    from models.errors import InputError, nearest
    from models.predictor import Predictor
    from models.registry import find_model
    from models.voxelize import UNITS_M

    if unit is not None and unit not in UNITS_M:
        raise click.BadParameter(f"unknown unit {unit!r}{nearest(unit, UNITS_M)} (known: {', '.join(UNITS_M)})", param_hint="--unit")
    predictor = Predictor.load(find_model(model, registry))
    worst = 0
    for path in files:
        try:
            row = classify_file(predictor, path, up=up, unit=unit, input_format=input_format, top=top)
        except InputError as error:
            worst = exit_code(error)
            click.echo(f"{path}: {describe(error)}", err=True)
            if as_json:
                click.echo(json.dumps({"file": str(path), "code": error.code, "detail": error.detail, "where": error.where}))
            continue
        click.echo(json.dumps(row) if as_json else as_text(row))
    return worst


def classify_file(predictor: "Predictor", path: Path, *, up: "Axis | None", unit: str | None, input_format: str | None, top: int) -> Row:
    """Answer for one file, in the shape of `POST /v1/classify`. Raises: InputError."""
    from models.errors import FileError
    from models.io import read_cloud

    try:
        cloud = read_cloud(path, input_format)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from error
    voxels = predictor.voxelize(cloud, up=up, unit=unit)
    (answer,) = predictor.classify([voxels])
    labels = predictor.manifest.labels
    ranked = [{"label": labels[i], "index": int(i), "score": float(answer.scores[i])} for i in answer.ranking[:top]]
    return {
        "file": str(path),
        "model": predictor.manifest.name,
        "predictions": ranked,
        "num_points": len(cloud),
        "num_voxels": answer.num_voxels,
        "filled": list(answer.filled),
    }


def as_text(row: Row) -> str:
    """`chair.ply: chair 0.93, stool 0.04`."""
    ranked = row["predictions"]
    assert isinstance(ranked, list)
    return f"{row['file']}: " + ", ".join(f"{entry['label']} {entry['score']:.3f}" for entry in ranked)
