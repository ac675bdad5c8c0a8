"""POST /v1/classify: a file in, the best classes out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, cast

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from models.errors import TooManyPoints
from models.io import read_cloud
from models.manifest import Axis
from models.predictor import Classification
from models.voxelize import Voxels
from service.context import Context, Loaded
from service.pool import Live
from service.problems import documented
from service.schemas import ClassifyAnswer, ClassifyOptions, Prediction
from service.telemetry import server_timing
from service.uploads import Upload

router = APIRouter(prefix="/v1", tags=["classify"])

BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}}
REQUEST_BODY = {"required": True, "content": {"application/octet-stream": BINARY, "application/ply": BINARY, "multipart/form-data": FORM}}


@router.post(
    "/classify",
    response_model=ClassifyAnswer,
    responses=documented(400, 404, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def classify(request: Request, context: Loaded, options: Annotated[ClassifyOptions, Query()]) -> Response:
    """Classify one point cloud, sent as the body or as the one file of a multipart form.

    The format is `?input_format=`, else that of the file name (multipart, or the header X-Filename), else that of the
    content type (`application/ply`), else told from the content.
    """
    model = await to_thread.run_sync(context.pool.get, options.model, limiter=context.readers)
    request.state.model_used = (model.ref.name, model.ref.version)
    started = time.perf_counter()
    async with context.uploads.receive(request, options.input_format) as upload:
        read_ms = _ms_since(started)
        work = partial(read_voxels, upload, model, options, context.settings.max_points)
        cloud = await to_thread.run_sync(work, limiter=context.readers)
    answer = await context.scheduler.classify(model.predictor, cloud.voxels)
    timings_ms = {
        "read": read_ms,
        "parse": cloud.parse_ms,
        "voxelize": cloud.voxelize_ms,
        "queue": answer.queue_ms,
        "forward": answer.forward_ms,
    }
    return _encode(context, model, options, cloud, answer.classification, timings_ms)


@dataclass(frozen=True)
class Read:
    """A file that became voxels; num_points counts the file's points."""

    voxels: Voxels
    num_points: int
    parse_ms: float
    voxelize_ms: float


def read_voxels(upload: Upload, model: Live, options: ClassifyOptions, max_points: int) -> Read:
    """Parse and voxelize, by the functions that training uses. Runs in a thread."""
    started = time.perf_counter()
    cloud = read_cloud(upload.spool.file(), options.input_format, name=upload.name, content_type=upload.content_type)
    if len(cloud) > max_points:
        raise TooManyPoints(f"{len(cloud)} points, this service takes {max_points}")
    parse_ms = _ms_since(started)
    started = time.perf_counter()
    voxels = model.predictor.voxelize(cloud, up=cast(Axis | None, options.up), unit=options.unit)
    voxelize_ms = _ms_since(started)
    upload.spool.close()  # here, to save the way to another thread
    return Read(voxels, len(cloud), parse_ms, voxelize_ms)


def _encode(
    context: Context,
    model: Live,
    options: ClassifyOptions,
    cloud: Read,
    found: Classification,
    timings_ms: Mapping[str, float],
) -> Response:
    started = time.perf_counter()
    labels = model.predictor.manifest.labels
    best = [int(index) for index in found.ranking[: options.top]]
    body = ClassifyAnswer(
        model=model.ref,
        predictions=tuple(Prediction(label=labels[i], index=i, score=float(found.scores[i])) for i in best),
        num_points=cloud.num_points,
        num_voxels=found.num_voxels,
        filled=found.filled,
        timings_ms={stage: round(value, 3) for stage, value in timings_ms.items()},
        # every float32 is a double too, and JSON carries doubles exactly
        logits=tuple(found.logits.tolist()) if options.logits else None,
    ).model_dump_json(exclude={"logits"} if not options.logits else None)
    stages = {**timings_ms, "encode": _ms_since(started)}
    context.telemetry.stages(stages)
    headers = {"X-Model": f"{model.ref.name}:{model.ref.version}", "Server-Timing": server_timing(stages)}
    return Response(body, headers=headers, media_type="application/json")


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
