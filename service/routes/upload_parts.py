"""What requests with a file have in common: how they are described, and the way from the body to voxels."""

from dataclasses import dataclass
from functools import partial
from typing import cast

from anyio import to_thread
from fastapi import Request

from models.io import FORMATS, read_cloud
from models.manifest import Axis
from models.pointcloud import PointCloud
from models.voxelize import Voxels
from service.admission import Ticket
from service.context import Context
from service.middleware import LONGEST_S
from service.pool import Live
from service.schemas import FileOptions
from service.telemetry import Timings
from service.uploads import Upload

BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}}
FILE_TYPES = sorted({kind for each in FORMATS.values() for kind in each.content_types})
REQUEST_BODY = {
    "required": True,
    "content": {"application/octet-stream": BINARY, **dict.fromkeys(FILE_TYPES, BINARY), "multipart/form-data": FORM},
}
TEXT = {"schema": {"type": "string"}}
FILE_NAME = {"name": "X-Filename", "in": "header", "description": "name of a file sent as the body; its ending says the format", **TEXT}
TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "seconds after which the client no longer wants the answer; 504 then, and no work is done for it any more",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_S},
}
ANSWER_HEADERS = {
    "X-Model": {"description": "NAME:VERSION of the model that answered", **TEXT},
    "Server-Timing": {"description": "milliseconds of each stage", **TEXT},
}


def timings_of(request: Request) -> Timings:
    """The stages of a request, which the middleware began to time."""
    return cast(Timings, request.state.timings)


@dataclass(frozen=True)
class Read:
    """A file that became voxels. name: as the caller wrote it; cloud: as it was read."""

    name: str
    cloud: PointCloud
    voxels: Voxels


async def receive_voxels(request: Request, context: Context, model: Live, options: FileOptions, ticket: Ticket) -> Read:
    """Receive, parse and voxelize the file of a request.

    Raises: what `Uploads.receive`, `read_cloud`, `Predictor.voxelize` and `Ticket` do.
    """
    timings = timings_of(request)
    async with context.uploads.receive(request, options.input_format, timings, ticket) as upload:
        work = partial(read_voxels, upload, model, options, timings, max_points=context.settings.max_points)
        with context.scheduler.coming():
            read = await to_thread.run_sync(work, limiter=context.readers_of(upload.size))
    timings.facts["num_points"] = len(read.cloud)
    ticket.hold_points(len(read.cloud))
    return read


def read_voxels(upload: Upload, model: Live, options: FileOptions, timings: Timings, *, max_points: int) -> Read:
    """Parse and voxelize (the stages of these names), by the functions that training uses. Runs in a thread."""
    with timings.stage("read"):
        file = upload.file()
    with timings.stage("parse"):
        cloud = read_cloud(
            file, options.input_format, name=upload.name, content_type=upload.content_type, max_points=max_points, extra=False
        )
    with timings.stage("voxelize"):
        voxels = model.processor.voxelize(cloud, up=cast(Axis | None, options.up), unit=options.unit)
    upload.spool.close()  # here, to save the way to another thread
    return Read(upload.name, cloud, voxels)
