"""One damaged file through the doors `read_cloud` and `write_answer`, and what it took: how long, how much memory, how it ended.

Allowed are success and a typed InputError; anything else that is raised, panics and warnings too, is a failure, and so is more than
TIME_LIMIT_S or more memory than `memory_limit`.
"""

import ctypes
import gc
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from models.answers import SAME, Labelled, answer_format, check_answer, write_answer
from models.errors import InputError
from models.io import CloudFile, open_cloud
from models.labels import LabelMap, load_label_map
from tests.fuzz.seeds import seeds_of

TIME_LIMIT_S = 1.0
FREE_BYTES = 32 << 20
TIMES_DECODED = 4
MOST_POINTS = 1_000_000  # what a caller admits, as the service does
ANSWERED = 5  # every so manieth case, if it can be read, is answered, too

os.environ["RUST_BACKTRACE"] = "0"  # to say where it was, a panic of lazrs would take 50 MB, once
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Outcome:
    """How the file was read with its format said. refused: the code of the error, "" where it was read.

    seconds: wall time of the slowest of the steps (reading, reading with the format guessed, answering); cpu_seconds the same of
    processor time; memory and limit of the step that came nearest to its limit. failure: what must not happen, "" where nothing did.
    """

    refused: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    limit: int = FREE_BYTES
    answered: bool = False
    failure: str = ""

    @property
    def is_slow(self) -> bool:
        return self.seconds > TIME_LIMIT_S

    @property
    def is_large(self) -> bool:
        return self.memory > self.limit


@dataclass
class _Step:
    """What reading or writing came to: error, points and columns of the file."""

    error: BaseException | None = None
    values: int = 0


def memory_limit(size: int, values: int) -> int:
    """Bytes that a step may take: four times what the file decodes to, and 32 MB. size: of the file in bytes; values: N x columns of the
    rows that were announced and read, each of up to eight bytes, 0 where the file was refused.
    """
    return TIMES_DECODED * max(size, 8 * values) + FREE_BYTES


def attempt(data: bytes, fmt: str, case: int = 0) -> Outcome:
    """Read a file with its format said; if `case` is odd also with the format guessed, and if it is a multiple of five answer it.

    Memory is how much the resident memory of this process (VmHWM) rose above what it was before the step; memory that was freed is given
    back to the system before, so that it is not counted as there already. E57 is read in a process of its own: of that it is what it
    rose above such a process at a small good file. Only the largest of all such processes so far is known (RUSAGE_CHILDREN), so that a
    smaller one after it counts as nothing; the largest of a thousand cases is never missed.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        done = [_measured(lambda: _read(Path(file.name), fmt), len(data))]
        if case % 2:
            done.append(_measured(lambda: _read(file.file, None), len(data)))  # type: ignore[arg-type]
        answered = case % ANSWERED == 0 and isinstance(done[0][0].error, type(None))
        if answered:
            done.append(_measured(lambda: _answer(Path(file.name), fmt, same=case % 2 == 0), len(data)))
    error = done[0][0].error
    nearest = max(done, key=lambda each: each[3] - each[4])
    return Outcome(
        refused=error.code if isinstance(error, InputError) else "",
        seconds=max(each[1] for each in done),
        cpu_seconds=max(each[2] for each in done),
        memory=nearest[3],
        limit=nearest[4],
        answered=answered and done[-1][0].error is None,
        failure="".join(filter(None, (_said(each[0].error) for each in done)))[:4000],
    )


def _measured(step: Callable[[], int], size: int) -> tuple[_Step, float, float, int, int]:
    """What a step came to, its seconds, its processor seconds, its memory and the limit of that."""
    out = _Step()
    unraisable: list[BaseException] = []
    kept_hook = sys.unraisablehook
    sys.unraisablehook = lambda seen: unraisable.append(seen.exc_value or RuntimeError(str(seen)))
    before, children = _reset_peak(), _children_peak()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            out.values = step()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of compiled readers are no Exceptions
        out.error = error
    finally:
        seconds, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
        memory = _peak() - before
        if (largest := _children_peak()) > children:
            memory += max(0, largest - _e57_process())
        sys.unraisablehook = kept_hook
    if unraisable:
        out.error = unraisable[0]
    return out, seconds, cpu, memory, memory_limit(size, out.values)


def _said(error: BaseException | None) -> str:
    """What is wrong about an error: nothing where it is one that callers expect."""
    if error is None or isinstance(error, InputError):
        return ""
    return "".join(traceback.format_exception(error))


def _read(source: Path, fmt: str | None) -> int:
    with open_cloud(source, fmt, max_points=MOST_POINTS) as file:
        values = file.records.count * len(file.records.names)
        assert len(file.cloud().checked()) == file.records.count
        return values


def _answer(path: Path, fmt: str, same: bool) -> int:
    """The answer in the format of the file, unchanged but for what is added, or as if asked for by its name."""
    label_map = _label_map()
    with open_cloud(path, fmt, max_points=MOST_POINTS) as file, tempfile.TemporaryFile() as out:
        name = SAME if same else answer_format(SAME, file)
        check_answer(name, file, label_map)
        cloud = file.cloud(extra=False)
        labels = np.arange(len(cloud), dtype=np.uint16) % len(label_map)
        write_answer(name, Labelled(file, cloud, labels, np.full(len(cloud), 0.5, np.float32), label_map, same), out)
        return _values(file)


def _values(file: CloudFile) -> int:
    return file.records.count * (len(file.records.names) + 5)


@cache
def _label_map() -> LabelMap:
    return load_label_map("semantickitti19")


# --- time and memory of this process


def _cpu_seconds() -> float:
    """Of this process and its children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _reset_peak() -> int:
    """Forget the highest resident memory; the bytes resident now."""
    gc.collect(0)
    _LIBC.malloc_trim(0)
    Path("/proc/self/clear_refs").write_bytes(b"5")
    return _peak()


def _children_peak() -> int:
    """The highest resident memory of any process that was started here and has ended, in bytes."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


@cache
def _e57_process() -> int:
    """The same of a process that reads a small good E57 file, measured in one of its own."""
    reading, writing = os.pipe()
    if not os.fork():
        try:
            with tempfile.NamedTemporaryFile() as file:
                file.write(seeds_of("e57")[0])
                file.flush()
                _read(Path(file.name), "e57")
            os.write(writing, str(_children_peak()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return int(pipe.read())


def _peak() -> int:
    """The highest resident memory of this process since the last reset, in bytes."""
    status = Path("/proc/self/status").read_bytes()
    place = status.index(b"VmHWM:")
    return int(status[place + 6 : status.index(b"kB", place)]) << 10
