"""Names to live models: the bundled ones, and those of a registry, which win.

What a reference stands for is looked up at its first use. From then on it is followed: every `lookup_seconds` the registry is asked in
the background, a version that is new there is loaded and run once, and then answers in the place of the old one, which ends when its
last request does. So no request waits for the registry or for a new version, and a registry that cannot be reached, or a version that
does not load, changes nothing: what was answered goes on being answered. Weights are in memory within a budget (service.residents).
"""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from models.artefact import read_manifest
from models.errors import AliasConflict, BadCheckpoint, FipError, ModelError, RegistryUnavailable, UnknownModel, WrongTask
from models.manifest import Task
from models.processor import Processor
from models.registry import CHAMPION, Catalogue, Entry, ModelVersion, Reference, parse_reference
from models.registry.publish import promote, rollback
from service.inquiry import Inquiry
from service.model_rows import alias_of, check_task, model_ref
from service.problems import ModelTooLarge
from service.residents import Key, Loaded, Residents, key_of
from service.schemas import ModelRef
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.device import Device

LOG = logging.getLogger("fip.service")
TASKS: tuple[Task, ...] = get_args(Task)
LOAD_AGAIN_S = 10.0  # a version that did not load may have been repaired after so long
FOLLOWED_S = 300.0  # how long after its last request a reference is followed
MOST_FOLLOWED = 1000


@dataclass(frozen=True)
class Live:
    """A loaded model and the name it answers under. key: what the device calls its net; engine: what its convolutions run on."""

    ref: ModelRef
    processor: Processor
    key: str
    engine: str


@dataclass
class Followed:
    """What answers under a reference; asked_s: when it was asked for last (monotonic)."""

    wanted: Reference
    entry: Entry
    ref: ModelRef
    asked_s: float


@dataclass(frozen=True)
class Failure:
    """Why a version did not load, in words fit for an answer, and when that was (monotonic seconds)."""

    reason: str
    at_s: float


class NotLoaded(Exception):
    """The model is not in memory, and whoever asked did not want to wait for it."""


class Pool:
    """Thread-safe. All but `now` and `failure` ask files and servers, and belong into threads."""

    def __init__(self, settings: Settings, telemetry: Telemetry, device: Device, models: Catalogue | None = None) -> None:
        """models: what can be asked for; None opens the registry of the settings at the first use."""
        self._settings, self._telemetry = settings, telemetry
        self.inquiry, self.residents = Inquiry(settings, models), Residents(settings, telemetry, device)
        self._lock, self._following, self._keeping = threading.Lock(), threading.Lock(), threading.Lock()
        self._failed: dict[Key, Failure] = {}
        self._followed: dict[str, Followed] = {}  # by the reference as it was written
        self._served: dict[tuple[str, str | None], Entry] = {}  # by name and the alias that was gone through
        self._defaults: dict[Task, str] = {}

    @cached_property
    def _named_task(self) -> Task | None:
        """What the model of the settings does, if they name one. Raises: as `get`."""
        named = self._settings.model
        return None if named is None else self._live(named, None).processor.manifest.task

    def default(self, task: Task) -> str:
        """The reference that a request without a model means: the one in the settings, if that does the task, else a bundled one.

        Raises: UnknownModel (nothing here does that), RegistryUnavailable; while the model of the settings never loaded: as `get`.
        """
        if task not in self._defaults:
            if self._settings.model is not None and self._named_task == task:
                self._defaults[task] = self._settings.model
            else:
                with self.inquiry.asking():
                    self._defaults[task] = self.inquiry.models.default(task)
        return self._defaults[task]

    def load(self) -> dict[str, str]:
        """Load the default of every task that has a sound one; what each is called, and the engine of its convolutions. Requests for the
        other tasks are told why not.

        Raises: BadModelName, UnknownModel, BadCheckpoint, ModelTooLarge, RegistryUnavailable (the model of the settings, or all of them,
        cannot be had).
        """
        found, missing = dict[str, str](), list[ModelError]()
        for task in TASKS:
            try:
                found[self.default(task)] = self.get(None, task).engine
            except (UnknownModel, BadCheckpoint, ModelTooLarge) as error:
                if task == self._named_task:
                    raise
                missing.append(error)
        if not found:
            raise next((error for error in missing if not isinstance(error, UnknownModel)), missing[0])
        return found

    def now(self, reference: str | None, task: Task | None) -> Live | None:
        """The model of a reference that is followed and in memory. Does not block, and may be called on the event loop."""
        asked = self._defaults.get(task) if reference is None and task is not None else reference
        followed = self._followed.get(asked) if asked is not None else None
        if followed is None or not self._settings.lookup_seconds:
            return None
        loaded = self.residents.find(followed.entry)
        if loaded is None or loaded.digest != followed.ref.digest or task not in (None, loaded.processor.manifest.task):
            return None
        followed.asked_s = time.monotonic()
        return _live(followed.ref, loaded)

    def get(self, reference: str | None, task: Task | None, *, may_load: bool = True) -> Live:
        """The model of a reference, loaded if need be; what it was before, if it cannot be had now. task: None is whatever it does.

        Raises: NotLoaded (unless `may_load`: it would have to be loaded, or is being loaded), BadModelName, UnknownModel, WrongTask (says
        what to ask instead), BadCheckpoint (a version was asked for, or nothing was answered before), RegistryUnavailable (nothing was
        answered before), ModelTooLarge, NotReady.
        """
        if task is None:
            assert reference is not None  # no model is the default of all tasks
            return self._live(reference, None, may_load)
        try:
            return self._live(self.default(task) if reference is None else reference, task, may_load)
        except WrongTask as error:
            raise self._instead(error, reference, task) from error

    def follow(self, name: str | None = None) -> None:
        """Ask the registry again what the references that were asked for of late stand for, and have that answer from now on.

        name: only references of that model.
        """
        with self._following:  # what was asked before somebody moved an alias does not come after it
            for written, followed in list(self._followed.items()):
                if name is not None and name != followed.wanted.name:
                    continue
                try:
                    self._follow(written, followed)
                except UnknownModel:  # removed: whoever asks next is told so
                    self._followed.pop(written, None)
                except FipError as error:  # what was answered is answered on
                    LOG.warning("not followed", extra={"fields": {"reference": written, "error": error.detail}})
        self.residents.let_go([followed.entry for followed in list(self._followed.values())])

    def move(self, name: str, alias: str, to: int | None, expected: int | None = None) -> tuple[int, int | None]:
        """Point an alias at a version that loads, or (None) back at the one before, and have it answer; where it points, and pointed.

        expected: where it has to point now, 0 for nowhere, None for anywhere. Raises: UnknownModel, BadCheckpoint (it does not load:
        nothing moves), AliasConflict (also of a bundled model), BadModelName, RegistryUnavailable (also when it cannot be written).
        """
        with self.inquiry.asking(name):
            versions = self.inquiry.models.versions(name)
            if not versions:
                self.inquiry.models.resolve(name)  # which raises, and names those there are
            registry = versions[0].registry
            registry.check_alias(alias)
            if self.inquiry.models.is_bundled(versions[0]):
                raise AliasConflict("a bundled model: only those that are published in a registry have aliases that move", where=name)
            before = next((entry.model.version for entry in versions if alias in entry.model.aliases), None)
        if to is not None:
            self._load(self.inquiry.resolve(Reference(name, version=to)), None, True)
        with self.inquiry.asking(name):
            if to is None:
                to = rollback(registry, name, alias)
            else:
                promote(registry, name, alias, to, expected=before if expected is None else expected or None)
        self.follow(name)
        return to, before

    def failure(self, entry: Entry) -> Failure | None:
        """Why a version did not load a moment ago; what is longer ago may have been repaired."""
        failure = self._failed.get(key_of(entry))
        return failure if failure is not None and time.monotonic() < failure.at_s + LOAD_AGAIN_S else None

    def _follow(self, written: str, followed: Followed) -> None:
        """Raises: FipError (nothing changes)."""
        if time.monotonic() > followed.asked_s + FOLLOWED_S and written not in self._defaults.values():
            self._followed.pop(written, None)
            return
        entry = self.inquiry.resolve(followed.wanted)
        moved = key_of(entry) != key_of(followed.entry)
        if self.residents.find_quietly(followed.entry) is None:
            if moved:  # whoever asks next has it loaded
                self._followed.pop(written, None)
            return
        loaded = self._load(entry, None, True)
        self._keep(written, followed.wanted, entry, loaded, followed)
        if moved:
            self._telemetry.model_swaps.labels(entry.model.name).inc()
            said = {"reference": written, "before": str(followed.entry), "model": str(entry), "digest": loaded.digest}
            LOG.info("model swapped", extra={"fields": said})

    def _keep(self, written: str, wanted: Reference, entry: Entry, loaded: Loaded, before: Followed | None) -> Live:
        """It answers under this reference from now on, unless somebody found another one since it was `before` that did."""
        ref = model_ref(entry.model, loaded.digest, wanted)
        asked_s = time.monotonic() if before is None else before.asked_s
        with self._keeping:
            if self._followed.get(written) is before:
                if before is None and len(self._followed) >= MOST_FOLLOWED:
                    self._followed.pop(min(self._followed, key=lambda each: self._followed[each].asked_s))
                self._followed[written] = Followed(wanted, entry, ref, asked_s)
                if wanted.version is None:
                    self._served[wanted.name, ref.alias] = entry
        return _live(ref, loaded)

    def _live(self, written: str, task: Task | None, may_load: bool = True) -> Live:
        """As `get`, for a model of any task if None."""
        wanted = parse_reference(written)
        live = self._found(written, wanted, task, may_load)
        check_task(wanted.name, live.processor.manifest, task)
        return live

    def _instead(self, error: WrongTask, reference: str | None, task: Task) -> WrongTask:
        """The error with the model that does the task, where there is another."""
        with contextlib.suppress(ModelError):
            if reference is not None and reference != (default := self.default(task)):
                return WrongTask(f"{error.detail}, or leave ?model= out to ask {default!r}", where="model", known=[default])
        return error

    def _found(self, written: str, wanted: Reference, task: Task | None, may_load: bool) -> Live:
        followed = self._followed.get(written)
        try:
            entry = self._stands_for(followed, wanted)
        except (BadCheckpoint, RegistryUnavailable) as error:
            if (before := self._before(wanted, error, task, may_load)) is None:
                raise
            return before
        try:
            loaded = self._load(entry, task, may_load)
        except (BadCheckpoint, RegistryUnavailable) as error:
            before = self._before(wanted, error, task, may_load) or self._earlier(entry, wanted, task, may_load)
            if before is None:
                raise
            return before
        return self._keep(written, wanted, entry, loaded, followed)

    def _stands_for(self, followed: Followed | None, wanted: Reference) -> Entry:
        """The version of a reference; of one that is followed it is known. Raises: UnknownModel, BadCheckpoint, RegistryUnavailable."""
        if followed is None:
            return self.inquiry.resolve(wanted)
        was_s, followed.asked_s = followed.asked_s, time.monotonic()
        current = self._settings.lookup_seconds and followed.asked_s < was_s + FOLLOWED_S
        return followed.entry if current else self.inquiry.resolve(wanted)

    def _before(self, wanted: Reference, error: ModelError, task: Task | None, may_load: bool) -> Live | None:
        """What was answered under this name and alias, whichever way they were spelt; under a version only if it is out of reach."""
        if wanted.version is None:
            found = (self._served.get((wanted.name, alias)) for alias in ((wanted.alias,) if wanted.alias else (CHAMPION, None)))
            entries = [entry for entry in found if entry is not None]
        elif isinstance(error, BadCheckpoint):
            return None
        else:
            here = (loaded.entry for loaded in self.residents.all())
            entries = [entry for entry in here if (entry.model.name, entry.model.version) == (wanted.name, wanted.version)]
        for entry in entries:
            with contextlib.suppress(ModelError):
                loaded = self.residents.find(entry) or self._load(entry, task, may_load)
                return _live(model_ref(entry.model, loaded.digest, wanted), loaded)
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
                return _live(model_ref(older.model, loaded.digest, wanted), loaded)
        return None

    def _load(self, entry: Entry, task: Task | None, may_load: bool) -> Loaded:
        """Raises: NotLoaded (unless may_load), BadCheckpoint, RegistryUnavailable, WrongTask (it is not loaded yet, and stays so),
        ModelTooLarge, NotReady.
        """
        loaded = self.residents.find(entry)
        if loaded is None or self._replaced(entry, loaded):  # one that is there does not wait for another that is being loaded
            if not may_load and self.failure(entry) is None:
                raise NotLoaded
            with self._lock:
                loaded = self.residents.find(entry)
                if loaded is None or self._replaced(entry, loaded):
                    del loaded  # its memory may be needed
                    return self._read(entry, task)
        return loaded

    def _replaced(self, entry: Entry, loaded: Loaded) -> bool:
        """Whether the registry has another model under this number, because somebody deleted the name there and published anew."""
        try:
            return entry.registry.digest(entry.model) != loaded.digest
        except ModelError:  # damaged or out of reach: what is loaded is what was published
            return False

    def _read(self, entry: Entry, task: Task | None) -> Loaded:
        """Load a version, unless that failed a moment ago. Raises: as `_load`."""
        model, key = entry.model, key_of(entry)
        if failure := self.failure(entry):
            raise BadCheckpoint(failure.reason, where=str(model))
        try:
            with self.inquiry.asking(model):
                manifest, digest = read_manifest(entry.folder())
                check_task(model.name, manifest, task)
                loaded = self.residents.load(entry, manifest, digest)
        except BadCheckpoint as error:
            self._failed[key] = Failure(error.detail, time.monotonic())
            self._telemetry.load_failures.labels(model.name, str(model.version)).inc()
            LOG.error("model does not load", extra={"fields": {"model": str(model), "error": str(error.__cause__)}})
            raise
        self._failed.pop(key, None)
        return loaded


def _live(ref: ModelRef, loaded: Loaded) -> Live:
    return Live(ref, loaded.processor, loaded.net, loaded.engine)
