"""Names to live models: the bundled ones, and those of a registry, which win.

What a reference stands for is looked up at its first use. From then on it is followed: every `lookup_seconds` the registry is asked in
the background, a version that is new there is loaded and run once, and then answers in the place of the old one. So no request waits for
the registry or for a new version, and a registry that cannot be reached, or a version that does not load, changes nothing: what was
answered goes on being answered. Weights are in memory within a budget (service.residents).
"""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from models.errors import AliasConflict, BadCheckpoint, FipError, ModelError, RegistryUnavailable, UnknownModel, WrongTask
from models.manifest import Task
from models.processor import Processor
from models.registry import CHAMPION, Catalogue, Entry, ModelVersion, Reference, parse_reference
from models.registry.publish import promote, went_before
from service.errors import ModelTooLarge, NotReady, OutOfMemory
from service.inquiry import Inquiry
from service.loader import Loader
from service.model_rows import alias_of, check_task, model_ref
from service.residents import Loaded, Residents, key_of
from service.schemas import ModelRef
from service.settings import Settings
from service.telemetry import Telemetry
from service.worker.device import Device

LOG = logging.getLogger("fip.service")
TASKS: tuple[Task, ...] = get_args(Task)
FOLLOWED_S = 300.0  # how long after its last request a reference is followed
MOST_FOLLOWED = 1000
BROKEN = (BadCheckpoint, ModelTooLarge, OutOfMemory)  # a version is at fault, and the one before may not be
PASSING = (RegistryUnavailable, NotReady)


@dataclass(frozen=True, eq=False)
class Live:
    """A loaded model and the name it answers under, which is not put out as long as this is held. key: what the device calls its net;
    engine: what its convolutions run on.
    """

    ref: ModelRef
    processor: Processor
    key: str
    engine: str


@dataclass
class Followed:
    """What answers under a reference; asked_s: when it was asked for last (monotonic); complaint: why it is not what it should be."""

    wanted: Reference
    entry: Entry
    ref: ModelRef
    asked_s: float
    complaint: str = ""


class Pool:
    """Thread-safe. All but `now` and `knows` ask files and servers, and belong into threads."""

    def __init__(self, settings: Settings, telemetry: Telemetry, device: Device, models: Catalogue | None = None) -> None:
        """models: what can be asked for; None opens the registry of the settings at the first use."""
        self._settings, self._telemetry = settings, telemetry
        self.inquiry, self.residents = Inquiry(settings, models), Residents(settings, telemetry, device)
        self.loader = Loader(telemetry, self.inquiry, self.residents)
        self._following, self._keeping = threading.Lock(), threading.Lock()
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

        Raises: BadModelName, UnknownModel, BadCheckpoint, ModelTooLarge, OutOfMemory, RegistryUnavailable (the model of the settings, or
        all of them, cannot be had).
        """
        found, missing = dict[str, str](), list[FipError]()
        for task in TASKS:
            try:
                found[self.default(task)] = self.get(None, task).engine
            except (UnknownModel, *BROKEN) as error:
                if task == self._named_task:
                    raise
                missing.append(error)
        if not found:
            raise next((error for error in missing if not isinstance(error, UnknownModel)), missing[0])
        return found

    def now(self, reference: str | None, task: Task | None, *, asked: bool = True) -> Live | None:
        """The model of a reference that is followed and in memory. Does not block, and may be called on the event loop. See `get`."""
        written = self._defaults.get(task) if reference is None and task is not None else reference
        followed = self._followed.get(written) if written is not None else None
        if followed is None or not self._settings.lookup_seconds:
            return None
        loaded = self.residents.find(followed.entry, asked=asked)
        if loaded is None or loaded.digest != followed.ref.digest or task not in (None, loaded.processor.manifest.task):
            return None
        followed.asked_s = time.monotonic()
        return _live(followed.ref, loaded)

    def knows(self, reference: str | None, task: Task | None) -> bool:
        """Whether it was found before, however it was spelt. Does not block, as `now`. Raises: BadModelName."""
        if reference is None:
            return task in self._defaults
        wanted = parse_reference(reference)
        if wanted.version is None:
            return any((wanted.name, alias) in self._served for alias in _aliases(wanted))
        found = (each.entry.model for each in list(self._followed.values()))
        return any((model.name, model.version) == (wanted.name, wanted.version) for model in found)

    def get(self, reference: str | None, task: Task | None, *, may_load: bool = True, asked: bool = True) -> Live:
        """The model of a reference, loaded if need be; what it was before, if it cannot be had now. task: None is whatever it does.
        asked: for somebody who waits for an answer, and if need be for room; else this does not count as use of it.

        Raises: NotLoaded (unless `may_load`: it would have to be loaded, or is being loaded), BadModelName, UnknownModel, WrongTask (says
        what to ask instead); if a version was asked for, or nothing else can be answered: BadCheckpoint, ModelTooLarge, OutOfMemory,
        RegistryUnavailable, NotReady.
        """
        if task is None:
            assert reference is not None  # no model is the default of all tasks
            return self._live(reference, None, may_load, asked)
        try:
            return self._live(self.default(task) if reference is None else reference, task, may_load, asked)
        except WrongTask as error:
            raise self._instead(error, reference, task) from error

    def default_version(self, task: Task) -> ModelVersion:
        """What answers requests that name no model, without loading it. Raises: as `default`, BadModelName, UnknownModel."""
        reference = self.default(task)
        followed = self._followed.get(reference)
        return followed.entry.model if followed is not None else self.inquiry.resolve(parse_reference(reference)).model

    def follow(self, name: str | None = None) -> None:
        """Ask the registry again what the references that were asked for of late stand for, and have that answer from now on.

        name: only references of that model.
        """
        with self._following:  # what was asked before somebody moved an alias does not come after it
            followed = [each for each in list(self._followed.items()) if name is None or name == each[1].wanted.name]
            for model in {each.wanted.name for _, each in followed}:
                self._follow_all(model, [each for each in followed if each[1].wanted.name == model])
        self.residents.let_go([each.entry for each in list(self._followed.values())])

    def move(self, name: str, alias: str, to: int | None, expected: int | None = None) -> tuple[int, int | None]:
        """Point an alias at a version that loads, or (None) back at the one before, and have it answer; where it points, and pointed.

        expected: where it has to point now, 0 for nowhere, None for anywhere. Raises: UnknownModel, BadCheckpoint, ModelTooLarge,
        OutOfMemory (it does not load: nothing moves), AliasConflict (also of a bundled model), BadModelName, RegistryUnavailable (also when
        it cannot be written), NotReady.
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
            if to is None:
                to, expected = went_before(registry, name, alias), before or 0
        self.loader.load(self.inquiry.resolve(Reference(name, version=to)), None)
        with self.inquiry.asking(name):
            promote(registry, name, alias, to, expected=before if expected is None else expected or None)
        self.follow(name)
        return to, before

    def _follow_all(self, name: str, followed: list[tuple[str, Followed]]) -> None:
        """The references of one model."""
        recent = [(written, each) for written, each in followed if not self._is_forgotten(written, each)]
        try:
            versions = self.inquiry.versions(name) if recent else ()
        except FipError as error:  # what was answered is answered on
            for written, each in recent:
                _complain(written, each, error)
            return
        for written, each in recent:
            try:
                self._follow(written, each, versions)
            except UnknownModel:  # removed: whoever asks next is told so
                self._followed.pop(written, None)
            except FipError as error:
                _complain(written, each, error)

    def _is_forgotten(self, written: str, followed: Followed) -> bool:
        """Whether nobody has asked for it for so long that it is no longer followed."""
        if time.monotonic() < followed.asked_s + FOLLOWED_S or written in self._defaults.values():
            return False
        self._followed.pop(written, None)
        return True

    def _follow(self, written: str, followed: Followed, versions: tuple[Entry, ...]) -> None:
        """Raises: FipError (nothing changes)."""
        entry = self.inquiry.resolve(followed.wanted, versions)
        moved = key_of(entry) != key_of(followed.entry)
        if self.residents.find(followed.entry, asked=False) is None:
            if moved:  # whoever asks next has it loaded
                self._followed.pop(written, None)
            return
        loaded = self.loader.load(entry, None, asked=False)
        self._keep(written, followed.wanted, entry, loaded, followed)

    def _keep(self, written: str, wanted: Reference, entry: Entry, loaded: Loaded, before: Followed | None) -> Live:
        """It answers under this reference from now on, unless somebody found another one since it was `before` that did."""
        ref = model_ref(entry.model, loaded.digest, wanted)
        asked_s = time.monotonic() if before is None else before.asked_s
        complaint = "" if before is None else before.complaint
        with self._keeping:
            if self._followed.get(written) is not before:
                return _live(ref, loaded)
            if before is None and len(self._followed) >= MOST_FOLLOWED:
                self._followed.pop(min(list(self._followed.items()), key=lambda each: each[1].asked_s)[0], None)
            self._followed[written] = Followed(wanted, entry, ref, asked_s, complaint)
            if wanted.version is None:
                self._serve(wanted.name, ref, entry)
        return _live(ref, loaded)

    def _serve(self, name: str, ref: ModelRef, entry: Entry) -> None:
        """What answers under a name and an alias, however they are spelt; another one than before is told."""
        before = self._served.get((name, ref.alias))
        self._served[name, ref.alias] = entry
        if before is not None and key_of(before) != key_of(entry):
            self._telemetry.model_swaps.labels(name).inc()
            LOG.info("model swapped", extra={"fields": {"name": name, "alias": ref.alias, "before": str(before), "model": str(entry)}})

    def _live(self, written: str, task: Task | None, may_load: bool = True, asked: bool = True) -> Live:
        """As `get`, for a model of any task if None."""
        wanted = parse_reference(written)
        live = self._found(written, wanted, task, may_load, asked)
        check_task(wanted.name, live.processor.manifest, task)
        return live

    def _instead(self, error: WrongTask, reference: str | None, task: Task) -> WrongTask:
        """The error with the model that does the task, where there is another."""
        with contextlib.suppress(ModelError):
            if reference is not None and reference != (default := self.default(task)):
                return WrongTask(f"{error.detail}, or leave ?model= out to ask {default!r}", where="model", known=[default])
        return error

    def _found(self, written: str, wanted: Reference, task: Task | None, may_load: bool, asked: bool) -> Live:
        followed, entry = self._followed.get(written), None
        try:
            entry = self._stands_for(followed, wanted)
            loaded = self.loader.load(entry, task, may_load=may_load, asked=asked)
        except (*BROKEN, *PASSING) as error:
            found = self._before(wanted, error, task, may_load) or self._earlier(entry, error, wanted, task, may_load)
            if found is None:
                raise
            entry, loaded = found
            LOG.warning("another version answers", extra={"fields": {"reference": written, "model": str(entry), "error": error.detail}})
        return self._keep(written, wanted, entry, loaded, followed)

    def _stands_for(self, followed: Followed | None, wanted: Reference) -> Entry:
        """The version of a reference; of one that is followed it is known. Raises: UnknownModel, BadCheckpoint, RegistryUnavailable."""
        if followed is None:
            return self.inquiry.resolve(wanted)
        was_s, followed.asked_s = followed.asked_s, time.monotonic()
        current = self._settings.lookup_seconds and followed.asked_s < was_s + FOLLOWED_S
        return followed.entry if current else self.inquiry.resolve(wanted)

    def _before(self, wanted: Reference, error: FipError, task: Task | None, may_load: bool) -> tuple[Entry, Loaded] | None:
        """What was answered under this name and alias, whichever way they were spelt; under a version only if it is out of reach."""
        if wanted.version is None:
            found = (self._served.get((wanted.name, alias)) for alias in _aliases(wanted))
            entries = [entry for entry in found if entry is not None]
        elif isinstance(error, BROKEN):
            return None
        else:
            here = (loaded.entry for loaded in self.residents.all())
            entries = [entry for entry in here if (entry.model.name, entry.model.version) == (wanted.name, wanted.version)]
        for entry in entries:
            with contextlib.suppress(*BROKEN, *PASSING):
                return entry, self.loader.load(entry, task, may_load=may_load)
        return None

    def _earlier(
        self, entry: Entry | None, error: FipError, wanted: Reference, task: Task | None, may_load: bool
    ) -> tuple[Entry, Loaded] | None:
        """The version that the alias pointed at before the one that is broken, for a service that has just started."""
        alias = None if entry is None else alias_of(entry.model, wanted)
        if entry is None or alias is None or wanted.version is not None or not isinstance(error, BROKEN):
            return None
        try:
            with self.inquiry.asking(wanted.name):
                history = entry.registry.history(entry.model.name, alias)
        except (BadCheckpoint, RegistryUnavailable):
            return None
        for version in reversed(history):
            older = Entry(ModelVersion(entry.model.name, version, (alias,)), entry.registry)
            with contextlib.suppress(UnknownModel, *BROKEN, *PASSING):
                return older, self.loader.load(older, task, may_load=may_load)
        return None


def _aliases(wanted: Reference) -> tuple[str | None, ...]:
    """Those that a reference without a version may go through, None being the newest version."""
    return (wanted.alias,) if wanted.alias else (CHAMPION, None)


def _live(ref: ModelRef, loaded: Loaded) -> Live:
    live = Live(ref, loaded.processor, loaded.net, loaded.engine)
    loaded.users.add(live)
    return live


def _complain(written: str, followed: Followed, error: FipError) -> None:
    """Once for each reason."""
    if followed.complaint != error.detail:
        followed.complaint = error.detail
        LOG.warning("not followed", extra={"fields": {"reference": written, "model": str(followed.entry), "error": error.detail}})
