"""What references stood for a moment ago: a registry need not be asked by every request."""

import time

from models.manifest import Task
from service.pool import Live

MOST = 64  # references, any of which a client may have made up


class Recent:
    """Event loop only. Errors are not remembered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._found: dict[tuple[str | None, Task], tuple[Live, float]] = {}

    def get(self, reference: str | None, task: Task) -> Live | None:
        """What it stood for, if that is not too long ago."""
        live, until_s = self._found.get((reference, task), (None, 0.0))
        return live if time.monotonic() < until_s else None

    def keep(self, reference: str | None, task: Task, live: Live) -> None:
        """It was looked up just now."""
        now = time.monotonic()
        if len(self._found) >= MOST:
            self._found = {key: (old, until_s) for key, (old, until_s) in self._found.items() if now < until_s}
        if len(self._found) < MOST:
            self._found[reference, task] = (live, now + self._seconds)
