"""Names to live models: the bundled ones, and those of a registry, which win.

Names and aliases are looked up whenever it is asked, so a new version or a moved alias is seen at once (requests ask once in
`lookup_seconds`, see service.recent); weights are loaded at the first use of a version, which never changes, and stay. What was
answered under a name or an alias goes on being answered when the version it moved to does not load, or when the registry cannot be
reached.
"""

import contextlib
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from models.artefact import read_manifest
from models.errors import BadCheckpoint, ModelError, RegistryUnavailable, UnknownModel, WrongTask
from models.manifest import Task
from models.processor import Processor
from models.registry import CHAMPION, Catalogue, Entry, ModelVersion, Reference, open_catalogue, parse_reference
from service.model_rows import alias_of, check_task, model_info, model_ref, read_card
from service.schemas import DamagedModel, ModelDetails, ModelInfo, ModelList, ModelRef
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.client import Source
from service.worker.device import Device

LOG = logging.getLogger("fip.service")
TASKS: tuple[Task, ...] = get_args(Task)
ASK_AGAIN_S = 2.0  # a registry that was not there is left alone for so long
LOADED_AT_MOST = 8  # models in memory, beside those that aliases answer with
LOAD_AGAIN_S = 10.0  # a version that did not load may have been repaired after so long

Key = tuple[str, str, int]  # registry, name, version


@dataclass(frozen=True)
class Live:
    """A loaded model and the name it answers under. key: what the device calls its net; engine: what its convolutions run on."""

    ref: ModelRef
    processor: Processor
    key: str
    engine: str


@dataclass(frozen=True)
class Loaded:
    digest: str
    processor: Processor
    key: str
    engine: str


@dataclass(frozen=True)
class Failure:
    """Why a version did not load, in words fit for an answer, and when that was (monotonic seconds)."""

    reason: str
    at_s: float


class NotLoaded(Exception):
    """The model is not in memory, and whoever asked did not want to wait for it."""


class Pool:
    """Thread-safe; what it answers comes from files and servers, so it is asked in threads.

    Its errors are fit for an answer: they name a model and a file, no folder and no address.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry, device: Device, models: Catalogue | None = None) -> None:
        """models: what can be asked for; None opens the registry of the settings at the first use."""
        self._settings, self._telemetry, self._device, self._given = settings, telemetry, device, models
        self._lock = threading.Lock()
        self._loaded: dict[Key, Loaded] = {}
        self._failed: dict[Key, Failure] = {}
        self._served: dict[tuple[str, str | None], Live] = {}  # by name and the alias that was gone through
        self._defaults: dict[Task, str] = {}
        self._unreachable_until_s = 0.0
        self._numbers = itertools.count()

    @cached_property
    def _models(self) -> Catalogue:
        return self._given or open_catalogue(self._settings.registry)

    @cached_property
    def _named_task(self) -> Task | None:
        """What the model of the settings does, if they name one. Raises: as `get`."""
        named = self._settings.model
        return None if named is None else self._live(parse_reference(named), None).processor.manifest.task

    def default(self, task: Task) -> str:
        """The reference that a request without a model means: the one in the settings, if that does the task, else a bundled one.

        Raises: UnknownModel (nothing here does that), RegistryUnavailable; while the model of the settings never loaded: as `get`.
        """
        if self._settings.model is not None and self._named_task == task:
            return self._settings.model
        if task not in self._defaults:
            with self._asking():
                self._defaults[task] = self._models.default(task)
        return self._defaults[task]

    def load(self) -> dict[str, Live]:
        """Load the default of every task that has a sound one, by what it is called; requests for the other tasks are told why not.

        Raises: BadModelName, UnknownModel, BadCheckpoint, RegistryUnavailable (the model of the settings, or all of them, cannot be had).
        """
        found, missing = dict[str, Live](), list[ModelError]()
        for task in TASKS:
            try:
                found[self.default(task)] = self.get(None, task)
            except (UnknownModel, BadCheckpoint) as error:
                if task == self._named_task:
                    raise
                missing.append(error)
        if not found:
            raise next((error for error in missing if isinstance(error, BadCheckpoint)), missing[0])
        return found

    def get(self, reference: str | None, task: Task | None, *, may_load: bool = True) -> Live:
        """The model of a reference, loaded if need be; what it was before, if it cannot be had now. task: None is whatever it does.

        Raises: NotLoaded (unless `may_load`: it would have to be loaded, or is being loaded), BadModelName, UnknownModel, WrongTask (says
        what to ask instead), BadCheckpoint (a version was asked for, or nothing was answered before), RegistryUnavailable (nothing was
        answered before).
        """
        if task is None:
            assert reference is not None  # no model is the default of all tasks
            return self._live(parse_reference(reference), None, may_load)
        wanted = parse_reference(self.default(task) if reference is None else reference)
        try:
            return self._live(wanted, task, may_load)
        except WrongTask as error:
            raise self._instead(error, reference, task) from error

    def _live(self, wanted: Reference, task: Task | None, may_load: bool = True) -> Live:
        """As `get`, for a model of any task if None."""
        live = self._found(wanted, task, may_load)
        check_task(wanted.name, live.processor.manifest, task)
        return live

    def _instead(self, error: WrongTask, reference: str | None, task: Task) -> WrongTask:
        """The error with the model that does the task, where there is another."""
        with contextlib.suppress(ModelError):
            if reference is not None and reference != (default := self.default(task)):
                return WrongTask(f"{error.detail}, or leave ?model= out to ask {default!r}", where="model", known=[default])
        return error

    def _found(self, wanted: Reference, task: Task | None, may_load: bool) -> Live:
        try:
            entry = self._resolve(wanted)
        except (BadCheckpoint, RegistryUnavailable) as error:
            if (before := self._before(wanted, error)) is None:
                raise
            return before
        try:
            loaded = self._load(entry, task, may_load)
        except (BadCheckpoint, RegistryUnavailable) as error:
            before = self._before(wanted, error) or self._earlier(entry, wanted, task, may_load)
            if before is None:
                raise
            return before
        live = _live(entry.model, loaded, wanted)
        if wanted.version is None:
            self._served[wanted.name, live.ref.alias] = live
        return live

    def _before(self, wanted: Reference, error: ModelError) -> Live | None:
        """What was answered under this name and alias, whichever way they were spelt; under a version only if it is out of reach."""
        if wanted.version is None:
            found = (self._served.get((wanted.name, alias)) for alias in ((wanted.alias,) if wanted.alias else (CHAMPION, None)))
            return next((live for live in found if live is not None), None)
        if isinstance(error, BadCheckpoint):
            return None
        for (_, name, version), loaded in list(self._loaded.items()):
            if (name, version) == (wanted.name, wanted.version):
                return _live(ModelVersion(name, version), loaded, wanted)
        return None

    def _earlier(self, entry: Entry, wanted: Reference, task: Task | None, may_load: bool) -> Live | None:
        """The version that the alias pointed at before the one that does not load, for a service that has just started."""
        alias = alias_of(entry.model, wanted)
        if wanted.version is not None or alias is None:
            return None
        for version in reversed(entry.registry.history(entry.model.name, alias)):
            with contextlib.suppress(ModelError):
                older = Entry(ModelVersion(entry.model.name, version, (alias,)), entry.registry)
                loaded = self._load(older, task, may_load)
                LOG.error("an older version answers", extra={"fields": {"alias": f"{wanted.name}@{alias}", "model": str(older)}})
                return _live(older.model, loaded, wanted)
        return None

    def catalogue(self) -> ModelList:
        """Every version that can be asked for, and apart from them those that are damaged. Raises: RegistryUnavailable."""
        defaults = self._default_refs()
        with self._asking():
            rows = [row for name in self._models.names() for row in self._listed(name, defaults)]
        return ModelList(
            models=tuple(row for row in rows if isinstance(row, ModelInfo)),
            damaged=tuple(row for row in rows if isinstance(row, DamagedModel)),
        )

    def versions(self, name: str) -> tuple[str, ...]:
        """All of a model, oldest first, damaged ones too. Raises: BadModelName, BadCheckpoint, RegistryUnavailable."""
        with self._asking(name):
            return tuple(str(entry.model.version) for entry in self._models.versions(name))

    def describe(self, reference: str) -> ModelDetails:
        """One model with its card, without loading it. Raises: BadModelName, UnknownModel, BadCheckpoint, RegistryUnavailable."""
        wanted = parse_reference(reference)
        entry = self._resolve(wanted)
        if failure := self._failure(entry):  # what does not load is not described as if it did
            raise BadCheckpoint(failure.reason, where=str(entry.model))
        with self._asking(entry.model):
            folder = entry.folder()
            manifest, digest = read_manifest(folder)
            card = read_card(folder, manifest)
        info = model_info(entry.model, manifest, digest, alias_of(entry.model, wanted), self._default_refs())
        return ModelDetails(**dict(info), card=card, provenance=manifest.provenance)

    def _resolve(self, wanted: Reference) -> Entry:
        with self._asking(wanted.name):
            return self._models.resolve(wanted)

    def _load(self, entry: Entry, task: Task | None, may_load: bool) -> Loaded:
        """Raises: NotLoaded (unless may_load), BadCheckpoint, RegistryUnavailable, WrongTask (it is not loaded yet, and stays so)."""
        key = _key(entry)
        loaded = self._loaded.get(key)
        if loaded is None or self._replaced(entry, loaded):  # one that is there does not wait for another that is being loaded
            if not may_load and self._failure(entry) is None:
                raise NotLoaded
            with self._lock:
                loaded = self._loaded.get(key)
                if loaded is None or self._replaced(entry, loaded):
                    loaded = self._read(entry, task)
        return loaded

    def _replaced(self, entry: Entry, loaded: Loaded) -> bool:
        """Whether it has to be loaded anew: the device could not load it again after a worker died, or the registry has another model
        under this number, because somebody deleted the name there and published anew.
        """
        if not self._device.has(loaded.key):
            return True
        try:
            return entry.registry.digest(entry.model) != loaded.digest
        except ModelError:  # damaged or out of reach: what is loaded is what was published
            return False

    def _failure(self, entry: Entry) -> Failure | None:
        """Why a version did not load a moment ago; what is longer ago may have been repaired."""
        failure = self._failed.get(_key(entry))
        return failure if failure is not None and time.monotonic() < failure.at_s + LOAD_AGAIN_S else None

    def _read(self, entry: Entry, task: Task | None) -> Loaded:
        """Load the weights of a version, unless that failed a moment ago. Raises: BadCheckpoint, RegistryUnavailable, WrongTask."""
        model, key = entry.model, _key(entry)
        if failure := self._failure(entry):
            raise BadCheckpoint(failure.reason, where=str(model))
        try:
            with self._asking(model):
                folder = entry.folder()
                manifest, digest = read_manifest(folder)
                check_task(model.name, manifest, task)
                how = self._settings
                source = Source(f"{model} {digest} {next(self._numbers)}", folder, digest, how.device, how.engine, how.precision)
                net = self._device.load(source)
                loaded = Loaded(digest, Processor(manifest, net.reach), source.key, net.engine)
                weakref.finalize(loaded.processor, self._device.release, source.key)  # when the last request is through with it
        except BadCheckpoint as error:
            self._failed[key] = Failure(error.detail, time.monotonic())
            self._telemetry.load_failures.labels(model.name, str(model.version)).inc()
            LOG.error("model does not load", extra={"fields": {"model": str(model), "error": str(error.__cause__)}})
            raise
        self._failed.pop(key, None)
        self._loaded[key] = loaded
        self._let_go()
        self._telemetry.model_info.labels(model.name, str(model.version), digest, manifest.task).set(1)
        return loaded

    def _let_go(self) -> None:
        """Forget the models that were loaded first, beyond the limit: not those that an alias was answered with."""
        kept = {live.key for live in list(self._served.values())}
        for key, loaded in list(self._loaded.items())[:-1]:
            if len(self._loaded) > LOADED_AT_MOST and loaded.key not in kept:
                del self._loaded[key]
                self._telemetry.model_info.remove_by_labels({"name": key[1], "version": str(key[2])})

    def _listed(self, name: str, defaults: list[ModelRef]) -> list[ModelInfo | DamagedModel]:
        """A row for every version of a model; one for all of them if its aliases are damaged."""
        try:
            with self._asking(name):
                return [self._row(entry, defaults) for entry in self._models.versions(name)]
        except BadCheckpoint as error:
            return [DamagedModel(name=name, version=None, aliases=(), reason=error.detail)]

    def _row(self, entry: Entry, defaults: list[ModelRef]) -> ModelInfo | DamagedModel:
        model = entry.model
        if failure := self._failure(entry):
            return DamagedModel(name=model.name, version=str(model.version), aliases=model.aliases, reason=failure.reason)
        try:
            with self._asking(model):
                manifest, digest = entry.manifest()
        except BadCheckpoint as error:
            LOG.warning("model is damaged", extra={"fields": {"model": str(model), "error": str(error.__cause__)}})
            return DamagedModel(name=model.name, version=str(model.version), aliases=model.aliases, reason=error.detail)
        return model_info(model, manifest, digest, CHAMPION if CHAMPION in model.aliases else None, defaults)

    def _default_refs(self) -> list[ModelRef]:
        """What answers requests that name no model, of each task that something answers."""
        found = []
        for task in TASKS:
            with contextlib.suppress(ModelError):
                found.append(self.get(None, task).ref)
        return found

    @contextmanager
    def _asking(self, about: ModelVersion | str = "") -> Iterator[None]:
        """Ask the registry, unless it was unreachable a moment ago; in what it raises, leave folders and addresses to the log.

        Raises: BadCheckpoint, RegistryUnavailable.
        """
        away = "the registry of models cannot be reached at the moment"
        if time.monotonic() < self._unreachable_until_s:
            raise RegistryUnavailable(away)
        try:
            yield
        except RegistryUnavailable as error:
            self._unreachable_until_s = time.monotonic() + ASK_AGAIN_S
            LOG.error("registry unavailable", extra={"fields": {"error": str(error)}})
            raise RegistryUnavailable(away) from error
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{about} is damaged: {_file(error)}{error.detail}", where=str(about)) from error


def _live(model: ModelVersion, loaded: Loaded, wanted: Reference) -> Live:
    return Live(model_ref(model, loaded.digest, wanted), loaded.processor, loaded.key, loaded.engine)


def _key(entry: Entry) -> Key:
    return entry.registry.address, entry.model.name, entry.model.version


def _file(error: BadCheckpoint) -> str:
    """`model.safetensors: ` if the error is about a file, else nothing: no more of a path is shown."""
    name = Path(error.where).name if error.where else ""
    return f"{name}: " if "." in name else ""
