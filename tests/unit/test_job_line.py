"""Whose job runs next."""

import pytest

from service.jobs.line import FIRST_PAUSE_S, LONGEST_PAUSE_S, Line

ANNA, BEN, CLARA = "anna", "ben", "clara"


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def line(now: list[float]) -> Line:
    return Line(lambda: now[0])


def free(owner: str) -> float:
    return 0.0


def order(line: Line, waiting: list[tuple[str, str]]) -> list[str]:
    """Of jobs that are run as their turn comes."""
    ran = []
    while waiting:
        job, _ = line.next(waiting, free)
        assert job is not None
        ran.append(job)
        waiting = [each for each in waiting if each[0] != job]
    return ran


def test_owners_take_turns_and_of_each_the_oldest_goes(line: Line) -> None:
    waiting = [("a1", ANNA), ("a2", ANNA), ("a3", ANNA), ("b1", BEN), ("b2", BEN), ("c1", CLARA)]
    assert order(line, waiting) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_sends_again_and_again_goes_no_sooner(line: Line) -> None:
    assert order(line, [("a1", ANNA), ("b1", BEN), ("c1", CLARA)]) == ["a1", "b1", "c1"]
    assert order(line, [("c2", CLARA), ("b2", BEN), ("a2", ANNA)]) == ["a2", "b2", "c2"]


def test_nobody_waits_for_another_s_debt(line: Line) -> None:
    debts = {ANNA: 7.0, BEN: 0.0}
    assert line.next([("a1", ANNA), ("b1", BEN)], debts.__getitem__) == ("b1", None)
    assert line.next([("a1", ANNA)], debts.__getitem__) == (None, 7.0)
    debts[ANNA] = 0.0
    assert line.next([("a1", ANNA)], debts.__getitem__) == ("a1", None)
    assert line.next([], debts.__getitem__) == (None, None)


def test_others_go_while_a_job_is_put_off_for_longer_and_longer(line: Line, now: list[float]) -> None:
    waiting = [("a1", ANNA), ("a2", ANNA)]
    pauses = []
    for _ in range(10):
        pauses.append(line.put_off("a1", paid=False))
        assert line.next(waiting, free) == ("a2", None)
        assert line.next(waiting[:1], free) == (None, pauses[-1])
        now[0] += pauses[-1]
        assert line.next(waiting, free) == ("a1", None)
    assert pauses[:6] == [FIRST_PAUSE_S * 2**n for n in range(6)]
    assert pauses[5:] == [LONGEST_PAUSE_S] * 5
    line.ended("a1")
    assert line.put_off("a1", paid=False) == FIRST_PAUSE_S


def test_what_the_result_of_a_job_needs_is_remembered_until_it_ends(line: Line) -> None:
    assert line.needs("a1") is None
    line.put_off("a1", paid=False, needs=5)
    assert line.needs("a1") == 5
    line.ended("a1")
    assert line.needs("a1") is None


def test_a_job_that_is_paid_for_does_not_wait_for_the_debt_it_made(line: Line, now: list[float]) -> None:
    assert not line.paid("a1")
    now[0] += line.put_off("a1", paid=True)
    assert line.paid("a1")
    assert line.next([("a1", ANNA)], lambda _: 50.0) == ("a1", None)
    assert line.next([("a2", ANNA)], lambda _: 50.0) == (None, 50.0)
