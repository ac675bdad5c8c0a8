"""Who gets in, and when the others are told to come back."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from service.admission import (
    EXPECTED_S,
    KEPT_S,
    LARGE_BYTES,
    MANY_SLOTS,
    PIECE,
    PLENTY,
    SMALL_PIECE,
    SPREAD_S,
    STANDING_AFTER_S,
    Admission,
    Ticket,
)
from service.errors import Overloaded
from service.settings import Settings


def house(**limits: int) -> Admission:
    return Admission(Settings.model_validate({"max_waiting": 16, **limits}))


@contextmanager
def inside(admission: Admission, size: int) -> Iterator[Ticket]:
    """A request whose file has come."""
    with admission.enter(size) as ticket:
        ticket.hold_bytes(size)
        ticket.take_place()
        yield ticket


def test_so_many_requests_and_no_more() -> None:
    admission = house()
    with ExitStack() as held:
        for _ in range(16):
            held.enter_context(inside(admission, 10))
        with pytest.raises(Overloaded, match="wait for it: 16"), admission.enter(10):
            pass
        assert (admission.requests, admission.bytes) == (16, 160)  # the one who did not get in holds nothing
    assert (admission.requests, admission.bytes, admission.points) == (0, 0, 0)


def test_bytes_are_bounded_also_those_that_nobody_announced() -> None:
    admission = house(max_waiting_bytes=1000)
    with inside(admission, 600):
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
    with inside(admission, 1) as first, inside(admission, 1) as second:
        first.hold_points(800)
        with pytest.raises(Overloaded, match="points"):
            second.hold_points(300)
        second.hold_points(200)
    assert admission.points == 0


def test_a_file_larger_than_the_limit_gets_in_alone() -> None:
    admission = house(max_waiting_bytes=1000, max_waiting_points=10)
    with inside(admission, 5000) as ticket:
        ticket.hold_points(50)


def test_large_files_leave_some_room_to_small_ones() -> None:
    admission = house(max_waiting_bytes=10 * LARGE_BYTES)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(inside(admission, 2 * LARGE_BYTES))
        with pytest.raises(Overloaded), admission.enter(2 * LARGE_BYTES):
            pass
        held.enter_context(inside(admission, LARGE_BYTES // 2))


def test_a_burst_may_fill_the_house_and_a_queue_that_stands_may_not() -> None:
    admission = house()
    with ExitStack() as held:
        burst = [held.enter_context(ExitStack()) for _ in range(12)]
        for each in burst:
            each.enter_context(inside(admission, 1))
        time.sleep(STANDING_AFTER_S + 0.05)
        with pytest.raises(Overloaded), admission.enter(1):
            pass
        for each in burst[:9]:
            each.close()
        for _ in range(5):  # a pass has ended, which says nothing of the queue
            held.enter_context(inside(admission, 1))
        with pytest.raises(Overloaded), admission.enter(1):
            pass
    time.sleep(STANDING_AFTER_S / 2)
    with inside(admission, 1):
        time.sleep(STANDING_AFTER_S / 2 + 0.05)
    with ExitStack() as held:
        for _ in range(16):  # it has been short for a while: the next burst is welcome
            held.enter_context(inside(admission, 1))


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.admission.time", clock)
    return clock


def full_house(held: ExitStack, clock: Clock) -> Admission:
    """With 16 places, left a hundred times a second of late."""
    admission = house()
    for _ in range(60):
        with inside(admission, 1):
            clock.now_s += 0.01
    for _ in range(16):
        held.enter_context(inside(admission, 1))
    return admission


def refused_for_s(admission: Admission) -> float:
    with pytest.raises(Overloaded) as refused, admission.enter(1):
        pass
    return refused.value.retry_after_s


def test_retry_after_is_the_time_that_those_inside_will_take(clock: Clock) -> None:
    with ExitStack() as held:
        admission = full_house(held, clock)
        assert refused_for_s(admission) == 1  # 16 x 0.01 s, in whole seconds
        clock.now_s += 0.1
        assert refused_for_s(admission) == 2  # 16 x 0.1 s: nobody leaves any more


def test_no_more_are_told_to_come_at_once_than_find_a_place(clock: Clock) -> None:
    with ExitStack() as held:
        admission = full_house(held, clock)
        assert Counter(refused_for_s(admission) for _ in range(40)) == {1: 16, 2: 16, 3: 8}
        assert max(refused_for_s(admission) for _ in range(500)) == 1 + SPREAD_S  # however many there are
    clock.now_s += 2 * SPREAD_S
    for _ in range(1000):  # what was told is forgotten once it is past
        clock.now_s += 1
        with ExitStack() as held:
            for _ in range(16):
                held.enter_context(inside(admission, 1))
            assert refused_for_s(admission) == 1
    assert len(admission._told) <= MANY_SLOTS


def test_of_a_slow_service_fewer_are_told_to_come_at_once(clock: Clock) -> None:
    admission = house()
    with ExitStack() as held:
        for _ in range(60):
            with inside(admission, 1):
                clock.now_s += 0.125
        for _ in range(16):
            held.enter_context(inside(admission, 1))
        assert Counter(refused_for_s(admission) for _ in range(12)) == {2: 4, 3: 4, 4: 4}  # 16 x 0.125 s, four in half a second


def test_files_that_never_arrive_keep_nobody_out() -> None:
    admission = house(max_waiting_bytes=1000)
    with ExitStack() as held:
        for _ in range(500):
            with suppress(Overloaded):
                held.enter_context(admission.enter(400)).hold_bytes(1)
        assert admission.requests == 16
        time.sleep(EXPECTED_S + 0.02)
        with inside(admission, 100):  # in the place of one that has not come so far
            assert (admission.requests, admission.bytes) == (16, 116)
        time.sleep(KEPT_S)
        with inside(admission, 400):
            assert (admission.requests, admission.bytes) == (1, 416)
    assert (admission.requests, admission.bytes) == (0, 0)


def test_who_comes_fast_keeps_the_place_while_others_want_it() -> None:
    admission = house()
    with ExitStack() as held:
        fast = held.enter_context(admission.enter(3 << 20))
        fast.hold_bytes(2 << 20)
        for _ in range(15):
            held.enter_context(admission.enter(3 << 20))
        time.sleep(EXPECTED_S + 0.02)
        for _ in range(15):
            held.enter_context(inside(admission, 1))
        with pytest.raises(Overloaded), admission.enter(1):
            pass
        fast.take_place()


@pytest.mark.parametrize(("announced", "most"), [(LARGE_BYTES, LARGE_BYTES), (LARGE_BYTES + 1, PIECE), (None, PIECE)])
def test_how_much_of_a_file_may_wait_in_memory(announced: int | None, most: int) -> None:
    admission = house(max_waiting_bytes=1 << 30)
    with admission.enter(announced) as ticket:
        assert ticket.in_memory == most
        with inside(admission, PLENTY):
            assert ticket.in_memory == SMALL_PIECE


def test_files_that_are_long_on_their_way_are_no_queue() -> None:
    admission = house()
    with ExitStack() as held:
        for _ in range(12):
            held.enter_context(admission.enter(10))
        time.sleep(EXPECTED_S + 0.02)
        for _ in range(4):
            with inside(admission, 1):
                time.sleep(STANDING_AFTER_S / 2)


def test_one_who_arrives_in_a_full_house_is_refused_after_all() -> None:
    admission = house()
    with ExitStack() as held:
        late = held.enter_context(admission.enter(10))
        time.sleep(KEPT_S + 0.05)
        for _ in range(16):
            held.enter_context(inside(admission, 1))
        with pytest.raises(Overloaded, match="wait for it: 16"):
            late.take_place()
    assert admission.requests == 0


def test_a_queue_that_stands_because_nobody_works_is_not_cut() -> None:
    working = [False]
    admission = Admission(Settings.model_validate({"max_waiting": 16}), lambda: working[0])
    with ExitStack() as held:
        for _ in range(10):
            held.enter_context(inside(admission, 1))
        time.sleep(STANDING_AFTER_S + 0.05)
        held.enter_context(inside(admission, 1))
        working[0] = True
        held.enter_context(inside(admission, 1))
        time.sleep(STANDING_AFTER_S + 0.05)
        with pytest.raises(Overloaded), admission.enter(1):
            pass
