"""Metrics, and the times of a request. One registry an app, so two apps in a process do not mix their numbers."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LARGEST_TRACE = 1000  # spans of a request: a cloud has hundreds of tiles
STAGES = ("read", "parse", "voxelize", "queue", "forward", "encode")
POINTS = tuple(4.0**power for power in range(3, 13))  # 64 to 16.8 million
REQUESTS = (1, 2, 4, 8, 16, 32, 64)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

JOB_SECONDS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0)


class Telemetry:
    """The metrics of one app; their names are a contract."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request_duration = Histogram(
            "fip_request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            ("route", "model", "version", "code"),
            registry=self.registry,
            buckets=SECONDS,
        )
        self.stage_duration = Histogram(
            "fip_stage_duration_seconds", "Time in each stage of a request", ("stage",), registry=self.registry, buckets=SECONDS
        )
        self.in_flight = Gauge("fip_requests_in_flight", "Requests being answered", registry=self.registry)
        self.queue_requests = Gauge("fip_queue_requests", "Requests waiting for the device or holding it", registry=self.registry)
        self.queue_points = Gauge("fip_queue_points", "Points (after the point budget) of those requests", registry=self.registry)
        self.admitted = {
            what: Gauge(f"fip_admitted_{what}", f"{said} that count against FIP_MAX_WAITING{limit}", registry=self.registry)
            for what, said, limit in (
                ("requests", "Requests with a whole file", ""),
                ("bytes", "Bytes of files that came and of answers that are being sent", "_BYTES"),
                ("points", "Points of clouds", "_POINTS"),
            )
        }
        self.batch_requests = Histogram("fip_batch_requests", "Requests in a forward pass", registry=self.registry, buckets=REQUESTS)
        self.batch_points = Histogram(
            "fip_batch_points", "Points (after the point budget) in a forward pass", registry=self.registry, buckets=POINTS
        )
        self.rejected = Counter("fip_rejected", "Requests refused, by the code of the problem", ("reason",), registry=self.registry)
        self.cancelled = Counter("fip_cancelled", "Requests whose client left, by stage", ("stage",), registry=self.registry)
        self.worker_up = Gauge("fip_worker_up", "1 while there is a worker process with its nets loaded", registry=self.registry)
        self.device_info = Gauge("fip_device_info", "1 for where nets run", ("device",), registry=self.registry)
        self.device_failures = Counter(
            "fip_device_failures", "Workers that did not start because the device does not compute", registry=self.registry
        )
        self.worker_restarts = Counter("fip_worker_restarts", "Worker processes that died and were replaced", registry=self.registry)
        self.model_info = Gauge("fip_model_info", "1 for every model loaded", ("name", "version", "digest", "task"), registry=self.registry)
        self.load_failures = Counter(
            "fip_model_load_failures", "Versions that did not load, each time that was tried", ("model", "version"), registry=self.registry
        )
        self.model_memory = Gauge("fip_model_memory_bytes", "Memory that the weights of all loaded models take", registry=self.registry)
        self.model_memory_peak = Gauge(
            "fip_model_memory_peak_bytes", "The most that they took, with what one takes while it is loaded", registry=self.registry
        )
        self.model_loads = Counter("fip_model_loads", "Versions loaded", registry=self.registry)
        self.model_evictions = Counter("fip_model_evictions", "Versions that went to make room for others", registry=self.registry)
        self.model_swaps = Counter(
            "fip_model_swaps", "New versions that took the place of others under a reference", ("model",), registry=self.registry
        )
        versions = ("model", "version", "shadow")
        self.shadow_requests = Counter(
            "fip_shadow_requests", "Requests chosen for the candidate beside the model", (*versions, "outcome"), registry=self.registry
        )
        self.shadow_answers = Counter(
            "fip_shadow_answers",
            "Answers compared: of a cloud one, or one for every point",
            versions,
            registry=self.registry,
        )
        self.shadow_agreed = Counter(
            "fip_shadow_answers_agreed", "Those in which the candidate agreed with the model", versions, registry=self.registry
        )
        self.jobs = Gauge("fip_jobs", "Jobs that are known, by state", ("state",), registry=self.registry)
        self.job_duration = Histogram(
            "fip_job_duration_seconds",
            "From the beginning of a job's run, the last one if it had several, to its end",
            ("state",),
            registry=self.registry,
            buckets=JOB_SECONDS,
        )
        for stage in STAGES:  # a stage is listed before its first request
            self.stage_duration.labels(stage)


class Timings:
    """How long the stages of one request took, in `ms` in the order of their first ends. What a request goes through once a tile adds up;
    every stage is observed once, by `close`, also of a request that fails. `now` is the stage that it is in, or was in last.

    Only one stage of a request runs at a time, in whichever thread.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self._durations = telemetry.stage_duration
        self.ms: dict[str, float] = {}
        self.spans: list[tuple[str, int, int]] = []  # stage, begin and end in ns since the epoch
        self.now = STAGES[0]
        self._open: tuple[str, int] | None = None  # the stage that has not ended, and its begin
        self.facts: dict[str, int] = {}  # what the log and the trace say of the request

    def close(self) -> None:
        for stage, milliseconds in self.ms.items():
            self._durations.labels(stage).observe(milliseconds / 1000)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self.begin(name)
        try:
            yield
        finally:
            self.ended(name, time.perf_counter() - started)

    def begin(self, name: str) -> None:
        """A stage begins, which somebody else tells the end of."""
        self.now = name
        self._open = (name, time.time_ns())

    @property
    def unfinished(self) -> tuple[str, int, int] | None:
        """The stage that is going on, its begin, and the time, as in `spans`."""
        return None if self._open is None else (*self._open, time.time_ns())

    def ended(self, name: str, seconds: float) -> None:
        """A stage that ends now."""
        self._open = None
        self.ms[name] = self.ms.get(name, 0.0) + seconds * 1000
        if len(self.spans) < LARGEST_TRACE:
            end = time.time_ns()
            self.spans.append((name, end - int(seconds * 1e9), end))


def server_timing(timings_ms: Mapping[str, float]) -> str:
    """The header Server-Timing."""
    return ", ".join(f"{stage};dur={milliseconds:.3f}" for stage, milliseconds in timings_ms.items())
