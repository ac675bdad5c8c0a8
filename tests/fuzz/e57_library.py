"""What libE57Format does with damaged files, a hundred times as fast as through the door: `tests.fuzz.run e57` starts an interpreter twice
for each case, which takes most of its time.

    python -m tests.fuzz.e57_library [--cases 100000] [--seed 0]

The header is checked as `read_e57` does; then a process that is forked for the case runs what `models/io/e57_child.py` does, with the same
limits: first it describes the file, then it reads the rows. Such a process may end as it likes, for the reader makes a typed error of it;
it may not take more than the time and the memory of a case. Cases are those of `tests.fuzz.run e57`.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time

from models.errors import InputError
from models.io import e57_child
from models.io.e57 import ERRORS, MEMORY_BYTES, XML_COPIES, checked_header
from models.io.source import opened
from tests.fuzz.attempt import MOST_POINTS, Outcome, memory_limit
from tests.fuzz.mutate import case_bytes, corpus_digest
from tests.fuzz.run import AGAIN, BATCH, State, commit, keep, kind_of, load, save
from tests.fuzz.seeds import seeds_of

NAME = "e57-library"


def attempt_library(data: bytes, usual_bytes: int = 0) -> Outcome:
    """The outcome of one file. usual_bytes: the memory of a process at a small good file, above which it is counted."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as said:
        file.write(data)
        file.flush()
        try:
            with opened(file) as source:  # type: ignore[arg-type]
                xml = checked_header(source)
        except InputError as error:
            return Outcome(refused=error.code)
        start = time.perf_counter()
        pid = os.fork()
        if not pid:
            _as_the_child(file.fileno(), said.fileno(), (2, MEMORY_BYTES + XML_COPIES * xml))
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - start
        said.seek(0)
        answer = json.loads(said.read() or b"{}")
    ended = f"bad_body ({signal.Signals(status & 127).name})" if status & 127 else answer.get("refused", "")
    values = answer.get("count", 0) * len(answer.get("columns", ())) if not ended else 0
    cpu, memory = usage.ru_utime + usage.ru_stime, (usage.ru_maxrss << 10) - usual_bytes
    return Outcome(ended, seconds, cpu, max(0, memory), memory_limit(len(data), values))


def _as_the_child(file: int, said: int, limits: tuple[int, int]) -> None:
    """What the process of `read_e57` does, twice; leaves a description of the file or what is wrong with it. Does not return."""
    silent, code = os.open(os.devnull, os.O_RDWR), 1
    with contextlib.suppress(BaseException):
        os.dup2(file, 0)
        os.dup2(silent, 2)
        os.dup2(said, 1)
        wrong = e57_child.main(limits, MOST_POINTS, None)
        answer = json.loads(os.pread(said, 1 << 20, 0) or b"{}")
        if wrong is None and "columns" in answer:
            os.dup2(silent, 1)
            wrong = e57_child.main(limits, None, [(name, kind) for name, kind in answer["columns"]])
        if wrong is not None or "announced" in answer:
            os.ftruncate(said, 0)
            os.pwrite(said, json.dumps({"refused": ERRORS[wrong[0]].code if wrong else "too_many_points"}).encode(), 0)
        code = 0
    os._exit(code)


def confirmed(data: bytes, outcome: Outcome, usual: int) -> Outcome:
    """Repeated where it was over a limit: the best of some more counts, and is a failure if it is, too."""
    if not (outcome.is_slow or outcome.is_large):
        return outcome
    again = [attempt_library(data, usual) for _ in range(AGAIN)]
    seconds, memory = min(each.seconds for each in again), min(each.memory for each in again)
    best = Outcome(outcome.refused, seconds, min(each.cpu_seconds for each in again), memory, outcome.limit)
    failure = f"{seconds:.2f} s" if best.is_slow else f"{memory >> 20} MB, the limit is {best.limit >> 20} MB" if best.is_large else ""
    return Outcome(best.refused, seconds, best.cpu_seconds, memory, best.limit, False, failure)


def run(seed: int, cases: int) -> State:
    state = load(NAME, seed, corpus_digest("e57"))
    if state.done < cases:
        state.commits.setdefault(commit(), state.done)
    usual = max(attempt_library(each).memory for each in seeds_of("e57"))
    while state.done < cases:
        data = case_bytes("e57", seed, state.done)
        outcome = confirmed(data, attempt_library(data, usual), usual)
        state.add(state.done, outcome)
        if outcome.failure and state.failures[kind_of(outcome.failure)] <= 3:
            keep("e57", seed, state.done - 1, outcome.failure, data, None)
        if state.done % BATCH == 0 or state.done == cases:
            save(state)
            print(
                f"{NAME}: {state.done} cases, {state.read} read, slowest {state.slowest_s:.2f} s, {sum(state.failures.values())} failures"
            )
    return state


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation fuzz of what reads E57.")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return 1 if run(options.seed, options.cases).failures else 0


if __name__ == "__main__":
    sys.exit(main())
