"""POST /v1/segment: a file in, a class for every point of it out."""

import re
from contextlib import ExitStack
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from models.answers import ANSWERS
from service.announced import announced_bytes
from service.answer_file import AnswerFile, InPieces
from service.context import Loaded
from service.problems import documented
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
from service.schemas import SegmentAnswer, SegmentOptions
from service.segmentation import JSON_NAME, MEDIA_TYPES, answer_headers, in_parts, read_points, write_segmented
from service.shadow import shadow_of

router = APIRouter(prefix="/v1", tags=["segment"], route_class=FileRoute)

QUALITY = re.compile(r"[01](\.\d{0,3})?")
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
    with context.admission.enter(announced_bytes(request.headers), request.state.allowance) as ticket:
        model = await context.model(options.model, "segment", ticket)
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
                write = partial(write_segmented, asked, model, read, found, timings)
                body = await to_thread.run_sync(partial(AnswerFile, context.settings.spool_dir, write), limiter=context.encoders)
    if (shadow := shadow_of(request)).chosen(model):
        shadow.segment(model, read.cloud, options, found.labels)
    headers = answer_headers(upload.name, model, read, found, timings)
    return InPieces(body, headers, MEDIA_TYPES[read.fmt], context.admission.hold_answer(body.size))


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
    return JSON_NAME
