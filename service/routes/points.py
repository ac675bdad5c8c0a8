"""POST /v1/points: a file in, its points out, as a browser draws them."""

from functools import partial
from typing import Annotated, BinaryIO

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from models.io import read_cloud
from models.pointcloud import PointCloud
from service.announced import announced_bytes
from service.answer_file import AnswerFile, InPieces
from service.columns import MEDIA_TYPE, packed, write_packed
from service.context import Loaded
from service.problems import documented
from service.routes.file_route import FileRoute
from service.routes.upload_parts import BINARY, FILE_NAME, REQUEST_BODY, TIMEOUT, timings_of
from service.schemas import PointsOptions
from service.telemetry import Timings, server_timing
from service.uploads import Upload

router = APIRouter(prefix="/v1", tags=["points"], route_class=FileRoute)


@router.post(
    "/points",
    response_class=Response,
    responses={
        200: {"description": "The points, a column after the other", "content": {MEDIA_TYPE: BINARY}},
        **documented(400, 413, 408, 415, 422, 429, 500, 503, 504, 507),
    },
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [FILE_NAME, TIMEOUT]},
)
async def points(request: Request, context: Loaded, options: Annotated[PointsOptions, Query()]) -> Response:
    """Read a file and answer its points as columns for typed arrays, in the order and frame of the file; no model is asked.

    Four bytes say how long the head is (little-endian), then comes the head in JSON: `num_points` of the file, `shown` of them, `origin`,
    and `columns` with `name`, `type` (as numpy writes it), `width`, `offset` from the end of the head in bytes, and `extra`, whether the
    name is the file's. The columns are `xyz` from `origin` on, `rgb`, `intensity`, `row` where only some points are shown, and others.
    """
    timings = timings_of(request)
    with context.admission.enter(announced_bytes(request.headers), request.state.allowance) as ticket:
        async with context.uploads.receive(request, options.input_format, timings, ticket) as upload:
            read = partial(_cloud, upload, options, timings, context.settings.max_points)
            cloud = await to_thread.run_sync(read, limiter=context.readers_of(upload.size))
            timings.facts["num_points"] = len(cloud)
            ticket.hold_points(len(cloud))
            write = partial(_write, cloud, options.most, timings)
            body = await to_thread.run_sync(partial(AnswerFile, context.settings.spool_dir, write), limiter=context.encoders)
    return InPieces(body, {"Server-Timing": server_timing(timings.ms)}, MEDIA_TYPE, context.admission.hold_answer(body.size))


def _cloud(upload: Upload, options: PointsOptions, timings: Timings, max_points: int) -> PointCloud:
    with timings.stage("read"):
        file = upload.file()
    with timings.stage("parse"):
        return read_cloud(file, options.input_format, name=upload.name, content_type=upload.content_type, max_points=max_points)


def _write(cloud: PointCloud, most: int, timings: Timings, out: BinaryIO) -> None:
    with timings.stage("encode"):
        write_packed(packed(cloud, most), out)
