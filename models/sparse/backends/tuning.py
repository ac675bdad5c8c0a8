"""Which of several ways to run a kernel is the quickest here: measured once for each shape, remembered in the cache directory."""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from models.cache import cache_dir, file_name
from models.memory_errors import is_out_of_memory
from models.sparse.backends.turns import TURNS

ROUNDS = 3
RUNS = 5  # between two looks at the device's clock
HEAD_START = 2_000_000  # cycles of a device, about a millisecond, in which all of them are queued: Python's own time is not measured

Way = Callable[[], object]
_choosing = threading.Lock()  # two that measure at once would measure each other


class Tuner:
    """One file for each device and version of what compiles: a JSON object of key -> name of the way.

    A file that cannot be read or written costs a new measurement, nothing else. Two processes that measure at once both write the
    same kind of file; the later one stays.
    """

    def __init__(self, name: str, time_ms: Callable[[Way], float], *, built: bool = False) -> None:
        """built: the ways need no compiler."""
        self._name, self._time_ms, self._built = file_name(name), time_ms, built
        self._known: dict[str, str] | None = None
        self._first = threading.Lock()  # who reads the file
        self._short = set[str]()  # of those, what was found while there was no memory for all ways: for this process, and not kept
        self._stand_ins: dict[str, str] = {}  # ways that work, for who measures nothing

    def best(self, key: str, ways: Mapping[str, Way]) -> str:
        """The name of the quickest way. One that fails is out of the question; one that runs out of memory, until the process ends.

        Where nothing is measured (see models.sparse.backends.turns) and nothing known, the first way that works. Raises: where all ways
        fail, what one of them does, want of memory before anything else; at once, with nothing kept, where it is the device that fails.
        """
        known = self._all_known()
        if known.get(key) not in ways:
            if TURNS.waited_for or (TURNS.untuned and not self._built):
                return self._stand_in(key, ways)
            with _choosing:
                if known.get(key) not in ways:  # nobody has in the meantime
                    known[key] = self._measured(key, ways)
                    self._write()
        return known[key]

    def known(self, key: str, ways: Container[str]) -> str | None:
        """What is known to be the quickest, if it is one of these: for who would have to make the ways to ask for the best."""
        name = self._all_known().get(key)
        return name if name in ways else None

    def _all_known(self) -> dict[str, str]:
        with self._first:
            if self._known is None:
                self._known = self._read()
        return self._known

    def _stand_in(self, key: str, ways: Mapping[str, Way]) -> str:
        if self._stand_ins.get(key) not in ways:
            self._stand_ins[key] = _first_that_works(ways)
        return self._stand_ins[key]

    def _measured(self, key: str, ways: Mapping[str, Way]) -> str:
        if len(ways) == 1:
            return next(iter(ways))
        times: dict[str, float] = {}
        failures: list[Exception] = []
        for name, way in ways.items():
            try:
                way()  # compiled
                times[name] = min(self._alone_ms(way) for _ in range(ROUNDS))
            except Exception as error:
                failures.append(_of_the_way(error))
        if not times:
            raise _told(failures)
        if any(is_out_of_memory(failure) for failure in failures):
            self._short.add(key)
        return min(times, key=lambda name: times[name])

    def _alone_ms(self, way: Way) -> float:
        with TURNS.alone():
            return self._time_ms(way)

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
        kept = {key: name for key, name in (self._known or {}).items() if key not in self._short}
        with suppress(OSError, RuntimeError):
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({**self._read(), **kept}, file, indent=1, sort_keys=True)
            Path(part).replace(path)


def _first_that_works(ways: Mapping[str, Way]) -> str:
    if len(ways) == 1:
        return next(iter(ways))
    failures: list[Exception] = []
    for name, way in ways.items():
        try:
            way()
        except Exception as error:
            failures.append(_of_the_way(error))
        else:
            return name
    raise _told(failures)


def _of_the_way(error: Exception) -> Exception:
    """What was raised, without its traceback, which holds what was computed with. Raises: it, where it says nothing of the way.

    Too much shared memory, a shape that the compiler does not take: each library names it otherwise.
    """
    if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
        raise error
    return error.with_traceback(None)


def _told(failures: list[Exception]) -> Exception:
    """Of all that was raised: whoever is told that there was no memory can ask for less."""
    return next((failure for failure in failures if is_out_of_memory(failure)), failures[-1])


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
