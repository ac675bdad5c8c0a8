"""A device and whoever works on it now: when a worker dies, another one is started with the same nets, and asked again."""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
import numpy.typing as npt

from models.device import CPU, known_device
from models.errors import FipError
from models.voxelize import Voxels
from service.errors import NotReady, WorkerFailed
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.client import Lane, Net, Source, Worker, WorkerLost
from service.worker.nursery import nursery
from service.worker.place import Place, voxels_of_a_batch

LOG = logging.getLogger("fip.service")
PATIENCE_S = 60.0  # how long what needs a worker waits for one
YOUNG_S, PATIENT_DEATHS = 2.0, 3  # after so many workers in a row that died that soon, the next one is waited for
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LOAD_TRIES = 2  # one may have been lost over something else
CLOSE_S = 5.0  # for the watching thread to notice


@dataclass(frozen=True)
class Loads:
    """How many have been begun so far, and how many of those are under way."""

    begun: int = 0
    under_way: int = 0


class Device:
    """Thread-safe; everything but `up` and `close` blocks and belongs into threads."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings, self._telemetry = settings, telemetry
        self._changed = threading.Condition()
        self._worker: Worker | None = None
        self._starting: Worker | None = None
        self._place: Place | None = None  # of the first worker, and so of all
        self._watch: threading.Thread | None = None
        self._ending = threading.Event()
        self._sources: dict[str, Source] = {}
        self._bytes: dict[str, int] = {}
        self.loads = Loads()
        self._released: SimpleQueue[str] = SimpleQueue()  # may be put into from anywhere, also while garbage is collected

    @property
    def up(self) -> bool:
        """Whether there is a worker with all nets."""
        return self._worker is not None

    @property
    def batch_voxels(self) -> int:
        """What a pass of several requests may have, by the place where nets run; before there was a worker, as on a CPU."""
        return voxels_of_a_batch(self._settings, self._place or Place(CPU))

    def wait(self) -> Worker:
        """The worker, started by the first who asks; while there is none, the next one. Raises: NotReady."""
        with self._changed:
            if self._watch is None and not self._ending.is_set():
                self._watch = threading.Thread(target=self._keep_one, name="fip-worker-watch", daemon=True)
                self._watch.start()
            self._changed.wait_for(lambda: self._worker is not None or self._ending.is_set(), PATIENCE_S)
            if self._worker is None:
                raise NotReady("there is no worker for the device at the moment")
            return self._worker

    def load(self, source: Source) -> Net:
        """Load a net, for this worker and those to come. Raises: BadCheckpoint, BadOption, OutOfMemory, WorkerFailed, NotReady."""
        with self._changed:
            self.loads = Loads(self.loads.begun + 1, self.loads.under_way + 1)
        try:
            return self._load(source)
        finally:
            with self._changed:
                self.loads = Loads(self.loads.begun, self.loads.under_way - 1)

    def _load(self, source: Source) -> Net:
        for _ in range(LOAD_TRIES):
            worker = self.wait()
            try:
                net = worker.load(source)
            except WorkerLost:
                self._gone(worker)
                continue
            with self._changed:
                if self._worker is worker:
                    self._sources[source.key], self._bytes[source.key] = source, net.bytes
                    return net
        raise WorkerFailed(f"{LOAD_TRIES} workers in a row were lost while they loaded it")

    def has(self, key: str) -> bool:
        """Whether the net is there, or will be as soon as there is a worker."""
        return key in self._sources

    @property
    def bytes(self) -> int:
        """Memory that the weights of all nets take, also of those that were released and are still there."""
        return sum(self._bytes.values())

    def release(self, key: str) -> None:
        """Nobody asks for this net any more; it goes at the next `drop_released`. Does not block."""
        self._released.put(key)

    def drop_released(self, wait_s: float = 0.0) -> None:
        """Give the memory of released nets back; if there are none, wait so long for one."""
        with suppress(Empty):
            self._drop(self._released.get(timeout=wait_s) if wait_s else self._released.get_nowait())
            while True:
                self._drop(self._released.get_nowait())

    def forward(self, key: str, batch: Sequence[Voxels], lane: Lane = "usual") -> npt.NDArray[np.float32]:
        """One forward pass (see Worker.forward). Raises: WorkerLost (once: ask again), OutOfMemory, WorkerFailed, NotReady."""
        worker = self.wait()
        try:
            return worker.forward(key, batch, lane)
        except WorkerLost:
            self._gone(worker)
            raise

    def _drop(self, key: str) -> None:
        with self._changed:
            known, worker = self._sources.pop(key, None), self._worker
        if known is not None and worker is not None:
            try:
                worker.drop(key)
            except WorkerLost:  # the next one does not load it
                self._gone(worker)
        self._bytes.pop(key, None)

    def close(self) -> None:
        """The worker ends after what it does now; one that is only being started, at once."""
        with self._changed:
            self._ending.set()
            worker, self._worker = self._worker, None
            starting, self._starting = self._starting, None
            self._changed.notify_all()
        if worker is not None:
            worker.hang_up()
        if starting is not None:
            starting.kill()
            starting.hang_up()
        if self._watch is not None:
            self._watch.join(CLOSE_S)

    def _gone(self, worker: Worker) -> None:
        """Whoever notices first says so: nobody is given this worker any more."""
        with self._changed:
            if self._worker is worker:
                self._worker = None
                self._telemetry.worker_up.set(0)

    def _keep_one(self) -> None:
        """The life of the watching thread: one worker after the other."""
        deaths = 0  # in a row, of workers that were young
        while not self._ending.is_set():
            started, lived_s = time.monotonic(), 0.0  # one that did not start has not lived
            try:
                self._one_life()
                lived_s = time.monotonic() - started
            except WorkerLost as error:
                LOG.error("no worker", extra={"fields": {"error": str(error)}})
            except Exception:
                LOG.exception("no worker")
            deaths = deaths + 1 if lived_s < YOUNG_S else 0
            if deaths >= PATIENT_DEATHS:
                self._ending.wait(min(FIRST_PAUSE_S * 2 ** min(deaths - PATIENT_DEATHS, 10), LONGEST_PAUSE_S))

    def _one_life(self) -> None:
        """From the start of a worker to its end. Raises: WorkerLost (it did not start)."""
        started = time.monotonic()
        worker = self._start()
        said = worker.wait_for_end() if self._worker is worker else ""
        self._gone(worker)
        worker.close()
        if not self._ending.is_set():
            self._telemetry.worker_restarts.inc()
            lived_s = round(time.monotonic() - started, 3)
            LOG.error("worker lost", extra={"fields": {"pid": worker.pid, "lived_s": lived_s, "why": said or worker.why}})

    def _start(self) -> Worker:
        """A worker with all nets, which everybody is given from now on. Raises: WorkerLost."""
        started, how = time.monotonic(), self._settings
        setup: dict[str, object] = {
            "threads": how.threads,
            "memory_bytes": how.worker_memory_bytes,
            "device": known_device(how.device) if self._place is None else self._place.device,  # it is the worker that tries it out
            "engine": how.engine,
            "batch_voxels": how.batch_voxels,
            "tile_voxels": how.tile_voxels,
        }
        worker = Worker(nursery(), setup, how.forward_seconds)
        with self._changed:
            self._starting = worker
        try:
            if self._ending.is_set():
                raise WorkerLost("the service ends")
            self._settle(worker.begin())
            self._load_all(worker)
        except BaseException:
            worker.kill()
            worker.close()
            raise
        finally:
            with self._changed:
                self._starting = None
        LOG.info("worker ready", extra={"fields": {"pid": worker.pid, "seconds": round(time.monotonic() - started, 3)}})
        return worker

    def _settle(self, place: Place) -> None:
        """Where the first worker computes, all others do: what began on a GPU would be an outage on a CPU that nobody is told of.

        Raises: WorkerLost (the device does not compute; the service is not ready until it does).
        """
        if place.wrong and place.device != CPU:
            self._telemetry.device_failures.inc()
            raise WorkerLost(f"{place.device} does not compute: {place.wrong}")
        if self._place is None:
            self._place = place
            self._telemetry.device_info.labels(place.device).set(1)
            facts = {"device": place.device, "batch_voxels": self.batch_voxels, "why": place.wrong}
            LOG.log(logging.WARNING if place.wrong else logging.INFO, "nets run here", extra={"fields": facts})

    def _load_all(self, worker: Worker) -> None:
        """Raises: WorkerLost."""
        loaded = set[str]()
        while True:
            missing, surplus = self._hand_over(worker, loaded)
            if not missing and not surplus:
                return
            for key in surplus:  # released since
                loaded.discard(key)
                worker.drop(key)
            for source in missing:
                loaded.add(source.key)
                try:
                    worker.load(source)
                except FipError as error:  # removed or damaged since
                    self._sources.pop(source.key, None)
                    self._bytes.pop(source.key, None)
                    LOG.error("model does not load again", extra={"fields": {"model": source.key, "error": str(error)}})

    def _hand_over(self, worker: Worker, loaded: set[str]) -> tuple[list[Source], list[str]]:
        """The nets that it still lacks, and those that it has and nobody wants; if there are none, it is the worker from now on."""
        with self._changed:
            missing = [source for key, source in self._sources.items() if key not in loaded]
            surplus = [key for key in loaded if key not in self._sources]
            if not missing and not surplus and not self._ending.is_set():
                self._worker = worker
                self._telemetry.worker_up.set(1)
                self._changed.notify_all()
        return missing, surplus
