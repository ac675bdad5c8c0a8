"""When requests are due and what they are: against the integral of the rate, and against the statistics of what was asked for."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from models.errors import BadOption
from service.load.plan import Body, LoadPlan
from service.load.schedule import Draw, arrival_times, draws

PLAN = LoadPlan("http://localhost", (Body("a.ply", b"ply"),), rate=20, duration_s=10, arrivals="even")
RAMPS = [(5.0, 50.0), (50.0, 5.0), (0.0, 30.0), (30.0, 0.0), (7.0, 7.0)]


def ramped(ramp: tuple[float, float], **changes: object) -> LoadPlan:
    return replace(PLAN, rate=None, ramp=ramp, **changes)


def due_by(plan: LoadPlan, seconds: np.ndarray) -> np.ndarray:
    """The integral of the rate, written as areas of trapezoids."""
    return (plan.start_rate + (plan.start_rate + (plan.end_rate - plan.start_rate) * seconds / plan.duration_s)) / 2 * seconds


def test_even_arrivals_at_a_constant_rate() -> None:
    np.testing.assert_allclose(arrival_times(PLAN), np.arange(200) / 20, atol=1e-12)


@pytest.mark.parametrize("ramp", RAMPS)
def test_even_arrivals_follow_the_integral_of_a_ramp(ramp: tuple[float, float]) -> None:
    plan = ramped(ramp)
    times = arrival_times(plan)
    assert len(times) == np.ceil(plan.expected_requests)
    np.testing.assert_allclose(due_by(plan, times), np.arange(len(times)), atol=1e-9)


@pytest.mark.parametrize("ramp", RAMPS)
def test_poisson_arrivals_follow_the_integral_of_a_ramp(ramp: tuple[float, float]) -> None:
    plan = ramped(ramp, arrivals="poisson", duration_s=1000)
    times = arrival_times(plan)
    total = plan.expected_requests
    assert abs(len(times) - total) < 5 * total**0.5
    assert np.all(np.diff(times) >= 0)
    assert 0 <= times[0] <= times[-1] <= plan.duration_s
    gaps = np.diff(due_by(plan, times))  # exponential of mean 1, whatever the rate was
    assert abs(gaps.mean() - 1) < 0.05
    assert abs(gaps.std() - 1) < 0.05
    assert abs(np.quantile(gaps, 0.5) - np.log(2)) < 0.05


def test_the_seed_decides() -> None:
    plan = replace(PLAN, arrivals="poisson", malformed=0.3, disconnect=0.3)
    again, other = replace(plan), replace(plan, seed=1)
    np.testing.assert_array_equal(arrival_times(plan), arrival_times(again))
    assert first(plan, 3000) == first(again, 3000)
    assert not np.array_equal(arrival_times(plan)[:50], arrival_times(other)[:50])
    assert first(plan, 3000) != first(other, 3000)


def test_moments_do_not_depend_on_what_is_sent() -> None:
    plan = replace(PLAN, arrivals="poisson")
    np.testing.assert_array_equal(arrival_times(plan), arrival_times(replace(plan, malformed=0.5)))


def test_bodies_and_kinds_come_in_their_shares() -> None:
    bodies = tuple(Body(name, b"x", weight) for name, weight in (("a", 7.0), ("b", 2.5), ("c", 0.5)))
    drawn = first(replace(PLAN, bodies=bodies, malformed=0.2, disconnect=0.1), 20_000)
    shares = np.bincount([draw.body for draw in drawn]) / len(drawn)
    np.testing.assert_allclose(shares, [0.7, 0.25, 0.05], atol=0.02)
    kinds = [draw.kind for draw in drawn]
    assert abs(kinds.count("malformed") / len(drawn) - 0.2) < 0.02
    assert abs(kinds.count("disconnected") / len(drawn) - 0.1) < 0.02
    assert all(0 <= draw.spare < 1 for draw in drawn)


def first(plan: LoadPlan, count: int) -> list[Draw]:
    return list(islice(draws(plan), count))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"url": "localhost:8000"}, "url"),
        ({"bodies": ()}, "bodies"),
        ({"bodies": (Body("a", b"", 0.0),)}, "bodies"),
        ({"rate": None}, "rate"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"clients": 2}, "rate"),
        ({"rate": None, "ramp": (0.0, 0.0)}, "ramp"),
        ({"rate": None, "ramp": (-1.0, 5.0)}, "ramp"),
        ({"rate": None, "clients": 0}, "clients"),
        ({"arrivals": "sometimes"}, "arrivals"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"rate": 1e9}, "duration_s"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"connections": 0}, "connections"),
        ({"malformed": 1.5}, "malformed"),
        ({"malformed": 0.6, "disconnect": 0.6}, "malformed"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, object], where: str) -> None:
    with pytest.raises(BadOption) as caught:
        replace(PLAN, **changes)
    assert caught.value.where == where
