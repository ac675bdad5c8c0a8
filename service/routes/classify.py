"""POST /v1/classify: a file in, the best classes out."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from models.processor import Classification
from service.announced import announced_bytes
from service.context import Loaded
from service.pool import Live
from service.problems import documented
from service.routes.file_route import FileRoute
from service.routes.upload_parts import (
    ANSWER_HEADERS,
    FILE_NAME,
    REQUEST_BODY,
    TIMEOUT,
    receive_voxels,
    timings_of,
)
from service.schemas import ClassifyAnswer, ClassifyOptions, Prediction
from service.shadow import shadow_of
from service.telemetry import Timings, server_timing

router = APIRouter(prefix="/v1", tags=["classify"], route_class=FileRoute)


@router.post(
    "/classify",
    response_model=ClassifyAnswer,
    responses={200: {"headers": ANSWER_HEADERS}, **documented(400, 404, 413, 408, 415, 422, 429, 500, 503, 504, 507)},
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [FILE_NAME, TIMEOUT]},
)
async def classify(request: Request, context: Loaded, options: Annotated[ClassifyOptions, Query()]) -> Response:
    """Classify one point cloud, sent as the body or as the one file of a multipart form.

    The format is `?input_format=`, else that of the file name (multipart, or the header X-Filename), else that of the
    content type (`application/ply`), else told from the content.
    """
    timings = timings_of(request)
    with context.admission.enter(announced_bytes(request.headers), request.state.allowance) as ticket:
        model = await context.model(options.model, "classify", ticket)
        request.state.model_used = (model.ref.name, model.ref.version)
        read = await receive_voxels(request, context, model, options, ticket)
        num_points, voxels = len(read.cloud), read.voxels
        shadow = shadow_of(request)
        cloud = read.cloud if shadow.chosen(model) else None
        del read  # its cloud need not wait for the device
        logits = await context.scheduler.logits(model.key, voxels, len(voxels.inverse), timings, per_voxel=False)
        with timings.stage("encode"):
            found = model.processor.answer_of_cloud(voxels, logits)
            body = _encode(model, options, num_points, found, timings)
        if cloud is not None:
            shadow.classify(model, cloud, options, found.index)
    headers = {"X-Model": f"{model.ref.name}:{model.ref.version}", "Server-Timing": server_timing(timings.ms)}
    return Response(body, headers=headers, media_type="application/json")


def _encode(model: Live, options: ClassifyOptions, num_points: int, found: Classification, timings: Timings) -> str:
    labels = model.processor.manifest.labels
    best = [int(index) for index in found.ranking[: options.top]]
    return ClassifyAnswer(
        model=model.ref,
        predictions=tuple(Prediction(label=labels[i], index=i, score=float(found.scores[i])) for i in best),
        num_points=num_points,
        num_voxels=found.num_voxels,
        filled=found.filled,
        timings_ms={stage: round(value, 3) for stage, value in timings.ms.items()},
        # every float32 is a double too, and JSON carries doubles exactly
        logits=tuple(found.logits.tolist()) if options.logits else None,
    ).model_dump_json(exclude={"logits"} if not options.logits else None)
