"""POST /v1/classify: a file in, the best classes out."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response

from models.errors import BadOption
from models.io import read_cloud
from models.manifest import Axis
from models.predictor import Classification
from models.voxelize import Voxels
from service.context import Loaded
from service.pool import Live
from service.problems import documented
from service.schemas import ClassifyAnswer, ClassifyOptions, Prediction
from service.telemetry import Timings, server_timing
from service.uploads import Upload

router = APIRouter(prefix="/v1", tags=["classify"])

BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}}
REQUEST_BODY = {"required": True, "content": {"application/octet-stream": BINARY, "application/ply": BINARY, "multipart/form-data": FORM}}
TEXT = {"schema": {"type": "string"}}
FILE_NAME = {"name": "X-Filename", "in": "header", "description": "name of a file sent as the body; its ending says the format", **TEXT}
ANSWER_HEADERS = {
    "X-Model": {"description": "NAME:VERSION of the model that answered", **TEXT},
    "Server-Timing": {"description": "milliseconds of each stage", **TEXT},
}


async def said_once(request: Request) -> None:
    """Raises: BadOption (an option is repeated; the framework would take the last)."""
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if times > 1:
            raise BadOption("the option is given more than once", where=name[:80])


@router.post(
    "/classify",
    response_model=ClassifyAnswer,
    responses={200: {"headers": ANSWER_HEADERS}, **documented(400, 404, 413, 415, 422, 429, 500, 503, 507)},
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [FILE_NAME]},
    dependencies=[Depends(said_once)],
)
async def classify(request: Request, context: Loaded, options: Annotated[ClassifyOptions, Query()]) -> Response:
    """Classify one point cloud, sent as the body or as the one file of a multipart form.

    The format is `?input_format=`, else that of the file name (multipart, or the header X-Filename), else that of the
    content type (`application/ply`), else told from the content.
    """
    model = await to_thread.run_sync(context.pool.get, options.model, limiter=context.lookups)
    request.state.model_used = (model.ref.name, model.ref.version)
    timings = Timings(context.telemetry)
    async with context.uploads.receive(request, options.input_format, timings) as upload:
        work = partial(read_voxels, upload, model, options, timings, max_points=context.settings.max_points)
        cloud = await to_thread.run_sync(work, limiter=context.readers)
    found = await context.scheduler.classify(model.predictor, cloud.voxels, timings)
    with timings.stage("encode"):
        body = _encode(model, options, cloud, found, timings)
    headers = {"X-Model": f"{model.ref.name}:{model.ref.version}", "Server-Timing": server_timing(timings.ms)}
    return Response(body, headers=headers, media_type="application/json")


@dataclass(frozen=True)
class Read:
    """A file that became voxels; num_points counts the file's points."""

    voxels: Voxels
    num_points: int


def read_voxels(upload: Upload, model: Live, options: ClassifyOptions, timings: Timings, *, max_points: int) -> Read:
    """Parse and voxelize (the stages of these names), by the functions that training uses. Runs in a thread."""
    with timings.stage("parse"):
        file = upload.spool.file()
        cloud = read_cloud(file, options.input_format, name=upload.name, content_type=upload.content_type, max_points=max_points)
    with timings.stage("voxelize"):
        voxels = model.predictor.voxelize(cloud, up=cast(Axis | None, options.up), unit=options.unit)
    upload.spool.close()  # here, to save the way to another thread
    return Read(voxels, len(cloud))


def _encode(model: Live, options: ClassifyOptions, cloud: Read, found: Classification, timings: Timings) -> str:
    labels = model.predictor.manifest.labels
    best = [int(index) for index in found.ranking[: options.top]]
    return ClassifyAnswer(
        model=model.ref,
        predictions=tuple(Prediction(label=labels[i], index=i, score=float(found.scores[i])) for i in best),
        num_points=cloud.num_points,
        num_voxels=found.num_voxels,
        filled=found.filled,
        timings_ms={stage: round(value, 3) for stage, value in timings.ms.items()},
        # every float32 is a double too, and JSON carries doubles exactly
        logits=tuple(found.logits.tolist()) if options.logits else None,
    ).model_dump_json(exclude={"logits"} if not options.logits else None)
