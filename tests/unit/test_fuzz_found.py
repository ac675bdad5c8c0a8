"""Damaged files of every format: those that once broke a reader, and the first of those that tests/fuzz makes up.

`make fuzz` runs many more of them, each thousand in a process of its own.
"""

import base64
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.attempt import TIME_LIMIT_S, Outcome, attempt, memory_limit
from tests.fuzz.mutate import case_bytes
from tests.fuzz.seeds import SEEDS, seeds_of

RECORDS = sorted((Path(__file__).parents[1] / "fuzz" / "found").glob("*.json"))
FOUND = [path for path in RECORDS if "file" in json.loads(path.read_text())]  # of real files only the number of the case is kept
FAST = [fmt for fmt in SEEDS if fmt != "e57"]  # which is read in processes of its own
FIRST = 200
BATCH = 50


def tried(data: bytes, fmt: str, case: int) -> Outcome:
    """What came of a case; over a limit only if it was three times, for the machine may be busy."""
    outcomes = []
    for _ in range(3):
        outcomes.append(attempt(data, fmt, case))
        if not (outcomes[-1].is_slow or outcomes[-1].is_large):
            break
    return outcomes[-1]


def check(data: bytes, fmt: str, case: int) -> Outcome:
    outcome = tried(data, fmt, case)
    assert not outcome.failure, f"{fmt} case {case}: {outcome.failure}"
    assert not outcome.is_slow, f"{fmt} case {case} took {outcome.seconds:.1f} s"
    assert not outcome.is_large, f"{fmt} case {case} took {outcome.memory} bytes of {outcome.limit}"
    return outcome


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    record = json.loads(path.read_text())
    data = zlib.decompress(base64.b64decode(record["file"]))
    for case in (0, 1):  # answered, and with the format guessed
        check(data, record["format"], case)


@pytest.mark.parametrize("start", range(0, FIRST, BATCH))
@pytest.mark.parametrize("fmt", FAST)
def test_the_first_cases(fmt: str, start: int) -> None:
    for case in range(start, start + BATCH):
        check(case_bytes(fmt, 0, case), fmt, case)


@pytest.mark.parametrize("fmt", FAST)
def test_a_case_is_the_same_every_time_and_some_can_be_read(fmt: str) -> None:
    cases = [case_bytes(fmt, 0, case) for case in range(60)]
    assert cases == [case_bytes(fmt, 0, case) for case in range(60)]
    assert cases != [case_bytes(fmt, 1, case) for case in range(60)]
    outcomes = [attempt(each, fmt) for each in cases]
    assert any(not each.refused and each.answered == (fmt != "off") for each in outcomes)
    assert len({each.refused for each in outcomes}) >= 3


@pytest.mark.parametrize("fmt", FAST)
def test_most_files_are_good_before_they_are_damaged(fmt: str) -> None:
    refused = [attempt(each, fmt).refused for each in seeds_of(fmt)]
    assert refused.count("") > 0.8 * len(refused)


# --- E57


@pytest.fixture
def library() -> Callable[[bytes], Outcome]:
    pytest.importorskip("pye57", reason="the extra e57 is not installed")
    from tests.fuzz.e57_library import attempt_library

    return attempt_library


def test_the_first_cases_of_e57(library: Callable[[bytes], Outcome]) -> None:
    """A few through the door; the others as what its process does with them."""
    for case in range(6):
        check(case_bytes("e57", 0, case), "e57", case)
    usual = max(library(each).memory for each in seeds_of("e57"))
    outcomes = [library(case_bytes("e57", 0, case)) for case in range(100)]
    assert not any(each.is_slow for each in outcomes)
    assert max(each.memory - each.limit for each in outcomes) < usual
    assert {each.refused for each in outcomes} > {"", "bad_body", "bad_header"}


def test_the_library_and_the_door_agree(library: Callable[[bytes], Outcome]) -> None:
    assert [library(each).refused for each in seeds_of("e57")] == [""] * 5
    for case in range(40, 46):
        data = case_bytes("e57", 0, case)
        found, expected = library(data).refused, attempt(data, "e57").refused
        assert found == expected or (found, expected) == ("", "non_finite")


# --- what is looked for is seen


def test_time_memory_and_exceptions_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    good = seeds_of("xyz")[0]

    def slow(*_: object) -> int:
        time.sleep(TIME_LIMIT_S + 0.01)
        return 0

    def large(*_: object) -> int:
        return int(np.ones(memory_limit(len(good), 0) + (1 << 20), np.uint8)[0])

    def wrong(*_: object) -> int:
        return int(np.array([1e300]).astype(np.float32)[0] > 0)

    for broken, holds in ((slow, "is_slow"), (large, "is_large"), (wrong, "failure")):
        monkeypatch.setattr("tests.fuzz.attempt._read", broken)
        assert getattr(attempt(good, "xyz"), holds)
