"""POST /v1/segment: a file in, a class for every point of it out."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.types import Receive, Scope, Send

from models.answers import ANSWERS, encode, summary
from models.answers.names import answer_name
from models.answers.palette import palette
from models.predictor import Segmentation
from service.context import Loaded
from service.pool import Live
from service.problems import documented
from service.routes.upload_parts import ANSWER_HEADERS, BINARY, FILE_NAME, REQUEST_BODY, TEXT, Read, receive_voxels, said_once
from service.schemas import SegmentAnswer, SegmentOptions
from service.telemetry import Timings, server_timing

router = APIRouter(prefix="/v1", tags=["segment"])

JSON = "application/json"
MEDIA_TYPES = {"json": JSON, **{name: each.media_type for name, each in ANSWERS.items()}}
UNSAFE = re.compile(r"^\.|[^A-Za-z0-9._-]+")
QUALITY = re.compile(r"[01](\.\d{0,3})?")
NAME_LENGTH = 100
PIECE = 1 << 20
HEADERS = ANSWER_HEADERS | {
    "X-Num-Points": {"description": "points of the file, and classes in the answer", "schema": {"type": "integer"}},
    "X-Filled": {"description": "features that the file lacks, filled with the model's own values; absent if there are none", **TEXT},
    "X-Scaled": {"description": "features brought from the file's range of values to the model's; absent if there are none", **TEXT},
    "Content-Disposition": {"description": "a name for the answer, made from that of the file", **TEXT},
}
BINARIES = {each.media_type: BINARY for each in ANSWERS.values()}


@router.post(
    "/segment",
    response_model=SegmentAnswer,
    responses={
        200: {"description": "Counts of each class, or a class for every point", "headers": HEADERS, "content": BINARIES},
        **documented(400, 404, 413, 415, 422, 429, 500, 503, 507),
    },
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [FILE_NAME]},
    dependencies=[Depends(said_once)],
)
async def segment(request: Request, context: Loaded, options: Annotated[SegmentOptions, Query()]) -> Response:
    """Give every point of a cloud a class. The file is sent as for `/v1/classify`; the answer is in the order of its points.

    - `json`: points, share, bounds and confidence of each class that occurs, and the palette of all
    - `label`: little-endian uint32 a point, the id of its class, as SemanticKITTI has them
    - `npz`: arrays labels, ids, confidence and names
    - `raw`: the class of every point, a byte each (two above 256 classes), then the confidence of every point, a little-endian float16 each
    - `ply`: the file's own columns, and label, confidence, label_red, label_green, label_blue after them

    Of a mesh (`off`) the points are those that were drawn from its surface; `ply` has them too.
    """
    model = await to_thread.run_sync(partial(context.pool.get, options.model, "segment"), limiter=context.lookups)
    request.state.model_used = (model.ref.name, model.ref.version)
    fmt = options.format or accepted(request.headers.get("accept", ""))
    timings = Timings(context.telemetry)
    read = await receive_voxels(request, context, model, options, timings)
    found = await context.scheduler.segment(model.predictor, read.voxels, timings)
    body = await to_thread.run_sync(partial(_encode, fmt, model, read, found, timings), limiter=context.encoders)
    headers = {
        "X-Model": f"{model.ref.name}:{model.ref.version}",
        "X-Num-Points": str(len(read.cloud)),
        "Server-Timing": server_timing(timings.ms),
        "Content-Disposition": f'attachment; filename="{safe_name(answer_name(read.name, fmt))}"',
    }
    if found.filled:
        headers["X-Filled"] = ", ".join(found.filled)
    if found.scaled:
        headers["X-Scaled"] = ", ".join(found.scaled)
    return InPieces(body, headers=headers, media_type=MEDIA_TYPES[fmt])


class InPieces(Response):
    """Sent a megabyte at a time, as fast as the client takes it: sent whole, a large body would be copied and kept once more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _pieces(self) -> Iterator[bytes]:
        if len(self.body) <= PIECE:
            yield bytes(self.body)
            return
        whole = memoryview(self.body)
        for start in range(0, len(whole), PIECE):
            yield bytes(whole[start : start + PIECE])


def _encode(fmt: str, model: Live, read: Read, found: Segmentation, timings: Timings) -> bytes:
    """The body of the answer (stage `encode`). Runs in a thread. Raises: BadOption (the format cannot hold a column of the file)."""
    label_map = model.predictor.manifest.label_map
    assert label_map is not None  # the manifest of a net that segments has one
    with timings.stage("encode"):
        if fmt in ANSWERS:
            return encode(fmt, read.cloud, found.labels, found.confidence, label_map)
        answer = SegmentAnswer(
            model=model.ref,
            num_points=len(read.cloud),
            num_voxels=found.num_voxels,
            filled=found.filled,
            scaled=found.scaled,
            timings_ms={stage: round(value, 3) for stage, value in timings.ms.items()},
            classes=summary(read.cloud.xyz, found.labels, found.confidence, label_map),
            palette=palette(label_map),
        )
        return answer.model_dump_json().encode()


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
