"""The line in front of the device: what goes together, who goes first."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching import PASSES_TO_GROW, REMEMBERED_MODELS, SLACK, Line

BUDGET = 1000


@dataclass(eq=False)
class Job:
    voxels: int
    model: str = "a"
    arrived_s: float = 0.0
    most_voxels: int = BUDGET


def ran(line: Line[Job], batch: list[Job], seconds: float) -> None:
    line.measured(batch, seconds)
    line.spent(batch, seconds)


def line_of(*jobs: Job) -> Line[Job]:
    line: Line[Job] = Line(BUDGET)
    for job in jobs:
        line.add(job)
    return line


def test_clouds_of_any_size_share_a_pass_up_to_the_budget() -> None:
    jobs = [Job(100), Job(300), Job(500), Job(200)]
    batch = line_of(*jobs).take()
    assert sum(job.voxels for job in batch) <= BUDGET
    assert {job.voxels for job in batch} == {100, 200, 300}  # the small ones first, and of those as many as fit


def test_one_that_is_larger_than_the_budget_goes_alone() -> None:
    large, small = Job(5 * BUDGET), Job(1, arrived_s=1e9)
    line = line_of(large, small)
    assert line.take() == [large]
    assert line.take() == [small]
    assert line.take() == []


def test_small_clouds_go_before_a_tile_that_waits_already() -> None:
    line = line_of(Job(1, arrived_s=-9))
    ran(line, line.take(), 1.0)  # a voxel takes long here, so that a tile takes very long
    tile, small = Job(BUDGET, arrived_s=0.0), Job(10, arrived_s=1.0)
    line.add(tile)
    line.add(small)
    assert line.take() == [small]


def test_but_a_tile_is_not_passed_for_ever() -> None:
    """A stream of small clouds that keeps the device busy: the tile's turn comes after a few times what it takes itself."""
    line: Line[Job] = Line(BUDGET)
    line.add(Job(1))
    ran(line, line.take(), 0.001)
    for _ in range(30):  # the pace settles: 1 ms a voxel
        line.add(Job(10))
        ran(line, line.take(), 0.010)
    tile, now = Job(BUDGET), 0.0
    line.add(tile)
    while now < 3 * SLACK:
        line.add(Job(10, arrived_s=now))
        batch = line.take()
        if tile in batch:
            break
        ran(line, batch, 0.010)
        now += 0.010
    assert SLACK * 0.5 <= now <= SLACK * 1.5


def test_models_take_turns_by_what_their_passes_cost() -> None:
    """One model with passes four times as dear gets a fourth of the passes, however many wait for it."""
    line: Line[Job] = Line(1)
    for number in range(200):
        line.add(Job(1, "dear", arrived_s=number))
        line.add(Job(1, "cheap", arrived_s=number))
    spent = {"dear": 0.0, "cheap": 0.0}
    for _ in range(100):
        batch = line.take()
        assert len({job.model for job in batch}) == 1
        seconds = 0.04 if batch[0].model == "dear" else 0.01
        spent[batch[0].model] += seconds
        ran(line, batch, seconds)
    assert spent["dear"] == pytest.approx(spent["cheap"], rel=0.1)


def test_a_model_that_was_idle_does_not_catch_up_on_the_time_it_did_not_use() -> None:
    line: Line[Job] = Line(1)
    for number in range(60):
        line.add(Job(1, "busy", arrived_s=number))
    for _ in range(50):
        ran(line, line.take(), 1.0)
    for number in range(20):
        line.add(Job(1, "late", arrived_s=100 + number))
    served = []
    for _ in range(10):
        batch = line.take()
        served.append(batch[0].model)
        ran(line, batch, 1.0)
    assert 4 <= served.count("busy") <= 6


def test_who_leaves_is_in_no_pass() -> None:
    jobs = [Job(10) for _ in range(5)]
    line = line_of(*jobs)
    assert line.remove(jobs[2])
    assert not line.remove(jobs[2])
    assert len(line) == 4
    assert jobs[2] not in line.take()
    assert not line.remove(jobs[0])  # in its pass already


def test_who_has_to_be_alone_is() -> None:
    alone = Job(1, most_voxels=0)
    line = line_of(Job(10), alone, Job(20))
    batches = [line.take() for _ in range(2)]
    assert [alone] in batches
    assert sorted(len(batch) for batch in batches) == [1, 2]


def test_a_budget_that_did_not_fit_into_memory_is_halved_and_comes_back() -> None:
    line = line_of(*(Job(100) for _ in range(10)))
    batch = line.take()
    assert len(batch) == 10
    assert line.too_large(batch) == BUDGET // 2
    for job in batch:
        line.add(job)
    assert [len(line.take()) for _ in range(2)] == [5, 5]
    for _ in range(PASSES_TO_GROW):
        line.add(Job(1))
        ran(line, line.take(), 0.001)
    for job in batch:
        line.add(job)
    assert len(line.take()) == 10


@given(st.lists(st.tuples(st.integers(1, 3000), st.sampled_from("abc"), st.floats(0, 100)), max_size=60), st.integers(1, 2000))
def test_everyone_gets_a_turn_once_and_no_pass_is_over_budget(given_jobs: list[tuple[int, str, float]], budget: int) -> None:
    line: Line[Job] = Line(budget)
    jobs = [Job(voxels, model, arrived, budget) for voxels, model, arrived in given_jobs]
    for job in jobs:
        line.add(job)
    seen: list[Job] = []
    while batch := line.take():
        assert len({job.model for job in batch}) == 1
        assert len(batch) == 1 or sum(job.voxels for job in batch) <= budget
        ran(line, batch, 0.01)
        seen += batch
    assert sorted(map(id, seen)) == sorted(map(id, jobs))
    assert len(line) == 0


def test_between_the_layers_of_a_long_pass_go_small_clouds_that_need_not_be_alone() -> None:
    tile, alone, small, other = Job(2 * BUDGET), Job(5, most_voxels=0), Job(10), Job(20, model="b")
    line = line_of(tile, alone, small, other)
    express = [line.take(express=True) for _ in range(3)]
    assert sorted(express, key=len) == [[], [other], [small]] or sorted(express, key=len) == [[], [small], [other]]
    assert [line.take(), line.take()] == [[alone], [tile]]


def test_a_pass_may_be_under_way_for_longer_than_its_model_is_remembered() -> None:
    """As many other models are asked meanwhile as are remembered, and more."""
    line = line_of(Job(100, "passing"))
    passing = line.take()
    others = [Job(1, f"model {number}") for number in range(2 * REMEMBERED_MODELS)]
    for other in others:
        line.add(other)
        assert line.take() == [other]
        ran(line, [other], 0.1)
    assert line.seconds_of(passing) > 0
    ran(line, passing, 0.1)
    assert line.too_large(passing) == 50


def test_a_model_that_was_forgotten_in_its_pass_has_no_claim_on_the_time_before() -> None:
    line = line_of(Job(1, "busy"))
    ran(line, line.take(), 1000.0)
    line.add(Job(1, "x"))
    passing = line.take()
    for number in range(REMEMBERED_MODELS):
        line.add(Job(1, f"model {number}"))
        line.take()
    ran(line, passing, 0.1)
    turns = []
    for model in ("busy", "x"):
        line.add(Job(BUDGET, model))
    for _ in range(100):
        [job] = line.take()
        turns.append(job.model)
        line.add(Job(BUDGET, job.model))
        ran(line, [job], 0.1)
    assert 40 < turns.count("busy") < 60


def test_models_that_somebody_waits_for_are_not_forgotten_nor_what_was_asked_of_late() -> None:
    waiting = [Job(1, f"waiting {number}", arrived_s=number) for number in range(2 * REMEMBERED_MODELS)]
    line = line_of(Job(1, "measured"))
    ran(line, line.take(), 1.0)
    for number in range(REMEMBERED_MODELS):
        line.add(again := Job(1, "measured"))
        assert line.seconds_of([again]) > 0.1  # what its voxel takes is still known
        line.remove(again)
        line.add(Job(1, f"other {number}"))
        line.take()
    for job in waiting:
        line.add(job)
    taken = [line.take() for _ in waiting]
    assert sorted(job.arrived_s for batch in taken for job in batch) == [job.arrived_s for job in waiting]


def test_where_passes_may_be_large_a_large_cloud_shares_none() -> None:
    """On a GPU: small ones fill a pass of many times their size, do not wait in one with a scan, and go beside it."""
    line: Line[Job] = Line(BUDGET, BUDGET // 10)
    many, scan, next_scan = [Job(90) for _ in range(11)], Job(300, arrived_s=0.1), Job(300, arrived_s=0.2)
    for job in (*many, scan, next_scan):
        line.add(job)
    batch = line.take()
    assert batch == many
    assert not line.is_long(batch)
    batch = line.take()
    assert batch == [scan]
    assert line.is_long(batch)
    line.add(small := Job(90, arrived_s=9.0))
    assert line.take(express=True) == [small]
    assert line.take(express=True) == []
    assert line.take() == [next_scan]


def test_a_large_cloud_that_has_to_be_alone_has_nobody_beside_it() -> None:
    line: Line[Job] = Line(BUDGET, BUDGET // 10)
    line.add(Job(300, most_voxels=0))
    assert not line.is_long(line.take())
