"""The models that are in memory, within a budget: whoever was asked for longest ago goes first."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from models.checkpoint import loading_bytes
from models.manifest import Manifest
from models.processor import Processor
from models.registry import Entry
from service.errors import ModelTooLarge, NotReady
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.client import Source
from service.worker.device import Device

LOG = logging.getLogger("fip.service")
ROOM_S = 30.0  # how long a request waits for room that models at work have
LOOK_AFTER_ROOM_S = 0.5  # the same for whoever looks after models, and comes back soon
IDLE_S = 600.0  # how long a model stays that nothing in use stands for, such as the version before, to which somebody may go back
LOOK_S = 0.02  # while it waits: how often it looks

Key = tuple[str, str, int]  # registry, name, version


@dataclass(eq=False)
class Loaded:
    """A version in memory. net: what the device calls its net; engine: what its convolutions run on; bytes: of its weights there; users:
    what requests and jobs hold on to while they are at work with it.
    """

    entry: Entry
    digest: str
    processor: Processor
    net: str
    engine: str
    bytes: int
    asked_s: float = field(default_factory=time.monotonic)
    users: "weakref.WeakSet[object]" = field(default_factory=weakref.WeakSet)

    @property
    def key(self) -> Key:
        return key_of(self.entry)


class Residents:
    """Thread-safe; `find` does not block. What is at work is not put out; what was replaced meanwhile stays on the device until the last
    request that has its processor is through.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, device: Device) -> None:
        self._settings, self._telemetry, self._device = settings, telemetry, device
        self._budget = settings.model_memory_bytes
        self._loading = threading.Lock()
        self._here: dict[Key, Loaded] = {}
        self._count = 0
        self._peak_bytes = 0
        telemetry.model_memory.set_function(lambda: device.bytes)
        telemetry.model_memory_peak.set_function(lambda: self._peak_bytes)

    def find(self, entry: Entry, *, asked: bool = True) -> Loaded | None:
        """The version, if it is in memory. asked: by a request, so that others go first when there is no room."""
        loaded = self._here.get(key_of(entry))
        if loaded is None or not self._device.has(loaded.net):  # the device could not load it again after a worker died
            return None
        if asked:
            loaded.asked_s = time.monotonic()
        return loaded

    def let_go(self, kept: Iterable[Entry]) -> None:
        """Of all but these, those that nobody has asked for for a while."""
        keys, now = {key_of(entry) for entry in kept}, time.monotonic()
        for loaded in self.all():
            if loaded.key not in keys and now > loaded.asked_s + IDLE_S and not loaded.users:
                self._forget(loaded)
        if self._loading.acquire(blocking=False):  # whoever loads does it too
            try:
                self._device.drop_released()
            finally:
                self._loading.release()

    def all(self) -> list[Loaded]:
        return list(self._here.values())

    def load(self, entry: Entry, folder: Path, manifest: Manifest, digest: str, *, asked: bool = True) -> Loaded:
        """Load a version in the place of whatever was here under its number. One after the other: the device loads no two at once.

        asked: by a request, which waits for room.
        Raises: BadCheckpoint, WorkerFailed (it does not run), ModelTooLarge, NotReady (all memory is taken by models at work), OutOfMemory.
        """
        need = loading_bytes(folder)
        if need > self._budget:
            raise ModelTooLarge(
                f"{entry} takes {need} bytes of memory while it is loaded, and all models together may take {self._budget}", where="model"
            )
        if (before := self._here.get(key_of(entry))) is not None:
            self._forget(before)
        until_s, collected = time.monotonic() + (ROOM_S if asked else LOOK_AFTER_ROOM_S), False
        while True:
            with self._loading:
                if self._make_room(need):
                    return self._load(entry, need, folder, manifest, digest)
            if time.monotonic() > until_s:
                raise NotReady("the memory for models is taken by others that are at work")
            time.sleep(LOOK_S)
            if not collected:
                collected = True
                gc.collect()  # a request that failed may be part of a cycle

    def _load(self, entry: Entry, need: int, folder: Path, manifest: Manifest, digest: str) -> Loaded:
        how = self._settings
        self._peak_bytes = max(self._peak_bytes, self._device.bytes + need)
        self._count += 1
        source = Source(f"{entry} {digest} {self._count}", folder, digest, how.engine, how.precision)
        net = self._device.load(source)
        loaded = Loaded(entry, digest, Processor(manifest, net.reach), source.key, net.engine, net.bytes)
        weakref.finalize(loaded.processor, self._device.release, source.key)  # when the last request is through with it
        self._here[loaded.key] = loaded
        self._telemetry.model_info.labels(entry.model.name, str(entry.model.version), digest, manifest.task).set(1)
        self._telemetry.model_loads.inc()
        return loaded

    def _make_room(self, need: int) -> bool:
        """Put out whoever was asked for longest ago and is not at work, one after the other; whether that was enough. If it would not be,
        nobody is.
        """
        self._device.drop_released()
        idle = sorted((loaded for loaded in self.all() if not loaded.users), key=lambda loaded: loaded.asked_s, reverse=True)
        if self._device.bytes - sum(loaded.bytes for loaded in idle) + need > self._budget:
            return False
        while self._device.bytes + need > self._budget and idle:
            self._forget(idle.pop())
            self._telemetry.model_evictions.inc()
            self._device.drop_released()
        return self._device.bytes + need <= self._budget

    def _forget(self, loaded: Loaded) -> None:
        if self._here.pop(loaded.key, None) is not None:
            name, version = loaded.entry.model.name, loaded.entry.model.version
            self._telemetry.model_info.remove_by_labels({"name": name, "version": str(version)})


def key_of(entry: Entry) -> Key:
    return entry.registry.address, entry.model.name, entry.model.version
