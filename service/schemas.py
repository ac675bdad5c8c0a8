"""The JSON shapes of the service; those of the Open Inference Protocol are in service.inference.schemas, and there are no others."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from models.answers import ANSWERS, SAME, ClassSummary
from models.answers.palette import PaletteEntry
from models.errors import nearest
from models.io import FORMATS
from models.labels import LabelMap
from models.manifest import InputSpec, Provenance
from models.voxelize import UNITS_M

AXES = ("x", "y", "z")
MOST_SHOWN = 2_000_000
SEGMENT_FORMATS = ("json", SAME, *ANSWERS)
JOB_STATES = ("queued", "running", "done", "failed", "cancelled", "expired")


class Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SentFile(Shape):
    """What the query of every request with a file may say of the file alone."""

    input_format: Annotated[
        str | None, Field(description="the file's format; else its name or its content tells", json_schema_extra={"enum": sorted(FORMATS)})
    ] = None

    @field_validator("input_format")
    @classmethod
    def _input_format(cls, value: str | None) -> str | None:
        return _one_of(value, tuple(sorted(FORMATS)), "format")


class PointsOptions(SentFile):
    """The query of a look at the points."""

    most: Annotated[int, Field(ge=1, le=MOST_SHOWN, description="how many points are answered at most; of more, some stand for all")] = (
        MOST_SHOWN
    )


class FileOptions(SentFile):
    """What the query of every request to a model may say: which model, and what only the caller knows of the file."""

    model: Annotated[
        str | None, Field(description="NAME, NAME:VERSION or NAME@ALIAS, or MLflow's models:/...; the service's default without it")
    ] = None
    up: Annotated[str | None, Field(description="the file's up axis, if not the model's", json_schema_extra={"enum": list(AXES)})] = None
    unit: Annotated[str | None, Field(description="the file's unit, if not metres", json_schema_extra={"enum": list(UNITS_M)})] = None

    @field_validator("up")
    @classmethod
    def _up(cls, value: str | None) -> str | None:
        return _one_of(value, AXES, "up axis")

    @field_validator("unit")
    @classmethod
    def _unit(cls, value: str | None) -> str | None:
        return _one_of(value, tuple(UNITS_M), "unit")


class ClassifyOptions(FileOptions):
    """The query of a classification."""

    top: Annotated[int, Field(ge=1, description="how many of the best classes to answer")] = 5
    logits: Annotated[bool, Field(description="answer the float32 logits of all classes too")] = False


class SegmentOptions(FileOptions):
    """The query of a segmentation."""

    format: Annotated[
        str | None,
        Field(
            description="what the answer is: json counts the points of each class, others say it of each point, same in the file itself; "
            "without it the header Accept decides, else json",
            json_schema_extra={"enum": list(SEGMENT_FORMATS)},
        ),
    ] = None

    @field_validator("format")
    @classmethod
    def _format(cls, value: str | None) -> str | None:
        return _one_of(value, SEGMENT_FORMATS, "format")


class ModelRef(Shape):
    """Exactly which model answered. `digest` is the sha256 of its weights and description."""

    name: str
    version: str
    digest: str
    alias: str | None


class ModelInfo(ModelRef):
    """What a model expects and knows. `alias` is the champion or what was asked for, `aliases` are all that point here now."""

    aliases: tuple[str, ...]
    task: str
    default: Annotated[bool, Field(description="answers requests for its task that name no model")]
    labels: tuple[str, ...]
    label_map: Annotated[
        LabelMap | None,
        Field(description="colours of the classes and their ids in label files, the first of which answers are written with"),
    ]
    input: InputSpec
    metrics: dict[str, float]


class ModelDetails(ModelInfo):
    """Also where a model comes from. `card` is Markdown."""

    card: str
    provenance: Provenance


class DamagedModel(Shape):
    """A version whose files are not what was published, and why; without a version, a model whose aliases cannot be read."""

    name: str
    version: str | None
    aliases: tuple[str, ...]
    reason: str


class ModelList(Shape):
    models: tuple[ModelInfo, ...]
    damaged: tuple[DamagedModel, ...]


class AliasMoved(Shape):
    """Where an alias points now, which is loaded and answers, and where it pointed before."""

    name: str
    alias: str
    version: str
    before: str | None


class Prediction(Shape):
    label: str
    index: int
    score: Annotated[float, Field(ge=0, le=1, description="softmax of the logits")]


class ClassifyAnswer(Shape):
    """`timings_ms`: read, parse, voxelize, queue, forward; the header Server-Timing has encode as well."""

    model: ModelRef
    predictions: tuple[Prediction, ...]
    num_points: Annotated[int, Field(description="points of the file")]
    num_voxels: int
    filled: Annotated[tuple[str, ...], Field(description="features the file lacks, filled with the model's own values")]
    timings_ms: dict[str, float]
    logits: Annotated[tuple[float, ...] | None, Field(description="float32 logits, digits enough to get them back bit for bit")] = None


class Halo(Shape):
    """The margin around each tile, in voxels. With less than the net sees, points near the edges of tiles may be labelled otherwise than
    they would be in one piece.
    """

    voxels: int
    full: Annotated[int, Field(description="how far the net sees")]


class SegmentAnswer(Shape):
    """`timings_ms`: read, parse, voxelize, queue, forward; the header Server-Timing has encode as well."""

    model: ModelRef
    num_points: Annotated[int, Field(description="points of the file, each of which got a class")]
    num_voxels: int
    filled: Annotated[tuple[str, ...], Field(description="features the file lacks, filled with the model's own values")]
    scaled: Annotated[tuple[str, ...], Field(description="features brought from the file's range (1, 255, 65535) to the model's")]
    tiles: Annotated[int, Field(description="forward passes that the cloud took")]
    halo: Annotated[Halo | None, Field(description="of the tiles; null where the cloud was one")]
    timings_ms: dict[str, float]
    classes: Annotated[tuple[ClassSummary, ...], Field(description="those that occur, by index")]
    palette: Annotated[tuple[PaletteEntry, ...], Field(description="all that the model knows, by index")]


class JobProgress(Shape):
    stage: Annotated[str, Field(description="read, parse, voxelize, queue, forward or encode")]
    done: Annotated[int, Field(description="forward passes that are done")]
    parts: Annotated[int | None, Field(description="all that the cloud takes; null before that is known")]


class JobResult(Shape):
    bytes: int
    media_type: str
    name: str
    sha256: str


class JobError(Shape):
    """Why a job failed: the fields of the problem that a request would have been answered with."""

    code: str
    detail: str
    where: str | None


class JobLinks(Shape):
    job: str
    events: str
    result: str


class JobInfo(Shape):
    """A job. Times are UTC; `expires` is when a result goes, or what is said of a job that has none."""

    id: str
    state: Annotated[str, Field(json_schema_extra={"enum": list(JOB_STATES)})]
    model: Annotated[ModelRef, Field(description="what answers, or none: the version is that of the time when the job was accepted")]
    format: str
    name: Annotated[str, Field(description="of the file, as it was sent")]
    created: datetime
    started: datetime | None
    finished: datetime | None
    expires: datetime | None
    position: Annotated[int | None, Field(description="older jobs that have not ended, of one that is queued")]
    progress: Annotated[JobProgress | None, Field(description="of one that is running")]
    result: JobResult | None
    error: JobError | None
    links: JobLinks


class JobList(Shape):
    jobs: tuple[JobInfo, ...]


class JobListOptions(Shape):
    """The query of a list of jobs."""

    limit: Annotated[int, Field(ge=1, le=1000, description="how many at most, the newest first")] = 100


class Health(Shape):
    status: str


class Problem(Shape):
    """RFC 9457. `code` is stable; `where` is the offending place; `known` lists what would have been accepted; `error`, under /v2, is
    the place and the detail, where clients look for them.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    where: str | None = None
    known: tuple[str, ...] | None = None
    error: str | None = None


def _one_of(value: str | None, known: tuple[str, ...], what: str) -> str | None:
    if value is None or value in known:
        return value
    raise PydanticCustomError("unknown_value", "unknown {what} {value}{hint}", _context(value, known, what))


def _context(value: str, known: tuple[str, ...], what: str) -> dict[str, object]:
    return {"what": what, "value": repr(value[:40]), "hint": nearest(value, known), "known": known}
