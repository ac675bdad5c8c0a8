"""What is kept of a job."""

import re
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from models.errors import FipError
from service.schemas import JobError, JobInfo, JobLinks, JobProgress, JobResult, ModelRef, SegmentOptions, Shape

State = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
FINAL: tuple[State, ...] = ("done", "failed", "cancelled", "expired")
ID = r"[0-9a-f]{32}"


class Asked(Shape):
    """What a job is to do, as it was accepted. format: asked for, in the query or by the header Accept; bytes, sha256: of its file."""

    model: ModelRef
    options: SegmentOptions
    format: str
    name: str
    content_type: str
    bytes: int
    sha256: str


class Result(JobResult):
    """headers: of the answer, beside its type and size."""

    headers: dict[str, str]

    @property
    def shown(self) -> JobResult:
        return JobResult.model_validate(self.model_dump(exclude={"headers"}))


@dataclass(frozen=True)
class Job:
    """A row. number: grows with every job; key: the caller's Idempotency-Key; times in seconds since 1970; bytes: of its files on disk;
    runs: how often its run began, without those that the service itself put off.
    """

    number: int
    id: str
    owner: str
    key: str | None
    state: State
    created_s: float
    started_s: float | None
    finished_s: float | None
    runs: int
    bytes: int
    asked: Asked
    result: Result | None = None
    error: JobError | None = None


@dataclass(frozen=True)
class Held:
    """active: jobs that wait or run; bytes: of files."""

    active: int = 0
    bytes: int = 0

    def __add__(self, other: "Held") -> "Held":
        return Held(self.active + other.active, self.bytes + other.bytes)

    def __sub__(self, other: "Held") -> "Held":
        return Held(self.active - other.active, self.bytes - other.bytes)


NOTHING = Held()


@dataclass(frozen=True)
class Totals:
    """states: jobs in each; bytes: of all files; owners: of each who has any, the same of theirs alone."""

    states: Counter[str]
    bytes: int
    owners: Mapping[str, Held]

    @property
    def active(self) -> int:
        return self.states["queued"] + self.states["running"]

    @property
    def held(self) -> Held:
        return Held(self.active, self.bytes)


class JobFailure(FipError):
    """Why a job fails where a request would not."""

    code = "job_failed"


class ModelChanged(JobFailure):
    """The version that a job was accepted for is another one now."""

    code = "model_changed"


class GaveUp(JobFailure):
    """The service died each time the job was run."""

    code = "gave_up"


class InputLost(JobFailure):
    """The file of a job is gone, or is not the one that was sent."""

    code = "input_lost"


def new_id() -> str:
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    return re.fullmatch(ID, text, re.ASCII) is not None


def info_of(job: Job, kept_s: float, position: int | None, progress: JobProgress | None) -> JobInfo:
    """What its owner is told. kept_s: how long a result is kept."""
    address = f"/v1/jobs/{job.id}"
    longer = 1 if job.state == "done" else 2
    return JobInfo(
        id=job.id,
        state=job.state,
        model=job.asked.model,
        format=job.asked.format,
        name=job.asked.name,
        created=_time(job.created_s),
        started=None if job.started_s is None else _time(job.started_s),
        finished=None if job.finished_s is None else _time(job.finished_s),
        expires=None if job.finished_s is None else _time(job.finished_s + longer * kept_s),
        position=position,
        progress=progress,
        result=None if job.result is None else job.result.shown,
        error=job.error,
        links=JobLinks(job=address, events=f"{address}/events", result=f"{address}/result"),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
