"""Who listens to jobs is told of every change, and now and then that there was none; so many may listen."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, contextmanager

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.errors import TooManyListeners
from service.schemas import JobInfo

RETRY_AFTER_S = 10.0
HEARTBEAT = b": nothing new\n\n"


class Listeners:
    """How many listen, in all and of each key. Event loop only."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    @contextmanager
    def listening(self, owner: str) -> Iterator[None]:
        """One more, as long as it holds. Raises: TooManyListeners."""
        if self._counts.total() >= self._most:
            raise TooManyListeners(f"{self._most} listen to jobs already; try again later", retry_after_s=RETRY_AFTER_S)
        if owner and self._counts[owner] >= max(1, self._most // 2):
            raise TooManyListeners(
                f"{self._counts[owner]} listen to jobs with this key already; try again later", retry_after_s=RETRY_AFTER_S
            )
        self._counts[owner] += 1
        try:
            yield
        finally:
            self._counts[owner] -= 1
            self._counts += Counter()  # without those that are none


class EventStream(StreamingResponse):
    """An answer that counts among those of listeners until it has ended, however it does."""

    def __init__(self, events: AsyncGenerator[bytes, None], listening: AbstractContextManager[None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._listening = listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: TooManyListeners."""
        with self._listening:
            await super().__call__(scope, receive, send)


class Bells:
    """One for each job that is listened to, rung once at its next change. Event loop only."""

    def __init__(self) -> None:
        self._bells: dict[str, asyncio.Event] = {}

    def of(self, job: str) -> asyncio.Event:
        """To be taken before the job is looked at, so that no change falls between."""
        return self._bells.setdefault(job, asyncio.Event())

    def ring(self, job: str) -> None:
        if bell := self._bells.pop(job, None):
            bell.set()

    def ring_all(self) -> None:
        for job in list(self._bells):
            self.ring(job)


def event_of(info: JobInfo, text: str, number: int) -> bytes:
    """A server-sent event. text: the job as JSON, which has no line breaks."""
    kind = "progress" if info.state in ("queued", "running") else info.state
    return f"event: {kind}\nid: {number}\ndata: {text}\n\n".encode()
