"""Who gets in, and when the others are told to come back."""

import time
from contextlib import ExitStack

import pytest

from service.admission import LARGE_BYTES, STANDING_AFTER_S, Admission
from service.problems import Overloaded
from service.settings import Settings


def house(**limits: int) -> Admission:
    return Admission(Settings.model_validate({"max_waiting": 16, **limits}))


def test_so_many_requests_and_no_more() -> None:
    admission = house()
    with ExitStack() as inside:
        for _ in range(16):
            inside.enter_context(admission.enter(10))
        with pytest.raises(Overloaded, match="16 requests"), admission.enter(10):
            pass
        assert (admission.requests, admission.bytes) == (16, 160)  # the one who did not get in holds nothing
    assert (admission.requests, admission.bytes, admission.points) == (0, 0, 0)


def test_bytes_are_bounded_also_those_that_nobody_announced() -> None:
    admission = house(max_waiting_bytes=1000)
    with admission.enter(600):
        with pytest.raises(Overloaded, match="bytes"), admission.enter(500):
            pass
        with admission.enter(0) as chunked:
            chunked.hold_bytes(300)
            with pytest.raises(Overloaded, match="bytes"):
                chunked.hold_bytes(500)
            chunked.hold_bytes(400)
            assert admission.bytes == 1000
    assert admission.bytes == 0


def test_points_are_bounded() -> None:
    admission = house(max_waiting_points=1000)
    with admission.enter(1) as first, admission.enter(1) as second:
        first.hold_points(800)
        with pytest.raises(Overloaded, match="points"):
            second.hold_points(300)
        second.hold_points(200)
    assert admission.points == 0


def test_a_file_larger_than_the_limit_gets_in_alone() -> None:
    admission = house(max_waiting_bytes=1000, max_waiting_points=10)
    with admission.enter(5000) as ticket:
        ticket.hold_points(50)


def test_large_files_leave_some_room_to_small_ones() -> None:
    admission = house(max_waiting_bytes=10 * LARGE_BYTES)
    with ExitStack() as inside:
        for _ in range(4):
            inside.enter_context(admission.enter(2 * LARGE_BYTES))
        with pytest.raises(Overloaded), admission.enter(2 * LARGE_BYTES):
            pass
        inside.enter_context(admission.enter(LARGE_BYTES // 2))


def test_a_burst_may_fill_the_house_and_a_queue_that_stands_may_not() -> None:
    admission = house()
    with ExitStack() as inside:
        burst = [inside.enter_context(ExitStack()) for _ in range(12)]
        for each in burst:
            each.enter_context(admission.enter(1))
        time.sleep(STANDING_AFTER_S + 0.05)
        with pytest.raises(Overloaded), admission.enter(1):
            pass
        for each in burst[:9]:
            each.close()
        for _ in range(9):  # it went down: the next burst is welcome
            inside.enter_context(admission.enter(1))


def test_retry_after_is_the_time_that_those_inside_will_take() -> None:
    admission = house()
    for _ in range(30):
        with admission.enter(1), admission.enter(1):
            time.sleep(0.02)
    with ExitStack() as inside:
        for _ in range(16):
            inside.enter_context(admission.enter(1))
        with pytest.raises(Overloaded) as refused, admission.enter(1):
            pass
    assert 0.05 < refused.value.retry_after_s < 16 * 0.2
