"""Taking turns on an MLflow server, which has aliases but no compare-and-set.

Its one atomic act that serves is creating a model version: each gets a number of its own, and numbers grow. So whoever moves
an alias of `name` draws a ticket, a version of the helper model `_fip.moves.name` (no model of ours can be called that); the
lowest live ticket has the turn; deleting the ticket ends it. A killed process leaves its ticket behind: whoever sees the same
ticket at the head for ABANDONED_S by his own clock deletes it. That is safe, for a number means one ticket for ever.

What remains unguarded: the pages of MLflow and other tools do not queue; a process that stops, or a request that lingers, for
longer than ABANDONED_S between the last look at the ticket and the one change after it may act out of turn; a server that
reads from a lagging replica of its database may answer with an old head.
"""

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from models.errors import RegistryUnavailable
from models.registry.mlflow_server import Absent, Server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as Stored

Act = Callable[[Callable[["MlflowClient"], object]], None]

ABANDONED_S = 10.0
POLL_S = 0.1


@contextlib.contextmanager
def turn(server: Server, name: str) -> Iterator[Act]:
    """Wait for the turn to change `name` and hold it. What is given makes a change, after a look at whether the turn still lasts.

    Making a change raises RegistryUnavailable if the turn was lost, because this process had stopped for too long.
    """
    queue = f"_fip.moves.{name}"
    ticket = _draw(server, queue)
    try:
        _await_turn(server, queue, ticket)
        yield functools.partial(_act, server, queue, ticket)
    finally:
        with contextlib.suppress(RegistryUnavailable):  # the next in the queue will take it for abandoned
            _discard(server, queue, ticket)


def _draw(server: Server, queue: str) -> int:
    """A new ticket; an unclear answer is followed by a look at whether there is one."""
    source = f"fip://ticket/{uuid.uuid4().hex}"

    def draw(client: "MlflowClient") -> "Stored":
        drawn = client.search_model_versions(f"source_path = '{source}'", max_results=1)
        return drawn[0] if drawn else client.create_model_version(queue, source, await_creation_for=0)

    try:
        return int(server.ask(draw).version)
    except Absent:
        server.ensure_model(queue, "Those who move aliases wait here, a version each, for milliseconds. Made by fip; leave it alone.")
        return int(server.ask(draw).version)


def _await_turn(server: Server, queue: str, ticket: int) -> None:
    watched, since = 0, time.monotonic()
    while (head := _head(server, queue)) != ticket:
        if head is None or head > ticket:
            raise _lost(server)
        if head != watched:
            watched, since = head, time.monotonic()
        elif time.monotonic() - since > ABANDONED_S:
            _discard(server, queue, head)
            continue
        time.sleep(POLL_S)


def _head(server: Server, queue: str) -> int | None:
    """The lowest live ticket."""
    found = server.ask(lambda client: client.search_model_versions(f"name = '{queue}'", max_results=1, order_by=["version_number ASC"]))
    return int(found[0].version) if found else None


def _act(server: Server, queue: str, ticket: int, change: Callable[["MlflowClient"], object]) -> None:
    def look_and_change(client: "MlflowClient") -> None:
        if not client.search_model_versions(f"name = '{queue}' and version_number = {ticket}", max_results=1):
            raise _lost(server)
        change(client)

    server.ask(look_and_change)


def _discard(server: Server, queue: str, ticket: int) -> None:
    with contextlib.suppress(Absent):
        server.ask(lambda client: client.delete_model_version(queue, str(ticket)))


def _lost(server: Server) -> RegistryUnavailable:
    return server.unavailable(f"the turn was lost, because nothing was heard of it for {ABANDONED_S:.0f} s; nothing was moved, try again")
