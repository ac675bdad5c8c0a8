"""Which of several ways to run a kernel is the quickest here: measured once for each shape, remembered in the cache directory."""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from models.cache import cache_dir, file_name

ROUNDS = 3
RUNS = 5  # between two looks at the device's clock
HEAD_START = 2_000_000  # cycles of a device, about a millisecond, in which all of them are queued: Python's own time is not measured

Way = Callable[[], object]
_measuring = threading.Lock()  # two that measure at once would measure each other


class Tuner:
    """One file for each device and version of what compiles: a JSON object of key -> name of the way.

    A file that cannot be read or written costs a new measurement, nothing else. Two processes that measure at once both write the
    same kind of file; the later one stays.
    """

    def __init__(self, name: str, time_ms: Callable[[Way], float]) -> None:
        self._name, self._time_ms = file_name(name), time_ms
        self._known: dict[str, str] | None = None

    def best(self, key: str, ways: Mapping[str, Way]) -> str:
        """The name of the quickest way; one that fails is out of the question.

        Raises: what the last one does where all fail; and at once, with nothing kept, where it is the device that fails or is full.
        """
        if self._known is None:
            self._known = self._read()
        if self._known.get(key) not in ways:
            with _measuring:
                if self._known.get(key) not in ways:  # nobody has in the meantime
                    self._known[key] = self._measured(ways)
                    self._write()
        return self._known[key]

    def _measured(self, ways: Mapping[str, Way]) -> str:
        if len(ways) == 1:
            return next(iter(ways))
        times: dict[str, float] = {}
        failure: Exception | None = None
        for name, way in ways.items():
            try:
                way()  # compiled
                times[name] = min(self._time_ms(way) for _ in range(ROUNDS))
            except (torch.OutOfMemoryError, torch.AcceleratorError):  # says nothing of this way
                raise
            except Exception as error:  # too much shared memory, a shape that the compiler does not take: each names it otherwise
                failure = error
        if not times:
            assert failure is not None
            raise failure
        return min(times, key=lambda name: times[name])

    def _path(self) -> Path:
        """Raises: RuntimeError (no home)."""
        return cache_dir() / "tuned" / f"{self._name}.json"

    def _read(self) -> dict[str, str]:
        with suppress(OSError, ValueError, RuntimeError):
            found = json.loads(self._path().read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return {key: value for key, value in found.items() if isinstance(value, str)}
        return {}

    def _write(self) -> None:
        with suppress(OSError, RuntimeError):
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**self._read(), **(self._known or {})}, file, indent=1, sort_keys=True)
            Path(part).replace(path)


def cuda_time_ms(run: Way) -> float:
    """By the device's own clock, which begins once the device has all runs before it."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(HEAD_START)
    begin.record()
    for _ in range(RUNS):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / RUNS


def bucket(rows: int) -> int:
    """Numbers of rows that share a choice: up to eight times as many. Few, so that a warm-up at some sizes knows those in between."""
    return rows.bit_length() // 3
