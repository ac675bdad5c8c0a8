"""What references stood for a moment ago: a registry need not be asked by every request."""

import asyncio

from models.manifest import Task
from service.pool import Live

MOST = 64  # references, any of which a client may have made up


class Recent:
    """Event loop only. Errors are not remembered, and nothing is held on to for longer than it is told: models are let go of."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._found: dict[tuple[str | None, Task | None], Live] = {}

    def get(self, reference: str | None, task: Task | None) -> Live | None:
        """What it stood for, if that is not too long ago."""
        return self._found.get((reference, task))

    def keep(self, reference: str | None, task: Task | None, live: Live) -> None:
        """It was looked up just now."""
        key = reference, task
        if self._seconds and key not in self._found and len(self._found) < MOST:
            self._found[key] = live
            asyncio.get_running_loop().call_later(self._seconds, self._found.pop, key)
