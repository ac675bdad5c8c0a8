"""/v1/jobs: clouds too large to wait for on a connection."""

from functools import partial
from typing import Annotated, BinaryIO

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from models.errors import BadOption
from service.announced import announced_bytes
from service.answer_file import InPieces, KeptAnswer
from service.context import Context, Loaded
from service.errors import Forbidden, KeyReused
from service.jobs.events import EventStream
from service.jobs.files import Kept, read_through
from service.jobs.records import ID, Asked
from service.pool import Live
from service.problems import documented
from service.request_log import REQUEST_ID
from service.routes.file_route import FileRoute
from service.routes.segment import BINARIES, HEADERS, accepted
from service.routes.upload_parts import FILE_NAME, REQUEST_BODY, TEXT, TIMEOUT, timings_of
from service.schemas import JobInfo, JobList, JobListOptions, ModelRef, SegmentAnswer, SegmentOptions
from service.segmentation import checked
from service.uploads import Upload

LOCATION = {"Location": {"description": "address of the job", **TEXT}}
LONGEST_TYPE = 255  # of a content type that is kept, as of a name
KEY_HEADER = "Idempotency-Key"
KEY = {
    "name": KEY_HEADER,
    "in": "header",
    "description": "of the caller's choice: the same request with the same key is the same job, however often it is sent",
    "schema": {"type": "string", "pattern": f"^{REQUEST_ID.pattern}$"},
}
JOB = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"$ref": "#/components/schemas/JobInfo"}}
EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": JOB}, "required": ["data"]}

posting = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=FileRoute)
others = APIRouter(prefix="/v1/jobs", tags=["jobs"])
router = APIRouter()
JobId = Annotated[str, Path(json_schema_extra={"pattern": f"^{ID}$"})]


@posting.post(
    "",
    status_code=202,
    response_model=JobInfo,
    responses={
        200: {"model": JobInfo, "description": "The job that this Idempotency-Key stands for", "headers": LOCATION},
        202: {"description": "A new job, which is kept whatever happens", "headers": LOCATION},
        **documented(400, 404, 408, 409, 413, 415, 422, 429, 500, 503, 504, 507),
    },
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [FILE_NAME, TIMEOUT, KEY]},
)
async def submit(request: Request, context: Loaded, options: Annotated[SegmentOptions, Query()]) -> Response:
    """Give every point of a cloud a class, in its own time. The file is sent as for `/v1/segment`, whose answer is then the result.

    The answer comes as soon as the file is on the disk. X-Request-Timeout is for that alone.
    """
    owner, key = owner_of(request), key_of(request)
    asked = options.format or accepted(request.headers.get("accept", ""))
    size = announced_bytes(request.headers)
    with context.jobs.intake.key_held(owner, key), context.admission.enter(size, request.state.allowance) as ticket:
        before = await context.jobs.intake.of_key(owner, key)
        if before is None:
            context.jobs.intake.check_room(owner, size or 0)
            model = await context.model(options.model, "segment", ticket)
            request.state.model_used = (model.ref.name, model.ref.version)
        async with context.uploads.receive(request, options.input_format, timings_of(request), ticket) as upload:

            def asks(kept: Kept) -> Asked:
                ref = model.ref if before is None else before.asked.model
                return asked_of(ref, options, asked, upload, kept)

            limiter = context.readers_of(upload.size)
            if before is None:
                file = await to_thread.run_sync(partial(_checked, upload, model, options, asked, context), limiter=limiter)
                job = await context.jobs.intake.accept(owner, key, file, upload.size, asks)
            else:
                job = before
                if asks(await to_thread.run_sync(_received, upload, limiter=limiter)) != before.asked:
                    raise KeyReused("this key was sent with another file, or other options, before", where=KEY_HEADER)
        ticket.is_paid_later()
        info = await context.jobs.info_of(job)
    return Response(info.model_dump_json(), 202 if before is None else 200, {"Location": info.links.job}, "application/json")


def asked_of(model: ModelRef, options: SegmentOptions, asked: str, upload: Upload, kept: Kept) -> Asked:
    said = {"name": upload.name, "content_type": upload.content_type[:LONGEST_TYPE]}
    return Asked(model=model, options=options, format=asked, **said, bytes=kept.bytes, sha256=kept.sha256)


def _checked(upload: Upload, model: Live, options: SegmentOptions, asked: str, context: Context) -> BinaryIO:
    """The file that came, if a look at its head does not show that the job would fail. In a thread. Raises: as `checked`."""
    file = upload.file()
    with checked(file, upload, model, options, asked, context.settings):
        return file


def _received(upload: Upload) -> Kept:
    return read_through(upload.file())


@others.get("", responses=documented(403, 422, 503))
async def list_jobs(request: Request, context: Loaded, options: Annotated[JobListOptions, Query()]) -> JobList:
    """The caller's jobs, the newest first. Where strangers may ask without a key there is no list: who has the id of a job has the job."""
    if context.settings.allow_anonymous and not context.keys.required:
        raise Forbidden("without keys nobody is told of the jobs of others; 202 named the id of yours", where="scope")
    return JobList(jobs=tuple(await context.jobs.newest(owner_of(request), options.limit)))


@others.get("/{id}", responses=documented(404, 503))
async def show_job(request: Request, id: JobId, context: Loaded) -> JobInfo:
    """How far a job is."""
    return await context.jobs.info(id, owner_of(request))


@others.get(
    "/{id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events: the job, at every change", "content": {"text/event-stream": {"schema": EVENT}}},
        **documented(404, 429, 503),
    },
)
async def listen(request: Request, id: JobId, context: Loaded) -> EventStream:
    """The same as events, one at every change: `progress`, then `done`, `failed`, `cancelled` or `expired`, which is the last."""
    owner = owner_of(request)
    await context.jobs.info(id, owner)
    events = context.jobs.listen(id, owner, lambda: context.keys.in_force(owner))
    return EventStream(events, context.jobs.listeners.listening(owner))


@others.get(
    "/{id}/result",
    response_model=SegmentAnswer,
    responses={
        200: {"description": "What `/v1/segment` would have answered", "headers": HEADERS, "content": BINARIES},
        **documented(404, 409, 410, 503),
    },
)
async def show_result(request: Request, id: JobId, context: Loaded) -> Response:
    """The result of a job that is done, until it expires."""
    result, file = await context.jobs.result(id, owner_of(request))
    request.state.model_used = tuple(result.headers["X-Model"].split(":", 1))
    return InPieces(KeptAnswer(file, result.bytes), result.headers, result.media_type, context.admission.hold_answer(0))


@others.delete("/{id}", responses=documented(404, 429, 503, 507))
async def delete_job(request: Request, id: JobId, context: Loaded) -> JobInfo:
    """Cancel a job: one that waits at once, one that runs within a forward pass. Of one that is done, remove the result."""
    return await context.jobs.delete(id, owner_of(request))


def owner_of(request: Request) -> str:
    """Whose jobs a request may see."""
    return str(request.state.key_id)


def key_of(request: Request) -> str | None:
    """Raises: BadOption."""
    key = request.headers.get(KEY_HEADER)
    if key is not None and not REQUEST_ID.fullmatch(key):
        raise BadOption(f"at most 128 letters, digits and any of . _ : -, not {key[:40]!r}", where=KEY_HEADER)
    return key


router.include_router(posting)
router.include_router(others)
