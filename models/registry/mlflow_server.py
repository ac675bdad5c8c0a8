"""The connection to an MLflow server: a dead one is told within seconds, its errors become ours, and it does not chatter.

MLflow's client takes what follows from environment variables only; one that is set already keeps its value. Credentials are
MLflow's own business (`MLFLOW_TRACKING_TOKEN`, `MLFLOW_TRACKING_USERNAME`, ...) and never stand in an error or a log.
"""

import functools
import http.client
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from models.errors import RegistryUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.entities import PagedList

T = TypeVar("T")

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",  # who runs the program says where logs go
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # MLflow would repeat for minutes, also what must not happen twice; see `Server.ask`
}
SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
PAGE = 1000


class Absent(Exception):
    """The server has no such model, version or run."""


class Taken(Exception):
    """The server has one of that name already."""


class Server:
    """One MLflow server. Nothing is sent before the first question.

    busy_s: how long it is asked again while it answers 429 or 5xx. rest_s: how long it is left alone once it could not be used.
    """

    def __init__(self, address: str, busy_s: float = 6.0, rest_s: float = 0.0) -> None:
        self.address, self._busy_s, self._rest_s = address, busy_s, rest_s
        self._failed: tuple[str, float] = ("", -math.inf)  # why it could not be used the last time, and when that was

    def ask(self, question: Callable[["MlflowClient"], T]) -> T:
        """What the server answers. A busy server is asked again, so `question` must be one that may be repeated.

        Raises: Absent, Taken, RegistryUnavailable.
        """
        reason, failed_s = self._failed
        if time.monotonic() < failed_s + self._rest_s:
            raise self.unavailable(reason)
        client = self._client
        from mlflow.exceptions import MlflowException

        give_up, pause_s = time.monotonic() + self._busy_s, 0.05
        while True:
            try:
                return question(client)
            except (MlflowException, OSError) as error:
                if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                    raise Absent from None
                if getattr(error, "error_code", None) == "RESOURCE_ALREADY_EXISTS":
                    raise Taken from None
                if not _passing(error) or time.monotonic() > give_up:
                    self._failed = _reason(error), time.monotonic()
                    raise self.unavailable(self._failed[0]) from None  # the chain may hold request headers
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 1.0)

    def ask_all(self, search: Callable[["MlflowClient", str | None], "PagedList[T]"]) -> list[T]:
        """All pages of what the server finds; `search` is called with the token of the page."""
        page = self.ask(lambda client: search(client, None))
        found = list(page)
        while token := page.token:
            page = self.ask(functools.partial(_page, search, token))
            found += page
        return found

    def ensure_model(self, name: str, description: str | None = None) -> None:
        """Make a registered model unless there is one. It has no version yet, so no listing of ours shows it."""
        try:
            self.ask(lambda client: client.create_registered_model(name, description=description))
        except Taken:
            return

    def unavailable(self, reason: str) -> RegistryUnavailable:
        return RegistryUnavailable(f"the MLflow server cannot be used: {reason}", where=self.address)

    @functools.cached_property
    def _client(self) -> "MlflowClient":
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise self.unavailable(f"its client is not installed ({error}): pip install 'fip-server[mlflow]'") from error
        return MlflowClient(tracking_uri=self.address, registry_uri=self.address)


def _page(search: Callable[["MlflowClient", str | None], "PagedList[T]"], token: str, client: "MlflowClient") -> "PagedList[T]":
    return search(client, token)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, outermost first."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _passing(error: BaseException) -> bool:
    """Whether asking again may help: the server was reached, but was busy or let go of an idle connection."""
    from requests.exceptions import RetryError

    return any(
        isinstance(link, RetryError | ConnectionResetError | BrokenPipeError | http.client.RemoteDisconnected) for link in _chain(error)
    )


def _reason(error: BaseException) -> str:
    """One line for people: what the operating system said, else what went wrong first, without credentials."""
    links = list(_chain(error))
    said = [link.strerror for link in links if isinstance(link, OSError) and link.strerror]
    if said:
        text = said[-1]
    elif any(isinstance(link, TimeoutError) for link in links):
        text = f"no answer within {os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT']} s (MLFLOW_HTTP_REQUEST_TIMEOUT)"
    else:
        text = str(links[-1])
    for secret in filter(None, (os.environ.get(name) for name in SECRETS)):
        text = text.replace(secret, "***").replace(repr(secret)[1:-1], "***")
    return " ".join(text.split())[:300]
