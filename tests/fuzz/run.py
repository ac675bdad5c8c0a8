"""Mutation fuzz of the readers.

    python -m tests.fuzz.run FORMAT [--cases 100000] [--seed 0]   one format; goes on where it stopped
    python -m tests.fuzz.run all                                  all of them, one after another
    python -m tests.fuzz.run --report                             docs/results/fuzz.md from what was run

Case i of a format and a seed is always the same file (`mutate`). Cases run in child processes of a thousand each, which say through a
pipe which case they begin, so that one that dies or hangs is known by its number. What every thousand came to is kept in
build/fuzz/FORMAT.json. A case over a limit, or above a quarter of a second, is run three times more, or thirty times where it had to wait
for the processor, each time in a process of its own, and the best of these counts: the machine may be busy. The first three failures of
a kind are kept under tests/fuzz/found, where a unit test repeats them.
"""

import argparse
import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tests.fuzz.attempt import TIME_LIMIT_S, Outcome, attempt
from tests.fuzz.mutate import case_bytes, corpus_digest
from tests.fuzz.seeds import SEEDS, seeds_of

ROOT = Path(__file__).parents[2]
STATES, FOUND, REPORT = ROOT / "build" / "fuzz", ROOT / "tests" / "fuzz" / "found", ROOT / "docs" / "results" / "fuzz.md"
BATCH = 1000
HANG_S = 30  # of silence, after which a child is ended
USUALLY_LONG_S, LONG_S = 0.25, {"e57": 0.9}
AGAIN, MOST_AGAIN = 3, 30  # times that a case is repeated; most where it took time but hardly any of the processor's
KEPT_BYTES = 16 << 10  # of a file, packed, that is kept with its number


@dataclass
class State:
    """What the cases 0 .. done-1 came to. commits: of the code that ran, each with the first case that it ran."""

    format: str
    seed: int
    corpus: str
    done: int = 0
    read: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest_case: int = -1
    most_cpu_s: float = 0.0
    largest_bytes: int = 0
    largest_case: int = -1
    closest: float = 0.0  # memory as a part of its limit
    failures: Counter[str] = field(default_factory=Counter)
    commits: dict[str, int] = field(default_factory=dict)

    def add(self, case: int, outcome: Outcome) -> None:
        self.done = case + 1
        if outcome.failure:
            self.failures[kind_of(outcome.failure)] += 1
        elif outcome.refused:
            self.refused[outcome.refused] += 1
        else:
            self.read += 1
        self.answered += outcome.answered
        if outcome.seconds > self.slowest_s:
            self.slowest_s, self.slowest_case = outcome.seconds, case
        self.most_cpu_s = max(self.most_cpu_s, outcome.cpu_seconds)
        if outcome.memory > self.largest_bytes:
            self.largest_bytes, self.largest_case = outcome.memory, case
        self.closest = max(self.closest, outcome.memory / outcome.limit)


def kind_of(failure: str) -> str:
    """What tells failures apart: the last place in our own code, and what was raised."""
    lines = failure.strip().splitlines()
    places = [line.strip() for line in lines if "/models/" in line]
    return f"{places[-1].rpartition('/models/')[2] if places else '?'}: {lines[-1][:80]}"


def load(fmt: str, seed: int, digest: str) -> State:
    path = STATES / f"{fmt}.json"
    if path.exists():
        found = json.loads(path.read_text())
        if (found["seed"], found["corpus"]) == (seed, digest):
            return State(**found | {key: Counter(found[key]) for key in ("refused", "failures")})
        path.replace(path.with_suffix(".old.json"))
    return State(fmt, seed, digest)


def save(state: State) -> None:
    STATES.mkdir(parents=True, exist_ok=True)
    path = STATES / f"{state.format}.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(vars(state), indent=1))
    fresh.replace(path)


# --- cases in child processes


def outcomes(fmt: str, seed: int, cases: Iterable[int], data: Path | None) -> Iterator[tuple[int, Outcome]]:
    """What each case came to, in their order. A child that dies or hangs is followed by another, that goes on behind the case."""
    left = list(cases)
    while left:
        pid, pipe = _child(fmt, seed, left, data)
        begun, ended = None, 0
        for line in _lines(pipe):
            message = json.loads(line)
            if isinstance(message, int):
                begun = message
            else:
                assert begun is not None
                yield begun, Outcome(**message)
                begun, ended = None, ended + 1
        os.kill(pid, signal.SIGKILL)  # it has ended, or hangs
        status = os.waitpid(pid, 0)[1]
        os.close(pipe)
        if begun is not None:
            death = signal.Signals(status & 127).name if status & 127 else f"exit {status >> 8}"
            yield (
                begun,
                Outcome(failure=f"hangs for {HANG_S} s" if death == "SIGKILL" else f"the process died: {death}", seconds=float(HANG_S)),
            )
            ended += 1
        elif ended < len(left) and not ended:
            raise RuntimeError(f"the child did nothing: status {status}")
        left = left[ended:]


def _lines(pipe: int) -> Iterator[bytes]:
    """What a child writes, until it ends or is silent for too long."""
    rest = b""
    while select.select([pipe], [], [], HANG_S)[0]:
        block = os.read(pipe, 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def _child(fmt: str, seed: int, cases: list[int], data: Path | None) -> tuple[int, int]:
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)  # panics are told by what they raise
        for case in cases:
            os.write(writing, b"%d\n" % case)
            outcome = attempt(case_bytes(fmt, seed, case, data), fmt, case)
            os.write(writing, json.dumps(asdict(outcome)).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)


def confirmed(fmt: str, seed: int, case: int, outcome: Outcome, data: Path | None) -> Outcome:
    """The outcome of a case, repeated where it was over a limit or slow; if it still is over a limit, that is a failure."""
    if outcome.failure or not (outcome.seconds > LONG_S.get(fmt, USUALLY_LONG_S) or outcome.is_large):
        return outcome
    again: list[Outcome] = []
    while len(again) < AGAIN or (len(again) < MOST_AGAIN and all(each.is_slow and each.cpu_seconds < TIME_LIMIT_S / 2 for each in again)):
        again += [found for _, found in outcomes(fmt, seed, [case], data)]
    if failed := next((each for each in again if each.failure), None):
        return failed
    found = again[0]
    seconds, memory = min(each.seconds for each in again), min(each.memory for each in again)
    best = Outcome(found.refused, seconds, min(each.cpu_seconds for each in again), memory, found.limit, found.answered)
    said = f"{seconds:.2f} s" if best.is_slow else f"{memory >> 20} MB, the limit is {best.limit >> 20} MB" if best.is_large else ""
    return replace(best, failure=said)


# --- the command


def run(fmt: str, seed: int, cases: int, data: Path | None, code: str) -> State:
    """The cases of a format up to a number. code: the commit of what was loaded when the process began."""
    state = load(fmt, seed, corpus_digest(fmt, data))
    if state.done < cases:
        state.commits.setdefault(code, state.done)
    while state.done < cases:
        for case, outcome in outcomes(fmt, seed, range(state.done, min(cases, state.done - state.done % BATCH + BATCH)), data):
            final = confirmed(fmt, seed, case, outcome, data)
            state.add(case, final)
            if final.failure and state.failures[kind_of(final.failure)] <= 3:
                keep(fmt, seed, case, final.failure, case_bytes(fmt, seed, case, data), data)
        save(state)
        print(
            f"{fmt}: {state.done} cases, {state.read} read, slowest {state.slowest_s:.2f} s, {sum(state.failures.values())} failures",
            flush=True,
        )
    return state


def keep(fmt: str, seed: int, case: int, failure: str, file: bytes, data: Path | None) -> None:
    """A failure as a seed; the bytes too where they are small and made up."""
    FOUND.mkdir(parents=True, exist_ok=True)
    record: dict[str, object] = {"format": fmt, "seed": seed, "case": case, "failure": kind_of(failure)}
    packed = zlib.compress(file, 9)
    if len(packed) <= KEPT_BYTES and (data is None or file == case_bytes(fmt, seed, case)):
        record["file"] = base64.b64encode(packed).decode()
    (FOUND / f"{fmt}-{seed}-{case}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{fmt} case {case}: {failure}", flush=True)


def commit() -> str:
    with contextlib.suppress(OSError):
        found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "models/io", "models/answers"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
    return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation fuzz of the readers.")
    parser.add_argument("format", nargs="?", choices=[*SEEDS, "all"])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="write docs/results/fuzz.md from what was run")
    options = parser.parse_args()
    data = Path(os.environ["FIP_DATA"]).resolve() if os.environ.get("FIP_DATA") else None
    failed, code = 0, commit()
    for fmt in SEEDS if options.format == "all" else [options.format] if options.format else []:
        if not seeds_of(fmt):
            print(f"{fmt}: not run, pye57 is not installed")
            continue
        failed += bool(run(fmt, options.seed, options.cases, data, code).failures)
    if options.report:
        from tests.fuzz.report import write_report

        write_report(STATES, REPORT)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
