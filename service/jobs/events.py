"""Who listens to jobs is told of every change, and now and then that there was none."""

import asyncio

from service.schemas import JobInfo

HEARTBEAT = b": nothing new\n\n"


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
