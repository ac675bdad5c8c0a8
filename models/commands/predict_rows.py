"""What `fip predict` says of one file: with the fields of the service's answer, and in a line of text."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from models.answers import SAME, ClassSummary, Labelled, answer_format, check_answer, summary, write_answer
from models.answers.palette import palette
from models.commands.predict_out import JSON, Target
from models.commands.predict_progress import LARGE_BYTES, tile_of
from models.errors import FileError
from models.io import CloudFile, open_cloud, read_cloud
from models.labels import LabelMap
from models.manifest import Axis
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.processor import Segmentation
from models.segmenting import segment_cloud
from models.tiling import TILE, TileSize

Row = dict[str, object]
Tell = Callable[[str, bool], None]  # what is being done with a file, as `, reading`; and whether that takes long
TOP_OF_POINTS = 5
MANY_POINTS = 20_000  # of a single object there are seldom more
ADVICE = "one class for the whole file; --task segment gives every point one"


@dataclass(frozen=True)
class Options:
    """What the caller says of the files, how many classes he wants to see (None is the default of the task), and how large a tile is.

    advise: the task was not his choice, so that he may be told of the other one.
    """

    up: Axis | None
    unit: str | None
    input_format: str | None
    top: int | None
    tile: TileSize = TILE
    advise: bool = False


def tile_size(voxels: int | None, halo: int | None) -> TileSize:
    """None is the default of either."""
    return TileSize(TILE.voxels if voxels is None else voxels, TILE.halo if halo is None else halo)


@dataclass(frozen=True)
class Answered:
    """What there is to say of one file. counts: how many points each class has, by its name; of a classified file, its class once."""

    row: Row
    text: str
    points: int
    counts: dict[str, int]


def silent(_doing: str, _long: bool) -> None:
    """Tell nobody."""


def answer(predictor: Predictor, ref: Row, path: Path, options: Options, target: Target | None, tell: Tell = silent) -> Answered:
    """The answer for one file; what `target` asks for is written. Raises: InputError, CannotWrite."""
    try:
        if predictor.manifest.task == "segment":
            return segment_file(predictor, ref, path, options, target, tell)
        return classify_file(predictor, ref, path, options)
    except OSError as error:  # of reading: what goes wrong in writing is CannotWrite
        raise FileError(f"cannot be read: {error.strerror or error}") from error


def advised(predictor: Predictor, answered: Answered) -> bool:
    """Whether a file is more than a single object, of which a class is told all the same."""
    return predictor.manifest.task == "classify" and answered.points > MANY_POINTS


def classify_file(predictor: Predictor, ref: Row, path: Path, options: Options) -> Answered:
    """As `POST /v1/classify`, and `chair.ply: chair 0.930, stool 0.040`. Raises: InputError, OSError."""
    cloud = read_cloud(path, options.input_format, extra=False)
    voxels = predictor.voxelize(cloud, up=options.up, unit=options.unit)
    (found,) = predictor.classify([voxels])
    labels = predictor.manifest.labels
    best = found.ranking[: options.top or 1]
    ranked = [{"label": labels[i], "index": int(i), "score": float(found.scores[i])} for i in best]
    row: Row = {"file": str(path), "model": ref, "predictions": ranked, "num_points": len(cloud), "num_voxels": found.num_voxels}
    row["filled"] = list(found.filled)
    ranks = ", ".join(f"{labels[i]} {found.scores[i]:.3f}" for i in best)
    text = "; ".join([f"{shown(path)}: {ranks}", *notes(found.filled, ())])
    return Answered(row, text, len(cloud), {labels[found.index]: 1})


def segment_file(predictor: Predictor, ref: Row, path: Path, options: Options, target: Target | None, tell: Tell) -> Answered:
    """As `POST /v1/segment`, and `street.bin: 120,000 points: road 34.1 %, car 5.0 %, …`. Raises: InputError, CannotWrite, OSError."""
    label_map = predictor.manifest.label_map
    assert label_map is not None  # the manifest of a net that segments has one
    with open_cloud(path, options.input_format) as file:
        if target is not None and target.fmt != JSON:
            check_answer(target.fmt, file, label_map)
            target.check_ending(answer_format(target.fmt, file))
        large = file.source.size >= LARGE_BYTES
        tell(", reading" if large else "", large)
        cloud = file.cloud(extra=False)

        def progress(done: int, tiles: int) -> None:
            tell(tile_of(done, tiles), False)

        found = segment_cloud(predictor, cloud, up=options.up, unit=options.unit, tile=options.tile, progress=progress)
        classes = summary(cloud.xyz, found.labels, found.confidence, label_map)
        row: Row = {"file": str(path), "model": ref, **_facts(found), "classes": [asdict(each) for each in classes]}
        row["palette"] = [asdict(each) for each in palette(label_map)]
        if target is not None:
            tell(", writing", large)
            _write(target, row, file, cloud, found, label_map)
            row["out"] = str(target.path)
    noted = "".join(f", {note}" for note in notes(found.filled, found.scaled))
    text = f"{shown(path)}: {len(cloud):,} points{in_tiles(found)}{noted}: {shares(classes, options.top or TOP_OF_POINTS)}"
    if target is not None:
        text += f" -> {shown(target.path)}"
    return Answered(row, text, len(cloud), {each.name: each.points for each in classes})


def _facts(found: Segmentation) -> Row:
    """What the fields of an answer say of how it was found."""
    halo = {"voxels": found.halo, "full": found.full_halo} if found.tiles > 1 else None
    return {
        "num_points": len(found.labels),
        "num_voxels": found.num_voxels,
        "filled": list(found.filled),
        "scaled": list(found.scaled),
        "tiles": found.tiles,
        "halo": halo,
    }


def _write(target: Target, row: Row, file: CloudFile, cloud: PointCloud, found: Segmentation, label_map: LabelMap) -> None:
    """Raises: InputError (the file, read again, is another), CannotWrite."""
    with target.opened() as out:
        if target.fmt == JSON:
            out.write(json.dumps(row).encode() + b"\n")
        else:
            write_answer(target.fmt, Labelled(file, cloud, found.labels, found.confidence, label_map, same=target.fmt == SAME), out)


def in_tiles(found: Segmentation) -> str:
    """`, 12 tiles`, and where their margin is narrower than what the net sees, that it is; nothing of a cloud in one piece."""
    if found.tiles == 1:
        return ""
    narrow = f" with a margin of {found.halo} of the {found.full_halo} voxels that the net sees" if found.halo < found.full_halo else ""
    return f", {found.tiles:,} tiles{narrow}"


def notes(filled: tuple[str, ...], scaled: tuple[str, ...]) -> list[str]:
    """`intensity filled`: the file lacks it, and it has the value that the model was trained to take for that; `intensity scaled`: it came
    in another range than the model knows. Nothing of a file that has all as the model wants it.
    """
    return [f"{' and '.join(names)} {what}" for names, what in ((filled, "filled"), (scaled, "scaled")) if names]


def shares(classes: tuple[ClassSummary, ...], top: int) -> str:
    """`road 34.1 %, car 5.0 %, …`"""
    ranked = sorted(classes, key=lambda each: -each.points)
    told = [f"{each.name} {100 * each.share:.1f} %" for each in ranked[:top]]
    return ", ".join([*told, "…"] if len(ranked) > top else told)


def shown(path: Path | str) -> str:
    """A name as a terminal can show it: bytes that are no text, and what would move the cursor, as �."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "�" for each in text)
