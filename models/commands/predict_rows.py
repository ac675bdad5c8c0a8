"""What `fip predict` says of one file: with the fields of the service's answer, and in a line of text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from models.answers import SAME, ClassSummary, Labelled, check_answer, summary, write_answer
from models.answers.palette import palette
from models.commands.predict_out import JSON, Target
from models.io import open_cloud, read_cloud
from models.manifest import Axis
from models.predictor import Predictor
from models.segmenting import segment_cloud

Row = dict[str, object]
TOP_OF_POINTS = 5


@dataclass(frozen=True)
class Options:
    """What the caller says of the files, and how many classes he wants to see; None is the default of the task."""

    up: Axis | None
    unit: str | None
    input_format: str | None
    top: int | None


def answer(predictor: Predictor, ref: Row, path: Path, options: Options, target: Target | None) -> tuple[Row, str]:
    """The answer for one file and the line that says it; what `target` asks for is written. Raises: InputError."""
    if predictor.manifest.task == "segment":
        return segment_file(predictor, ref, path, options, target)
    return classify_file(predictor, ref, path, options)


def classify_file(predictor: Predictor, ref: Row, path: Path, options: Options) -> tuple[Row, str]:
    """As `POST /v1/classify`, and `chair.ply: chair 0.930, stool 0.040`. Raises: InputError."""
    cloud = read_cloud(path, options.input_format, extra=False)
    voxels = predictor.voxelize(cloud, up=options.up, unit=options.unit)
    (found,) = predictor.classify([voxels])
    labels = predictor.manifest.labels
    best = found.ranking[: options.top or 1]
    ranked = [{"label": labels[i], "index": int(i), "score": float(found.scores[i])} for i in best]
    row: Row = {"file": str(path), "model": ref, "predictions": ranked, "num_points": len(cloud), "num_voxels": found.num_voxels}
    row["filled"] = list(found.filled)
    return row, f"{path}: " + ", ".join(f"{labels[i]} {found.scores[i]:.3f}" for i in best)


def segment_file(predictor: Predictor, ref: Row, path: Path, options: Options, target: Target | None) -> tuple[Row, str]:
    """As `POST /v1/segment`, and `street.bin: 120,000 points: road 34.1 %, car 5.0 %, …`. Raises: InputError."""
    label_map = predictor.manifest.label_map
    assert label_map is not None  # the manifest of a net that segments has one
    with open_cloud(path, options.input_format) as file:
        if target is not None and target.fmt != JSON:
            check_answer(target.fmt, file, label_map)
        cloud = file.cloud(extra=False)
        found = segment_cloud(predictor, cloud, up=options.up, unit=options.unit)
        classes = summary(cloud.xyz, found.labels, found.confidence, label_map)
        row: Row = {"file": str(path), "model": ref, "num_points": len(cloud), "num_voxels": found.num_voxels}
        row |= {"filled": list(found.filled), "scaled": list(found.scaled), "tiles": found.tiles}
        row["halo"] = {"voxels": found.halo, "full": found.full_halo} if found.tiles > 1 else None
        row |= {"classes": [asdict(each) for each in classes], "palette": [asdict(each) for each in palette(label_map)]}
        text = f"{path}: {len(cloud):,} points: {shares(classes, options.top or TOP_OF_POINTS)}"
        if target is None:
            return row, text
        with target.opened() as out:
            if target.fmt == JSON:
                out.write(json.dumps(row).encode() + b"\n")
            else:
                answer = Labelled(file, cloud, found.labels, found.confidence, label_map, same=target.fmt == SAME)
                write_answer(target.fmt, answer, out)
    return row | {"out": str(target.path)}, f"{text} -> {target.path}"


def shares(classes: tuple[ClassSummary, ...], top: int) -> str:
    """`road 34.1 %, car 5.0 %, …`"""
    ranked = sorted(classes, key=lambda each: -each.points)
    told = [f"{each.name} {100 * each.share:.1f} %" for each in ranked[:top]]
    return ", ".join([*told, "…"] if len(ranked) > top else told)
