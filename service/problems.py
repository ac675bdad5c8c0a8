"""Errors to answers: RFC 9457 problem documents, one table from error class to HTTP status.

The codes of `models.errors` pass through unchanged, so a script may rely on them; the statuses live only here.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from anyio import move_on_after
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from models import errors
from models.errors import FipError
from service.announced import much_to_come
from service.errors import (
    AnswerTooLarge,
    BodyTooLarge,
    DeadlineExceeded,
    Expired,
    Forbidden,
    ForeignHost,
    ForeignOrigin,
    JobsOff,
    KeyInUse,
    KeyReused,
    ModelTooLarge,
    NotDone,
    NotReady,
    OutOfMemory,
    Overloaded,
    SlowBody,
    SpoolFull,
    Unauthorized,
    UnknownJob,
    UnsupportedEncoding,
)
from service.schemas import Problem

LOG = logging.getLogger("fip.service")
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
LINGER_S = 1.0
KNOWN_LIMIT = 100  # names listed in one answer
CANNOT = "the service cannot do this at the moment; its log says why"
FAILED = "the service failed; its log has the details"
INFERENCE = "/v2"  # addresses of the Open Inference Protocol, whose clients read `error`


# The nearest class in an error's ancestry decides; a class that is not here is a failure of the service.
STATUSES: dict[type[FipError], HTTPStatus] = {
    errors.InputError: HTTPStatus.BAD_REQUEST,
    errors.BadOption: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnsupportedFormat: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.MissingCoordinates: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.CloudError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooManyPoints: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooManyVoxels: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnknownModel: HTTPStatus.NOT_FOUND,
    errors.BadModelName: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.WrongTask: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.AliasConflict: HTTPStatus.CONFLICT,
    errors.RegistryUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    ForeignOrigin: HTTPStatus.FORBIDDEN,
    ForeignHost: HTTPStatus.MISDIRECTED_REQUEST,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    AnswerTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedEncoding: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    SlowBody: HTTPStatus.REQUEST_TIMEOUT,
    SpoolFull: HTTPStatus.INSUFFICIENT_STORAGE,
    OutOfMemory: HTTPStatus.INSUFFICIENT_STORAGE,
    ModelTooLarge: HTTPStatus.INSUFFICIENT_STORAGE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
    JobsOff: HTTPStatus.SERVICE_UNAVAILABLE,
    UnknownJob: HTTPStatus.NOT_FOUND,
    NotDone: HTTPStatus.CONFLICT,
    Expired: HTTPStatus.GONE,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyInUse: HTTPStatus.CONFLICT,
}
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
FOR_THE_OPERATOR = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.INSUFFICIENT_STORAGE)  # logged as errors
HTTP_CODES = {HTTPStatus.NOT_FOUND: "not_found", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}


class Lingering(Response):
    """Answers at once, then throws away what the client still sends, for a moment, before the connection closes.

    A connection closed on a client in the middle of sending is reset, and the reset can overtake the answer.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.body, answer.status_code, answer.headers, answer.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if (discard := scope.get("state", {}).get("discard")) is not None:
            await discard(LINGER_S)
        else:  # behind another server than ours
            with move_on_after(LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The `responses` of a route that may answer with these problems. `describe_problems` adds the schema they refer to."""
    return {status: _documented(HTTPStatus(status)) for status in statuses}


def _documented(status: HTTPStatus) -> dict[str, object]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described: dict[str, object] = {"description": status.phrase, "content": content}
    if status in BUSY:
        described["headers"] = {"Retry-After": {"description": "seconds to wait before trying again", "schema": {"type": "integer"}}}
    return described


def describe_problems(app: FastAPI) -> None:
    """Put the schema of problems into the description of the app. A route's `model=` would do it too, but as application/json.

    The framework adds a refusal of its own to every operation with parameters that documents no 422; ours that do not cannot answer it.
    """
    description = app.openapi()
    schemas = description["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for operations in description["paths"].values():
        for operation in operations.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def status_of(error: type[FipError]) -> HTTPStatus:
    """HTTP status of an error class."""
    for ancestor in error.__mro__:
        if issubclass(ancestor, FipError) and ancestor in STATUSES:
            return STATUSES[ancestor]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    path: str = "",
    where: str | None = None,
    known: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document as a response. path: that was asked, where there was one."""
    document = Problem(
        type=f"urn:fip:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=int(status),
        detail=detail,
        code=code,
        where=where,
        known=tuple(known)[:KNOWN_LIMIT] or None,
        error=(f"{where}: {detail}" if where else detail) if (path + "/").startswith(f"{INFERENCE}/") else None,
    )
    return Response(document.model_dump_json(exclude_none=True), int(status), headers, MEDIA_TYPE)


def hidden(error: FipError) -> bool:
    """Whether what went wrong inside the service stays in its log; a damaged model is named."""
    return status_of(type(error)) == HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, errors.BadCheckpoint)


def detail_of(error: FipError) -> str:
    """What a caller is told of an error."""
    return CANNOT if hidden(error) else error.detail


def from_error(error: FipError, path: str = "", *, sending: bool = False) -> Response:
    """The answer to an error raised on purpose, see `hidden`.

    path: that was asked. sending: the client has much of its body left to send, which nobody will read.
    """
    status = status_of(type(error))
    if hidden(error):
        return problem(status, error.code, CANNOT, path=path)
    headers: dict[str, str] = {}
    if status in BUSY and not isinstance(error, JobsOff):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)) if isinstance(error, Overloaded) else RETRY_AFTER_S)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if sending or isinstance(error, (BodyTooLarge, SlowBody, SpoolFull)):
        headers["Connection"] = "close"
        return Lingering(problem(status, error.code, error.detail, path=path, where=error.where, headers=headers))
    return problem(status, error.code, error.detail, path=path, where=error.where, known=error.known, headers=headers)


def unexpected(path: str = "") -> Response:
    """The answer to an error nobody foresaw."""
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", f"{FAILED} under this X-Request-ID", path=path)


async def on_fip_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FipError)
    if status_of(type(error)) in FOR_THE_OPERATOR:
        fields = {"request_id": request.state.request_id, "code": error.code, "error": str(error), "path": request.url.path}
        LOG.error("failed", extra={"fields": fields})
    request.state.problem_code = error.code
    return from_error(error, request.url.path, sending=isinstance(error, Overloaded) and much_to_come(request.headers))


async def on_bad_option(request: Request, error: Exception) -> Response:
    """FastAPI's list of validation errors becomes one problem: the first error, named by its option."""
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, object] = error.errors()[0]
    location = first.get("loc")
    where = str(location[-1]) if isinstance(location, Sequence) and location else None
    context = first.get("ctx")
    known = context.get("known", ()) if isinstance(context, Mapping) else ()
    request.state.problem_code = errors.BadOption.code
    strange = first.get("type") == "extra_forbidden"
    detail = "this route has no such option; /docs lists those it has" if strange else str(first.get("msg"))
    return problem(STATUSES[errors.BadOption], errors.BadOption.code, detail, path=request.url.path, where=where, known=known)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Unknown address, wrong method and whatever else the framework refuses."""
    assert isinstance(error, HTTPException)
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    code = HTTP_CODES.get(status, "http_error")
    path = request.url.path
    return problem(status, code, f"{request.method} {path}: {error.detail}", path=path, headers=headers)


def _methods(request: Request) -> list[str]:
    """Those of all routes of an address; the framework names those of the first."""
    found = (route for route in request.app.routes if isinstance(route, Route) and route.matches(request.scope)[0] == Match.PARTIAL)
    return sorted({method for route in found for method in route.methods or ()})
