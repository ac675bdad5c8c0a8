"""Points a second: a burst, a debt, and an honest word on when it is paid off."""

import pytest

from service.admission import Admission
from service.auth.allowance import BURST_S, Allowance
from service.errors import Overloaded, RateLimited
from service.settings import Settings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_then_the_rate(clock: Clock) -> None:
    allowance = Allowance(100, clock)
    allowance.check()
    allowance.take(int(100 * BURST_S))
    with pytest.raises(RateLimited):
        allowance.check()
    clock.now += 0.5
    allowance.check()
    clock.now += 1e6  # nothing is saved up beyond the burst
    allowance.take(int(100 * BURST_S))
    with pytest.raises(RateLimited):
        allowance.check()


def test_a_debt_says_how_long_it_lasts(clock: Clock) -> None:
    allowance = Allowance(100, clock)
    allowance.take(1500)
    with pytest.raises(RateLimited) as refused:
        allowance.check()
    assert refused.value.retry_after_s == pytest.approx(5)
    clock.now += 4.9
    with pytest.raises(RateLimited):
        allowance.check()
    clock.now += 0.2
    allowance.check()


def test_another_rate_forgives_nothing(clock: Clock) -> None:
    allowance = Allowance(100, clock)
    allowance.take(2000)
    allowance.rate = 500
    with pytest.raises(RateLimited) as refused:
        allowance.check()
    assert refused.value.retry_after_s == pytest.approx(2)
    clock.now += 1000
    allowance.rate = 1
    allowance.take(10)
    with pytest.raises(RateLimited):
        allowance.check()


def test_a_ticket_pays_for_its_points_once_they_are_in(clock: Clock) -> None:
    admission = Admission(Settings.model_validate({"max_waiting_points": 1000}))
    allowance = Allowance(10, clock)
    with admission.enter(1, allowance) as first, admission.enter(1, allowance) as second:
        first.hold_points(900)
        with pytest.raises(Overloaded, match="points of all requests"):
            second.hold_points(200)  # there is no room: it is not charged
        second.hold_points(50)
    with pytest.raises(RateLimited) as refused, admission.enter(1, allowance):
        pass
    assert refused.value.retry_after_s == pytest.approx((950 - 100) / 10)
    with admission.enter(1):
        pass  # others are none of its business
    assert admission.requests == 0
