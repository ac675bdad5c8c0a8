"""A version into memory: fetched, verified, given room, loaded, run once. One that cannot be is left alone for longer each time."""

import logging
import threading
import time
from dataclasses import dataclass

from models.artefact import check_files, read_manifest
from models.errors import BadCheckpoint, FipError, ModelError
from models.manifest import Task
from models.registry import Entry
from service.errors import ModelTooLarge, OutOfMemory, WorkerFailed
from service.inquiry import Inquiry
from service.model_rows import check_task
from service.residents import Key, Loaded, Residents, key_of
from service.telemetry import Telemetry

LOG = logging.getLogger("fip.service")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0  # before a version that did not load is tried again: it may have been repaired


class NotLoaded(Exception):
    """The model is not in memory, and whoever asked did not want to wait for it."""


@dataclass(frozen=True)
class Failure:
    """Why a version did not load, in words fit for an answer; until_s: it is left alone, after having been for pause_s (monotonic)."""

    error: FipError
    until_s: float
    pause_s: float


class Loader:
    """Thread-safe; what is not in memory is fetched and loaded in the thread of the first who asks, and others wait for that."""

    def __init__(self, telemetry: Telemetry, inquiry: Inquiry, residents: Residents) -> None:
        self._telemetry, self._inquiry, self._residents = telemetry, inquiry, residents
        self._guard = threading.Lock()
        self._turns: dict[Key, threading.Lock] = {}
        self._failed: dict[Key, Failure] = {}

    def failure(self, entry: Entry) -> FipError | None:
        """Why a version did not load a while ago; what is longer ago may have been repaired."""
        failure = self._failed.get(key_of(entry))
        return _anew(failure.error) if failure is not None and time.monotonic() < failure.until_s else None

    def load(self, entry: Entry, task: Task | None, *, may_load: bool = True, asked: bool = True) -> Loaded:
        """asked: by a request, and not by somebody who looks after models.

        Raises: NotLoaded (unless may_load), BadCheckpoint (damaged, or it does not run), RegistryUnavailable, WrongTask (it is not loaded
        yet, and stays so), ModelTooLarge, OutOfMemory, NotReady.
        """
        loaded = self._here(entry, asked)
        if loaded is not None:  # one that is there does not wait for another that is being loaded
            return loaded
        if error := self.failure(entry):
            raise error
        if not may_load:
            raise NotLoaded
        with self._guard:
            turn = self._turns.setdefault(key_of(entry), threading.Lock())
        with turn:
            if (loaded := self._here(entry, asked)) is not None:
                return loaded
            if error := self.failure(entry):
                raise error
            return self._read(entry, task, asked)

    def _here(self, entry: Entry, asked: bool) -> Loaded | None:
        """What is in memory, unless the registry has another model under this number: somebody deleted the name and published anew."""
        loaded = self._residents.find(entry, asked=asked)
        if loaded is None:
            return None
        try:
            return loaded if entry.registry.digest(entry.model) == loaded.digest else None
        except ModelError:  # damaged or out of reach: what is loaded is what was published
            return loaded

    def _read(self, entry: Entry, task: Task | None, asked: bool) -> Loaded:
        """Raises: as `load`."""
        model, key = entry.model, key_of(entry)
        try:
            with self._inquiry.fetching(model):
                folder = entry.folder()
                manifest, digest = read_manifest(folder)
                check_task(model.name, manifest, task)
                check_files(folder, manifest)  # before anything else makes room for it
                loaded = self._residents.load(entry, folder, manifest, digest, asked=asked)
        except WorkerFailed as error:
            raise self._remember(entry, BadCheckpoint(f"{model} does not run; the log says why", where=str(model)), error) from error
        except (BadCheckpoint, ModelTooLarge, OutOfMemory) as error:
            raise self._remember(entry, error, error.__cause__ or error) from error
        self._failed.pop(key, None)
        return loaded

    def _remember(self, entry: Entry, error: FipError, why: BaseException) -> FipError:
        key, before = key_of(entry), self._failed.get(key_of(entry))
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before.pause_s, LONGEST_PAUSE_S)
        self._failed[key] = Failure(_anew(error), time.monotonic() + pause_s, pause_s)
        self._telemetry.load_failures.labels(entry.model.name, str(entry.model.version)).inc()
        LOG.error("model does not load", extra={"fields": {"model": str(entry), "error": str(why)[:2000], "again_s": pause_s}})
        return error


def _anew(error: FipError) -> FipError:
    """Without what it went through: raised again and again, an error would hold on to every call."""
    return type(error)(error.detail, where=error.where, known=error.known)
