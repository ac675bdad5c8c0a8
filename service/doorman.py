"""Who is told at the door that there is no room: at several times its load, a service is otherwise busy refusing."""

import time
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Response
from starlette.datastructures import Headers

from service.admission import Admission
from service.announced import announced_bytes, much_to_come
from service.errors import Overloaded
from service.problems import INFERENCE, from_error, problem
from service.request_log import UNMATCHED, Outcome, request_id_of, tell
from service.telemetry import Telemetry
from service.tracing import RequestTrace, Tracing
from service.upload_routes import UploadRoutes


class Doorman:
    """Asked by the protocol as soon as it has the head of a request: nothing else is made of one that does not get in."""

    def __init__(self, admission: Admission, telemetry: Telemetry, tracing: Tracing, uploads: UploadRoutes) -> None:
        """uploads: the addresses that files are posted to."""
        self._admission, self._telemetry, self._tracing, self._uploads = admission, telemetry, tracing, uploads

    def refusal(self, method: str, path: str, raw_headers: list[tuple[bytes, bytes]]) -> Response | None:
        """The answer to one that does not get in, which is then told in the log, the metrics and the traces."""
        if method != "POST" or (route := self._uploads.pattern_of(path)) is None:
            return None
        began_s, headers = time.perf_counter(), Headers(raw=raw_headers)
        try:
            self._admission.check(announced_bytes(headers))
        except Overloaded as error:
            return self._refuse(error, path, route, headers, began_s)
        return None

    def problem(self, status: HTTPStatus, code: str, detail: str, seconds: float, headers: Mapping[str, str]) -> Response:
        """The answer to what never became a request, the last of its connection; it has an id and is told like any other."""
        request_id = request_id_of(Headers())
        answer = problem(status, code, detail, path=INFERENCE, headers={**headers, "Connection": "close", "X-Request-ID": request_id})
        tell(Outcome(request_id, "", "", UNMATCHED, int(status), seconds, code), self._telemetry, RequestTrace(None))
        return answer

    def _refuse(self, error: Overloaded, path: str, route: str, headers: Headers, began_s: float) -> Response:
        request_id = request_id_of(headers)
        trace = self._tracing.start("POST", headers, {"http.request.method": "POST", "url.path": path})
        answer = from_error(error, path, sending=much_to_come(headers))
        answer.headers["X-Request-ID"] = request_id
        outcome = Outcome(request_id, "POST", path, route, answer.status_code, time.perf_counter() - began_s, code=error.code)
        tell(outcome, self._telemetry, trace)
        return answer
