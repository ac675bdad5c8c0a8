"""Taking turns on an MLflow server, which has aliases but no compare-and-set.

Its one atomic act that serves is creating a model version: each gets a number of its own, and numbers grow. So whoever moves
an alias of `name` draws a ticket, a version of the helper model `_fip.moves.name` (no model of ours can be called that); the
lowest live ticket has the turn; deleting the ticket ends it. A killed process leaves its ticket behind, and whoever waits behind
deletes it: at once if it was drawn on this machine with the same cache, for then it names a file whose lock died with its process;
else when it gives no sign of life for ABANDONED_S by his own clock. That is safe: a number means one ticket for ever.

What remains unguarded: the pages of MLflow and other tools do not queue; a process that stops, or a request that lingers, for
longer than ABANDONED_S between the last look at the ticket and the one change after it may act out of turn; a server that
reads from a lagging replica of its database may answer with an old head.
"""

import contextlib
import functools
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from models.durable import is_held, locked
from models.errors import RegistryUnavailable
from models.registry.mlflow_server import PAGE, Absent, Server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as Stored

Act = Callable[[Callable[["MlflowClient"], object]], None]

ABANDONED_S, BEAT_S = 10.0, 2.0
BEAT_TAG = "fip.alive"
LOCK = "turn.lock"
POLL_S = 0.05  # for each ticket ahead, up to 20: those at the back must not keep the server from those at the front


@contextlib.contextmanager
def turn(server: Server, name: str, workspace: Path, hope: Callable[[], object], abandoned_s: float = ABANDONED_S) -> Iterator[Act]:
    """Wait for the turn to change `name` and hold it. What is given makes a change, after a look at whether the turn still lasts.

    workspace: an empty folder of this process, beside those of others. hope: called again and again while waiting; it raises
    when there is nothing left to wait for. Making a change raises RegistryUnavailable if the turn was lost, because this process
    had stopped for too long.
    """
    queue = f"_fip.moves.{name}"
    with locked(workspace / LOCK):
        ticket = _draw(server, queue, workspace.name)
        try:
            _await_turn(server, queue, ticket, workspace.parent, hope, abandoned_s)
            yield functools.partial(_act, server, queue, ticket)
        finally:
            with contextlib.suppress(RegistryUnavailable):  # the next in the queue will take it for abandoned
                _discard(server, queue, ticket)


def _draw(server: Server, queue: str, workspace: str) -> int:
    """A new ticket; an unclear answer is followed by a look at whether there is one."""
    source, tries = f"fip://ticket/{uuid.uuid4().hex}/{workspace}", itertools.count()

    def draw(client: "MlflowClient") -> "Stored":
        drawn = client.search_model_versions(f"source_path = '{source}'", max_results=1) if next(tries) else None
        return drawn[0] if drawn else client.create_model_version(queue, source, await_creation_for=0)

    with contextlib.suppress(Absent):
        return int(server.ask(draw).version)
    server.ensure_model(queue, "Those who move aliases wait here, a version each, for milliseconds. Made by fip; leave it alone.")
    try:
        return int(server.ask(draw).version)
    except Absent:  # somebody deleted the queue at once
        raise _lost(server) from None


def _await_turn(server: Server, queue: str, ticket: int, workspaces: Path, hope: Callable[[], object], abandoned_s: float) -> None:
    watched: dict[int, tuple[str | None, float]] = {}  # ticket ahead -> its last sign of life, and when that was seen first
    beat_at = time.monotonic()
    while ahead := _ahead(server, queue, ticket):
        now = time.monotonic()
        for other in ahead:
            number, sign = int(other.version), other.tags.get(BEAT_TAG)
            if number not in watched or watched[number][0] != sign:
                watched[number] = (sign, now)
            if now - watched[number][1] > abandoned_s or _died_here(workspaces, str(other.source)):
                _discard(server, queue, number)
        if now - beat_at > BEAT_S:
            beat_at = now
            _beat(server, queue, ticket)
        hope()
        time.sleep(POLL_S * min(len(ahead), 20))
    if time.monotonic() - beat_at > BEAT_S / 2:
        _beat(server, queue, ticket)  # those behind count from now on


def _ahead(server: Server, queue: str, ticket: int) -> "list[Stored]":
    """Live tickets before this one. Raises: RegistryUnavailable (this one was deleted)."""
    found = server.ask(lambda client: client.search_model_versions(f"name = '{queue}'", max_results=PAGE, order_by=["version_number ASC"]))
    if len(found) < PAGE and all(int(version.version) != ticket for version in found):
        raise _lost(server)
    return [version for version in found if int(version.version) < ticket]


def _died_here(workspaces: Path, source: str) -> bool:
    """Whether a ticket is of a process of this machine that is dead. One that ended well took its workspace along."""
    lock = workspaces / source.rpartition("/")[2] / LOCK
    return lock.is_file() and not is_held(lock)


def _beat(server: Server, queue: str, ticket: int) -> None:
    """A sign of life, so that a ticket that waits differs from one that was left behind."""
    with contextlib.suppress(Absent):  # the next look at the queue says so
        server.ask(lambda client: client.set_model_version_tag(queue, str(ticket), BEAT_TAG, uuid.uuid4().hex))


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
    return server.unavailable(
        f"the turn to change aliases was taken away, as after {ABANDONED_S:.0f} s of silence; nothing was changed, try again"
    )
