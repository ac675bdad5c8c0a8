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
ROOM_S = 30.0  # how long a model waits for others that are still at work to end, for their room
IDLE_S = 600.0  # how long a model stays that nothing in use stands for, such as the version before, to which somebody may go back
LOOK_S, COLLECT_S = 0.02, 0.02  # while it waits: how often it looks, and when what was thrown away unseen is looked for

Key = tuple[str, str, int]  # registry, name, version


@dataclass(eq=False)
class Loaded:
    """A version in memory. net: what the device calls its net; engine: what its convolutions run on; bytes: of its weights there."""

    entry: Entry
    digest: str
    processor: Processor
    net: str
    engine: str
    bytes: int
    asked_s: float = field(default_factory=time.monotonic)


class Residents:
    """Thread-safe; `find` does not block. A model stays on the device until the last request that has its processor is through."""

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
        for key in [key for key, loaded in list(self._here.items()) if key not in keys and now > loaded.asked_s + IDLE_S]:
            self._forget(key)
        if self._loading.acquire(blocking=False):  # whoever loads does it too
            try:
                self._device.drop_released()
            finally:
                self._loading.release()

    def all(self) -> list[Loaded]:
        return list(self._here.values())

    def load(self, entry: Entry, folder: Path, manifest: Manifest, digest: str) -> Loaded:
        """Load a version in the place of whatever was here under its number. One after the other: the device loads no two at once.

        Raises: BadCheckpoint, WorkerFailed (it does not run), ModelTooLarge, NotReady (all memory is taken by models at work), OutOfMemory.
        """
        key, how = key_of(entry), self._settings
        with self._loading:
            self._forget(key)
            need = loading_bytes(folder)
            self._make_room(entry, need)
            self._peak_bytes = max(self._peak_bytes, self._device.bytes + need)
            self._count += 1
            source = Source(f"{entry} {digest} {self._count}", folder, digest, how.device, how.engine, how.precision)
            net = self._device.load(source)
            loaded = Loaded(entry, digest, Processor(manifest, net.reach), source.key, net.engine, net.bytes)
            weakref.finalize(loaded.processor, self._device.release, source.key)  # when the last request is through with it
            self._here[key] = loaded
            self._telemetry.model_info.labels(entry.model.name, str(entry.model.version), digest, manifest.task).set(1)
        self._telemetry.model_loads.inc()
        return loaded

    def _make_room(self, entry: Entry, need: int) -> None:
        """Raises: ModelTooLarge, NotReady."""
        if need > self._budget:
            raise ModelTooLarge(
                f"{entry} takes {need} bytes of memory while it is loaded, and all models together may take {self._budget}", where="model"
            )
        began, collected = time.monotonic(), False
        self._device.drop_released()
        while self._device.bytes + need > self._budget:
            if sum(loaded.bytes for loaded in self.all()) + need > self._budget:  # else it is enough to wait for those that went before
                self._forget(min(self._here, key=lambda key: self._here[key].asked_s))
                self._telemetry.model_evictions.inc()
                self._device.drop_released()
                continue
            waited_s = time.monotonic() - began
            if waited_s > ROOM_S:
                raise NotReady("the memory for models is taken by others that are at work")
            if waited_s > COLLECT_S and not collected:
                collected = True
                gc.collect()  # a request that failed may be part of a cycle
            self._device.drop_released(LOOK_S)

    def _forget(self, key: Key) -> None:
        loaded = self._here.pop(key, None)
        if loaded is not None:
            self._telemetry.model_info.remove_by_labels({"name": key[1], "version": str(key[2])})


def key_of(entry: Entry) -> Key:
    return entry.registry.address, entry.model.name, entry.model.version
