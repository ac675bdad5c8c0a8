"""POST /v1/segment: a file in, a class for every point of it out."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Annotated, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from models.answers import ANSWERS, SAME, Labelled, answer_format, check_answer, summary, write_answer
from models.answers.names import answer_name
from models.answers.palette import palette
from models.errors import TooManyVoxels
from models.io import CloudFile, open_cloud
from models.labels import LabelMap
from models.manifest import Axis
from models.pointcloud import PointCloud
from models.processor import Segmentation
from models.segmenting import Segmenting, segmenting
from models.tiling import TileSize
from models.voxelize import Voxels
from service.announced import announced_bytes
from service.answer_file import AnswerFile, InPieces
from service.context import Context, Loaded
from service.pool import Live
from service.problems import OutOfMemory, documented
from service.routes.file_route import FileRoute
from service.routes.upload_parts import (
    ANSWER_HEADERS,
    BINARY,
    FILE_NAME,
    REQUEST_BODY,
    TEXT,
    TIMEOUT,
    timings_of,
)
from service.schemas import Halo, SegmentAnswer, SegmentOptions
from service.settings import Settings
from service.telemetry import Timings, server_timing
from service.uploads import Upload

router = APIRouter(prefix="/v1", tags=["segment"], route_class=FileRoute)

JSON_NAME = "json"
MEDIA_TYPES = {JSON_NAME: "application/json", **{name: each.media_type for name, each in ANSWERS.items()}}
UNSAFE = re.compile(r"^\.|[^A-Za-z0-9._-]+")
QUALITY = re.compile(r"[01](\.\d{0,3})?")
NAME_LENGTH = 100
LEAST_TILE = 1000  # voxels: a device that has no memory for so few is not short of it because of this request
HEADERS = ANSWER_HEADERS | {
    "X-Num-Points": {"description": "points of the file, and classes in the answer", "schema": {"type": "integer"}},
    "X-Filled": {"description": "features that the file lacks, filled with the model's own values; absent if there are none", **TEXT},
    "X-Scaled": {"description": "features brought from the file's range of values to the model's; absent if there are none", **TEXT},
    "X-Tiles": {"description": "forward passes that the cloud took; absent if it was one", "schema": {"type": "integer"}},
    "X-Halo": {"description": "voxels around each tile, and how far the net sees; absent if there are no tiles", **TEXT},
    "Content-Disposition": {"description": "a name for the answer, made from that of the file", **TEXT},
}
BINARIES = {each.media_type: BINARY for each in ANSWERS.values()}


@router.post(
    "/segment",
    response_model=SegmentAnswer,
    responses={
        200: {"description": "Counts of each class, or a class for every point", "headers": HEADERS, "content": BINARIES},
        **documented(400, 404, 413, 408, 415, 422, 429, 500, 503, 504, 507),
    },
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [FILE_NAME, TIMEOUT]},
)
async def segment(request: Request, context: Loaded, options: Annotated[SegmentOptions, Query()]) -> Response:
    """Give every point of a cloud a class. The file is sent as for `/v1/classify`; the answer is in the order of its points.

    - `json`: points, share, bounds and confidence of each class that occurs, and the palette of all
    - `same`: the file itself, with label, confidence, label_red, label_green, label_blue behind the columns of each point and everything
      else as it was; of a KITTI scan `label`, of a nuScenes one `lidarseg`
    - `ply`, `pcd`, `xyz`, `pts`, `csv`, `npy` (of npy files), `npz`: as `same`, if the file is one. Of a file of another format its
      columns and these; npz then has arrays labels, ids, confidence and names
    - `las`, `laz`: also, and `classification` is the index of the class; what it was before is in `original_classification`
    - `label`: little-endian uint32 a point, the id of its class, as SemanticKITTI has them
    - `lidarseg`: a byte a point, that id, as nuScenes has them
    - `raw`: the class of every point, a byte each (two above 256 classes), then the confidence of every point, a little-endian float16 each

    Of a mesh (`off`) the points are those that were drawn from its surface. Large clouds are cut into tiles, which changes no answer.
    """
    timings = timings_of(request)
    with context.admission.enter(announced_bytes(request.headers)) as ticket:
        model = await context.model(options.model, "segment")
        request.state.model_used = (model.ref.name, model.ref.version)
        asked = options.format or accepted(request.headers.get("accept", ""))
        async with context.uploads.receive(request, options.input_format, timings, ticket) as upload:
            with ExitStack() as held:  # the file is read once more when the answer is written
                work = partial(read_points, held, upload, model, options, asked, timings, context.settings)
                with context.scheduler.coming():
                    read = await to_thread.run_sync(work, limiter=context.readers_of(upload.size))
                timings.facts["num_points"] = len(read.cloud)
                ticket.hold_points(len(read.cloud))
                found = await in_parts(read, model, context, timings)
                write = partial(_write, asked, model, read, found, timings)
                body = await to_thread.run_sync(partial(_answer, context, write, timings), limiter=context.encoders)
    headers = {
        "X-Model": f"{model.ref.name}:{model.ref.version}",
        "X-Num-Points": str(len(read.cloud)),
        "Server-Timing": server_timing(timings.ms),
        "Content-Disposition": f'attachment; filename="{safe_name(answer_name(upload.name, read.fmt))}"',
    }
    headers |= headers_of(found)
    return InPieces(body, headers, MEDIA_TYPES[read.fmt], context.admission.hold_answer(body.size))


def headers_of(found: Segmentation) -> dict[str, str]:
    """What there is to say of an answer."""
    headers = {name: ", ".join(said) for name, said in (("X-Filled", found.filled), ("X-Scaled", found.scaled)) if said}
    if found.tiles > 1:
        headers |= {"X-Tiles": str(found.tiles), "X-Halo": f"{found.halo} of {found.full_halo} voxels"}
    return headers


@dataclass(frozen=True)
class ReadPoints:
    """A file whose points are read and that is still open; fmt: what its answer is, a name of MEDIA_TYPES; cut: into other tiles."""

    file: CloudFile
    cloud: PointCloud
    work: Segmenting
    cut: Callable[[TileSize], Segmenting]
    fmt: str


def read_points(
    held: ExitStack, upload: Upload, model: Live, options: SegmentOptions, asked: str, timings: Timings, settings: Settings
) -> ReadPoints:
    """Parse, see whether the answer can be written, and voxelize; the file stays open as long as `held`. Runs in a thread."""
    with timings.stage("read"):
        source = upload.file()
    with timings.stage("parse"):
        said = {"name": upload.name, "content_type": upload.content_type}
        file = held.enter_context(open_cloud(source, options.input_format, **said, max_points=settings.max_points))
        if asked != JSON_NAME:
            check_answer(asked, file, label_map_of(model))
        cloud = file.cloud(extra=False)
    with timings.stage("voxelize"):

        def cut(tile: TileSize) -> Segmenting:
            return segmenting(model.processor, cloud, up=cast(Axis | None, options.up), unit=options.unit, tile=tile)

        work = cut(TileSize(settings.tile_voxels, settings.tile_halo))
    return ReadPoints(file, cloud, work, cut, asked if asked == JSON_NAME else answer_format(asked, file))


class Cut(Protocol):
    """What is to be answered, and how it is cut into other tiles."""

    @property
    def work(self) -> Segmenting: ...

    @property
    def cut(self) -> Callable[[TileSize], Segmenting]: ...


async def in_parts(read: Cut, model: Live, context: Context, timings: Timings) -> Segmentation:
    """The answer, in smaller and smaller tiles as long as the device has no memory for them. Raises: OutOfMemory."""
    work = read.work
    while True:
        sizes: list[int] = []
        try:
            return await _part_after_part(work, model, context, timings, sizes)
        except OutOfMemory as error:
            smaller = TileSize(sizes[-1] // 2, context.settings.tile_halo)
            if smaller.voxels < LEAST_TILE:
                raise
            try:
                work = await to_thread.run_sync(partial(_cut, read, smaller, timings), limiter=context.readers)
            except TooManyVoxels:  # even the smallest tile has to have its margin
                raise error from None


def _cut(read: Cut, tile: TileSize, timings: Timings) -> Segmenting:
    with timings.stage("voxelize"):
        return read.cut(tile)


async def _part_after_part(work: Segmenting, model: Live, context: Context, timings: Timings, sizes: list[int]) -> Segmentation:
    """One forward pass after the other, each in its turn among the other requests. sizes: gets the voxels of each."""

    def voxels_of(part: int) -> Voxels:
        with timings.stage("voxelize"):
            return work.voxelize(part)

    def take(part: int, voxels: Voxels, logits: npt.NDArray[np.float32]) -> None:
        with timings.stage("forward"):
            work.take(part, voxels, torch.from_numpy(logits))

    for part in range(work.parts):
        voxels = await to_thread.run_sync(partial(voxels_of, part), limiter=context.tilers)
        sizes.append(len(voxels))
        logits = await context.scheduler.logits(model.key, voxels, work.num_points(part), timings, per_voxel=True)
        await to_thread.run_sync(partial(take, part, voxels, logits), limiter=context.encoders)
    return work.result()


def label_map_of(model: Live) -> LabelMap:
    label_map = model.processor.manifest.label_map
    assert label_map is not None  # the manifest of a net that segments has one
    return label_map


def _answer(context: Context, write: Callable[[BinaryIO], None], timings: Timings) -> AnswerFile:
    """Stage `encode`. Runs in a thread. Raises: SpoolFull."""
    with timings.stage("encode"):
        return AnswerFile(context.settings.spool_dir, write)


def _write(asked: str, model: Live, read: ReadPoints, found: Segmentation, timings: Timings, out: BinaryIO) -> None:
    label_map = label_map_of(model)
    if asked != JSON_NAME:
        write_answer(asked, Labelled(read.file, read.cloud, found.labels, found.confidence, label_map, same=asked == SAME), out)
        return
    answer = SegmentAnswer(
        model=model.ref,
        num_points=len(read.cloud),
        num_voxels=found.num_voxels,
        filled=found.filled,
        scaled=found.scaled,
        tiles=found.tiles,
        halo=Halo(voxels=found.halo, full=found.full_halo) if found.tiles > 1 else None,
        timings_ms={stage: round(value, 3) for stage, value in timings.ms.items()},
        classes=summary(read.cloud.xyz, found.labels, found.confidence, label_map),
        palette=palette(label_map),
    )
    out.write(answer.model_dump_json().encode())


def accepted(accept: str) -> str:
    """The first format that a header Accept prefers to all others; json where it names none of ours."""
    wanted: list[tuple[float, str]] = []
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        wanted.append((float(quality) if QUALITY.fullmatch(quality) else 0.0, kind))
    for _, kind in sorted((each for each in wanted if each[0] > 0), key=lambda each: -each[0]):
        if found := next((name for name, media_type in MEDIA_TYPES.items() if media_type == kind), None):
            return found
    return "json"


def safe_name(name: str) -> str:
    """A file name that is harmless in a header and on every disk."""
    return UNSAFE.sub("_", name[-NAME_LENGTH:])
