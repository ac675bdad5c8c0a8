"""Who may what: one table, and the middleware that holds to it."""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import FipError
from service.announced import announced_bytes, much_to_come
from service.auth import keys
from service.auth.doors import HARMLESS, Doors
from service.auth.key_ring import KeyRing
from service.errors import Forbidden, Unauthorized
from service.problems import from_error

# Read by anybody: whether the service is well, what it is, and how it is asked.
OPEN = frozenset({"/", "/docs", "/openapi.json", "/v2", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
OPEN_BELOW = ("/static-offline-docs/", "/ui/")
METRICS = "/metrics"
CHANGED_BY_ADMIN = ("/v1/models", "/v2/repository")  # and everything below
BEARER = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


def needed(method: str, path: str) -> keys.Scope | None:
    """The scope that a key needs for this, None where nobody needs one. What is not in the table needs `infer`."""
    reads = method in HARMLESS
    if reads and (path in OPEN or path.startswith(OPEN_BELOW)):
        return None
    if path == METRICS:
        return "metrics"
    if not reads and any(path == each or path.startswith(f"{each}/") for each in CHANGED_BY_ADMIN):
        return "admin"
    return "infer"


class AccessMiddleware:
    """Plain ASGI, within RequestMiddleware. Whoever is refused is so before a byte of the body is read.

    Those who get in have in their state `key_id` (empty without keys) and `allowance` (None if the key has none).
    """

    def __init__(self, app: ASGIApp, ring: KeyRing, doors: Doors, *, strangers: bool) -> None:
        """strangers: where there are no keys, other machines may ask."""
        self._app, self._ring, self._doors, self._strangers = app, ring, doors, strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._let_in(scope)
        except FipError as error:
            scope["state"]["problem_code"] = error.code
            await from_error(error, scope["path"], sending=_sending(scope["headers"]))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _let_in(self, scope: Scope) -> None:
        """Raises: ForeignHost, ForeignOrigin, Unauthorized, Forbidden."""
        state, headers, method, path = scope["state"], scope["headers"], scope["method"], scope["path"]
        state["key_id"], state["allowance"] = "", None
        self._doors.check(method, path, _values(headers, b"host"), _values(headers, b"origin"))
        wanted = needed(method, path)
        if not self._ring.required:
            if wanted == "admin" and self._strangers:
                raise Forbidden("this needs a key with the scope admin, and the service has no keys", where="scope")
            return
        if wanted is None:
            return
        key = self._key_of(headers)
        state["key_id"] = key.id
        if wanted not in key.scopes:
            raise Forbidden(f"this needs a key with the scope {wanted}; the key {key.id} has {', '.join(key.scopes)}", where="scope")
        state["allowance"] = self._ring.allowance(key.id)

    def _key_of(self, headers: list[tuple[bytes, bytes]]) -> keys.Key:
        """Raises: Unauthorized, which does not say what was wrong with the key."""
        bearers = [BEARER.fullmatch(value) for value in _values(headers, b"authorization")]
        presented = [*(match[1] for match in bearers if match), *_values(headers, b"x-api-key")]
        if not presented:
            raise Unauthorized("this needs a key, in Authorization: Bearer KEY or in X-API-Key: KEY")
        if len(presented) > 1:
            raise Unauthorized("more than one key came with the request")
        if (key := self._ring.find(presented[0])) is None:
            raise Unauthorized("this key is unknown, revoked or expired")
        return key


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Of a header; ASGI has their names in lower case."""
    return [value for each, value in headers if each == name]


def _sending(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether there is a body, and so much of it that the connection is rather closed."""
    said = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in (b"content-length", b"transfer-encoding")}
    return "transfer-encoding" in said or (announced_bytes(said) is not None and much_to_come(said))
