"""The Open Inference Protocol under /v2: health, metadata, and points in, classes out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as version_of
from typing import Annotated, BinaryIO

from anyio import from_thread, to_thread
from fastapi import APIRouter, FastAPI, Path, Request, Response

from models.manifest import MODEL_NAME
from models.pointcloud import PointCloud
from models.processor import Classification, Segmentation
from models.registry.reference import REFERENCE
from models.segmenting import Segmenting, segmenting
from models.tiling import TileSize
from models.voxelize import Voxels
from service.announced import announced_bytes
from service.answer_file import AnswerFile, InPieces
from service.context import Context, Loaded, Shared
from service.errors import BadInference, NotReady
from service.inference.answer import write_inference
from service.inference.request import HEADER_LENGTH, Inference, Limits, json_bytes, logits_bytes, outputs_of, read_inference
from service.inference.schemas import (
    InferAnswer,
    InferRequest,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.inference.tensors import inputs_of
from service.pool import Live
from service.problems import documented
from service.routes.health import phase_of
from service.routes.upload_parts import ANSWER_HEADERS, BINARY, TIMEOUT, timings_of
from service.segmentation import headers_of, in_parts
from service.settings import Settings
from service.shadow import shadow_of
from service.telemetry import Timings, server_timing
from service.uploads import Upload

router = APIRouter(prefix="/v2", tags=["open inference"])

UPLOADS = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
NAME, PLATFORM, EXTENSIONS = "fip-server", "fip", ("binary_tensor_data",)
WHEN_REFUSED = documented(404, 422, 500, 503)
LENGTH = {"description": "bytes of the JSON, where binary tensors come behind it", "schema": {"type": "integer", "minimum": 0}}
REQUEST_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}, "application/octet-stream": BINARY},
}
ANSWERS: dict[int | str, dict[str, object]] = {
    200: {
        "description": "The outputs that were asked for",
        "headers": ANSWER_HEADERS | {HEADER_LENGTH: LENGTH},
        "content": {"application/octet-stream": BINARY},
    },
    **documented(400, 404, 413, 408, 415, 422, 429, 500, 503, 504, 507),
}
EXTRA = {"requestBody": REQUEST_BODY, "parameters": [TIMEOUT, {"name": HEADER_LENGTH, "in": "header", **LENGTH}]}

Model = Annotated[str, Path(description="NAME, NAME@ALIAS or NAME:VERSION", json_schema_extra={"pattern": REFERENCE})]
Name = Annotated[str, Path(json_schema_extra={"pattern": MODEL_NAME})]
Version = Annotated[str, Path(json_schema_extra={"pattern": "^[1-9][0-9]{0,8}$"})]


@router.get("")
async def server() -> ServerMetadata:
    """What this is, and which extensions of the protocol it has."""
    return ServerMetadata(name=NAME, version=version_of(NAME), extensions=EXTENSIONS)


@router.get("/health/live")
async def live() -> ServerLive:
    """As /health/live."""
    return ServerLive(live=True)


@router.get("/health/ready", responses={503: {"model": ServerReady, "description": "Loading, draining, or without a worker"}})
async def ready(context: Shared, response: Response) -> ServerReady:
    """As /health/ready."""
    is_ready = phase_of(context) == "ready"
    response.status_code = 200 if is_ready else 503
    return ServerReady(live=is_ready, ready=is_ready)


@router.get("/models/{model}", responses=WHEN_REFUSED, response_model_exclude_none=True)
async def show_model(context: Loaded, model: Model) -> ModelMetadata:
    """The inputs and outputs of a model, and its versions."""
    return await context.look_up(partial(_metadata, context, model), model)


@router.get("/models/{model}/versions/{version}", responses=WHEN_REFUSED, response_model_exclude_none=True)
async def show_version(context: Loaded, model: Name, version: Version) -> ModelMetadata:
    """The inputs and outputs of a version of a model."""
    return await show_model(context, f"{model}:{version}")


@router.get("/models/{model}/versions/{version}/ready", responses=WHEN_REFUSED)
async def version_ready(context: Loaded, model: Name, version: Version) -> ModelReady:
    """200 if this version of the model would answer now; it need not be loaded yet."""
    return await model_ready(context, f"{model}:{version}")


@router.get("/models/{model}/ready", responses=WHEN_REFUSED)
async def model_ready(context: Loaded, model: Model) -> ModelReady:
    """200 if the model would answer now; it need not be loaded yet."""
    if (phase := phase_of(context)) != "ready":
        raise NotReady(f"the service is {phase}")
    found = await context.look_up(partial(context.listing.describe, model), model)
    return ModelReady(name=found.name, ready=True)


@router.post("/models/{model}/infer", response_model=InferAnswer, responses=ANSWERS, openapi_extra=EXTRA)
async def infer(request: Request, context: Loaded, model: Model) -> Response:
    """Classify a cloud, or give each of its points a class, whichever the model does.

    `points` are FP32 or FP64 (N, 3); `intensity`, FP32 (N) or (N, 1), and `rgb`, UINT8 (N, 3), where the model reads them. Of a cloud
    the answer has `logits`, `scores` and `label`; of points `labels`, `confidence` and, if they are asked for, `logits`.
    """
    timings, head = timings_of(request), json_bytes(request.headers)
    settings = context.settings
    limit = settings.max_json_bytes if head is None else settings.max_body_bytes
    with context.admission.enter(announced_bytes(request.headers), request.state.allowance) as ticket:
        found = await context.model(model, None, ticket)
        request.state.model_used = (found.ref.name, found.ref.version)
        async with context.uploads.receive(request, None, timings, ticket, raw_limit=limit) as upload:
            work = partial(_read, upload, head, found, request.state.limit, timings, settings)
            with context.scheduler.coming():
                read = await to_thread.run_sync(work, limiter=context.readers_of(upload.size))
        inference = read.inference
        timings.facts["num_points"] = inference.num_points
        ticket.hold_points(inference.num_points)
        ticket.hold_bytes(upload.size + logits_bytes(inference, found.processor.manifest))
        answer = await _answered(read, found, context, timings)
        if (shadow := shadow_of(request)).chosen(found):
            if isinstance(answer, Segmentation):
                shadow.segment(found, read.cloud, inference, answer.labels)
            else:
                shadow.classify(found, read.cloud, inference, answer.index)
        body, length = await to_thread.run_sync(_written, found, inference, answer, timings, settings, limiter=context.encoders)
    headers = {"X-Model": f"{found.ref.name}:{found.ref.version}", "Server-Timing": server_timing(timings.ms)}
    if isinstance(answer, Segmentation):
        headers |= headers_of(answer)
    if length is not None:
        headers[HEADER_LENGTH] = str(length)
    media_type = "application/json" if length is None else "application/octet-stream"
    return InPieces(body, headers, media_type, context.admission.hold_answer(body.size))


@router.post("/models/{model}/versions/{version}/infer", response_model=InferAnswer, responses=ANSWERS, openapi_extra=EXTRA)
async def infer_version(request: Request, context: Loaded, model: Name, version: Version) -> Response:
    """As `infer`, by this version of the model."""
    return await infer(request, context, f"{model}:{version}")


@dataclass(frozen=True)
class OfCloud:
    """A request to a classifier, ready for the net."""

    inference: Inference
    cloud: PointCloud
    voxels: Voxels


@dataclass(frozen=True)
class OfPoints:
    """A request to a segmenter; cut: into other tiles."""

    inference: Inference
    cloud: PointCloud
    work: Segmenting
    cut: Callable[[TileSize], Segmenting]


def describe_inference(app: FastAPI) -> None:
    """Put the schema of requests into the description of the app: they are read here and not by FastAPI."""
    schema = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    app.openapi()["components"]["schemas"].update(**schema.pop("$defs"), InferRequest=schema)


def _metadata(context: Context, reference: str) -> ModelMetadata:
    found = context.listing.describe(reference)
    return ModelMetadata(
        name=found.name,
        versions=context.listing.versions(found.name),
        platform=PLATFORM,
        inputs=inputs_of(found.input),
        outputs=outputs_of(found.task, len(found.labels)),
        parameters={"version": found.version, "digest": found.digest, "task": found.task, "labels": found.labels},
    )


def _read(
    upload: Upload, head: int | None, model: Live, limit: Callable[[float, str], None], timings: Timings, settings: Settings
) -> OfCloud | OfPoints:
    """Parse and voxelize. limit: ends the request after a time. Runs in a thread."""
    with timings.stage("read"):
        if not upload.size:
            raise BadInference("the body is empty", where="body")
        file = upload.file()
    with timings.stage("parse"):
        manifest, most = model.processor.manifest, Limits(settings.max_points, settings.max_body_bytes)
        inference, cloud = read_inference(file, upload.size, head, model.ref.name, manifest, most)
        upload.spool.close()  # here, to save the way to another thread
    if inference.timeout_s is not None:
        from_thread.run_sync(limit, inference.timeout_s, "timeout")
    with timings.stage("voxelize"):
        if model.processor.manifest.task == "classify":
            return OfCloud(inference, cloud, model.processor.voxelize(cloud, up=inference.up, unit=inference.unit))

        def cut(tile: TileSize) -> Segmenting:
            return segmenting(model.processor, cloud, tile=tile, up=inference.up, unit=inference.unit, logits=inference.logits)

        return OfPoints(inference, cloud, cut(TileSize(settings.tile_voxels, settings.tile_halo)), cut)


async def _answered(read: OfCloud | OfPoints, model: Live, context: Context, timings: Timings) -> Classification | Segmentation:
    if isinstance(read, OfPoints):
        return await in_parts(read, model, context, timings)
    voxels = read.voxels
    logits = await context.scheduler.logits(model.key, voxels, len(voxels.inverse), timings, per_voxel=False)
    return model.processor.answer_of_cloud(voxels, logits)


def _written(
    model: Live, inference: Inference, answer: Classification | Segmentation, timings: Timings, settings: Settings
) -> tuple[AnswerFile, int | None]:
    """The body, and how long its JSON is if binary tensors come behind it (stage `encode`). Runs in a thread. Raises: SpoolFull."""
    lengths: list[int | None] = []
    manifest = model.processor.manifest

    def write(out: BinaryIO) -> None:
        lengths.append(write_inference(out, model.ref, inference, answer, outputs_of(manifest.task, len(manifest.labels))))

    with timings.stage("encode"):
        body = AnswerFile(settings.spool_dir, write)
    return body, lengths[0]
