"""What the fuzzer found, as a page: docs/results/fuzz.md."""

import json
from pathlib import Path
from typing import Any

from tests.fuzz.attempt import FREE_BYTES, TIME_LIMIT_S, TIMES_DECODED
from tests.fuzz.seeds import SEEDS

ABOUT = f"""\
# Damaged files

Small good files of every format ([seeds.py](../../tests/fuzz/seeds.py), and small real ones of other programs) are damaged in many ways
([mutate.py](../../tests/fuzz/mutate.py)), and read through the door that the service uses. A case is read with its format said, every
other case also with the format guessed; every fifth one that can be read is answered in its own format. What may come out is a cloud or a
typed error. No other exception, panic, warning or crash; no step above {TIME_LIMIT_S:.0f} s; no more memory than
{TIMES_DECODED} times what the file decodes to (the larger of its bytes and 8 for each value that was read) + {FREE_BYTES >> 20} MB. How it
is measured is said in [attempt.py](../../tests/fuzz/attempt.py).

`make fuzz` runs all of it, and `python -m tests.fuzz.run --report` writes this page. Failures that were found on the way, and mended, are
kept in [found](../../tests/fuzz/found), and `tests/unit/test_fuzz_found.py` repeats them.

| format | cases | seed | read | answered | refused | slowest, s | most memory, MB | nearest to its limit | failures | code |
|-|-|-|-|-|-|-|-|-|-|-|
"""
NOTE = """
e57: two processes are started for each file, which takes most of the time; so fewer cases went through the door. e57-library: the same
cases as what such a process does with a file, forked for each ([e57_library.py](../../tests/fuzz/e57_library.py)).

Refused: the codes of the errors. Slowest: wall time of a step, the best of three where it was above
0.25 s, on a machine that did other things too. Code: the commits that ran the
cases, each from the case given on; `+` where files of models/io or models/answers had changes that were not in it.
"""


def write_report(states: Path, page: Path) -> None:
    """From the states of all formats that were run."""
    paths = [states / f"{fmt}.json" for fmt in (*SEEDS, "e57-library")]
    rows = [_row(json.loads(path.read_text())) for path in paths if path.exists()]
    page.write_text(ABOUT + "\n".join(rows) + "\n" + NOTE, encoding="utf-8")


def _row(state: dict[str, Any]) -> str:
    codes = sorted(state["refused"].items(), key=lambda item: -item[1])
    cells = (
        state["format"],
        f"{state['done']:,}",
        state["seed"],
        f"{state['read']:,}",
        f"{state['answered']:,}",
        ", ".join(f"{code} {count:,}" for code, count in codes),
        f"{state['slowest_s']:.2f} (case {state['slowest_case']})",
        f"{state['largest_bytes'] / (1 << 20):.0f} (case {state['largest_case']})",
        f"{state['closest']:.0%}",
        sum(state["failures"].values()),
        ", ".join(f"{commit} from {first:,}" for commit, first in state["commits"].items()),
    )
    return f"| {' | '.join(map(str, cells))} |"
