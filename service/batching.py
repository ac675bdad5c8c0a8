"""Which of the waiting requests go through the net next, and together. Pure: it knows neither clocks nor devices.

Models take turns by what their passes have cost. Within a model small clouds go before large ones, but none is passed for ever: a
cloud's place is the time it arrived plus a few times what its own pass takes. Requests of one model share a pass as long as their
voxels stay within a budget, unless they are large; nothing is padded.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

SLACK = 4.0  # times its own pass, that a cloud may be passed by smaller ones
FIRST_GUESS_S = 1e-5  # a voxel, before any was measured
REMEMBERED = 0.8
REMEMBERED_MODELS = 100  # of those that nobody waits for
PASSES_TO_GROW = 50  # after so many that went well, a budget that was cut is doubled


class Waiting(Protocol):
    """What is waiting. voxels: of its cloud or tile; most_voxels: of a pass that it may share, 0 if it has to be alone."""

    @property
    def model(self) -> str: ...
    @property
    def voxels(self) -> int: ...
    @property
    def arrived_s(self) -> float: ...
    @property
    def most_voxels(self) -> int: ...


Job = TypeVar("Job", bound=Waiting)


@dataclass
class _Line(Generic[Job]):
    """Those who wait for one model, in their order; turn: what the model's passes have cost, in seconds, on the common clock;
    budget: voxels of a pass."""

    budget: int
    turn: float = 0.0
    went_well: int = 0
    second_a_voxel: float = FIRST_GUESS_S
    jobs: list[tuple[float, int, Job]] = field(default_factory=list)


class Line(Generic[Job]):
    """All who wait."""

    def __init__(self, batch_voxels: int, small_voxels: int | None = None) -> None:
        """small_voxels: what a cloud has at most that shares its pass, or goes beside a longer one; None: as many as a pass of several."""
        self._budget, self._small_voxels = batch_voxels, min(batch_voxels, small_voxels or batch_voxels)
        self._lines: dict[str, _Line[Job]] = {}  # who was asked for last comes last
        self._count = 0
        self._clock = 0.0  # the turn of the model that ran last

    def __len__(self) -> int:
        return sum(len(line.jobs) for line in self._lines.values())

    def add(self, job: Job) -> None:
        line = self._lines[job.model] = self._lines.pop(job.model, _Line(self._budget))
        if not line.jobs:
            line.turn = max(line.turn, self._clock)  # a model that was idle does not get the time it did not use
        self._count += 1
        insort(line.jobs, (job.arrived_s + SLACK * line.second_a_voxel * job.voxels, self._count, job))
        if len(self._lines) > REMEMBERED_MODELS and (idle := next((model for model, each in self._lines.items() if not each.jobs), None)):
            del self._lines[idle]

    def remove(self, job: Job) -> bool:
        """Whether it was still waiting."""
        line = self._lines.get(job.model)
        for place, (_, _, other) in enumerate(line.jobs if line else ()):
            if other is job and line is not None:
                del line.jobs[place]
                return True
        return False

    def full(self) -> bool:
        """Whether the next pass has all that it may take, so that waiting for more is of no use."""
        line = self._next()
        return line is not None and sum(job.voxels for *_, job in line.jobs) >= line.budget

    def take(self, express: bool = False) -> list[Job]:
        """The next pass: jobs of one model, taken out of the line. Empty if nobody waits.

        express: a pass beside a longer one, of small clouds that need not be alone.
        """
        line = self._next(express)
        if line is None:
            return []
        batch: list[Job] = []
        total, most = 0, line.budget
        for entry in list(line.jobs):
            job = entry[2]
            if express and not self._small(job):
                continue
            if batch and (job.voxels > self._small_voxels or total + job.voxels > min(most, job.most_voxels)):
                continue
            batch.append(job)
            line.jobs.remove(entry)
            total, most = total + job.voxels, min(most, job.most_voxels)
            if total >= most or self.is_long(batch):
                break
        return batch

    def spent(self, batch: Sequence[Job], seconds: float) -> None:
        """A pass of these took so long, whatever came of it."""
        line = self._of(batch)
        self._clock = line.turn
        line.turn += seconds

    def measured(self, batch: Sequence[Job], seconds: float) -> None:
        """A pass of these, and of nothing else, went well and took so long."""
        line = self._of(batch)
        voxels = max(sum(job.voxels for job in batch), 1)
        line.second_a_voxel = REMEMBERED * line.second_a_voxel + (1 - REMEMBERED) * seconds / voxels
        line.went_well += 1
        if line.budget < self._budget and line.went_well >= PASSES_TO_GROW:
            line.budget, line.went_well = min(2 * line.budget, self._budget), 0

    def too_large(self, batch: Sequence[Job]) -> int:
        """A pass of these did not fit into memory: what passes of their model may have from now on."""
        line = self._of(batch)
        line.budget, line.went_well = max(sum(job.voxels for job in batch) // 2, 1), 0
        return line.budget

    def seconds_of(self, batch: Sequence[Job]) -> float:
        """What a pass of these should take."""
        return self._of(batch).second_a_voxel * sum(job.voxels for job in batch)

    def seconds_waiting(self) -> float:
        """What all passes of those who wait should take."""
        return sum(line.second_a_voxel * sum(job.voxels for *_, job in line.jobs) for line in self._lines.values())

    def _of(self, batch: Sequence[Job]) -> _Line[Job]:
        """The line they were in; it may have been forgotten since."""
        return self._lines.setdefault(batch[0].model, _Line(self._budget, self._clock))

    def is_long(self, batch: Sequence[Job]) -> bool:
        """Whether others may pass beside it: it is a large cloud, and need not be alone."""
        return batch[0].voxels > self._small_voxels and batch[0].most_voxels > 0

    def _small(self, job: Job) -> bool:
        return job.voxels <= self._small_voxels and job.most_voxels > 0

    def _next(self, express: bool = False) -> _Line[Job] | None:
        lines = (line for line in self._lines.values() if any(not express or self._small(job) for *_, job in line.jobs))
        return min(lines, key=lambda line: line.turn, default=None)
