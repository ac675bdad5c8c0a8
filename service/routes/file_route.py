"""The routes that files are posted to."""

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import cast, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError

from models.errors import BadOption
from service.context import Context, context_of, loaded
from service.schemas import SentFile

Endpoint = Callable[[Request, Context, SentFile], Awaitable[Response]]


class FileRoute(APIRoute):
    """Calls an endpoint (request, context, options), all of whose options are in the query.

    FastAPI reads the endpoint's signature for the documentation only: solving it would take it longer than a small file takes to parse.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        endpoint = cast(Endpoint, self.endpoint)
        kind: type[SentFile] = get_type_hints(endpoint)["options"]
        usual = kind()

        async def handle(request: Request) -> Response:
            context = await loaded(await context_of(request))
            return await endpoint(request, context, options_of(request, kind) if request.scope["query_string"] else usual)

        return handle


def options_of(request: Request, kind: type[SentFile]) -> SentFile:
    """What the query says. Raises: BadOption (an option is given twice), RequestValidationError."""
    given = request.query_params.multi_items()
    for name, times in Counter(name for name, _ in given).items():
        if times > 1:
            raise BadOption("the option is given more than once", where=name[:80])
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from error
