"""Which of several ways to run a kernel is the quickest here: measured once for each shape, remembered in the cache directory."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from models.cache import cache_dir

ROUNDS = 3


class Tuner:
    """One file for each device and version of what compiles: a JSON object of key -> number of the way.

    A file that cannot be read or written costs a new measurement, nothing else. Two processes that measure at once both write the
    same kind of file; the later one stays.
    """

    def __init__(self, name: str, time_ms: Callable[[Callable[[], object]], float]) -> None:
        self._name, self._time_ms = "".join(each if each.isalnum() or each in ".-" else "_" for each in name), time_ms
        self._known: dict[str, int] | None = None

    def best(self, key: str, ways: Sequence[Callable[[], object]]) -> int:
        """The number of the quickest way; one that fails is out of the question. Raises: what the last one does where all fail."""
        if self._known is None:
            self._known = self._read()
        found = self._known.get(key)
        if found is None or not 0 <= found < len(ways):
            found = self._known[key] = self._measured(ways)
            self._write()
        return found

    def _measured(self, ways: Sequence[Callable[[], object]]) -> int:
        if len(ways) == 1:
            return 0
        times: dict[int, float] = {}
        failure: Exception | None = None
        for number, way in enumerate(ways):
            try:
                way()  # compiled
                times[number] = min(self._time_ms(way) for _ in range(ROUNDS))
            except Exception as error:  # too much shared memory, a shape that the compiler does not take: each names it otherwise
                failure = error
        if not times:
            assert failure is not None
            raise failure
        return min(times, key=lambda number: times[number])

    def _path(self) -> Path:
        """Raises: RuntimeError (no home)."""
        return cache_dir() / "tuned" / f"{self._name}.json"

    def _read(self) -> dict[str, int]:
        with suppress(OSError, ValueError, RuntimeError):
            found = json.loads(self._path().read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return {key: value for key, value in found.items() if isinstance(value, int)}
        return {}

    def _write(self) -> None:
        with suppress(OSError, RuntimeError):
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**self._read(), **(self._known or {})}, file, indent=1, sort_keys=True)
            Path(part).replace(path)


def cuda_time_ms(run: Callable[[], object]) -> float:
    """By the device's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
