"""A registry on a server and what it said last: while it is away, that is answered, so that a service can even start without it.

Only which models, versions and aliases there are is remembered, in a file beside the downloads; files come from these.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from models.durable import locked, write_whole
from models.errors import RegistryUnavailable
from models.manifest import Manifest
from models.registry.protocol import ModelVersion, Registry

LOG = logging.getLogger("fip.registry")
AGAIN_S = 2.0  # after so long somebody tries the server again; everybody else is answered from memory
TRY_S = 30.0  # how long one may take to find out
T = TypeVar("T")


class Remembered:
    """The protocol of models.registry.protocol, for readers. Thread-safe. away: the last answer came from memory."""

    def __init__(self, registry: Registry, file: Path) -> None:
        """file: where it is kept; it need not exist, and a damaged one counts for nothing."""
        self._registry, self._file = registry, file
        self._lock = threading.Lock()
        kept = _read(file)
        self._names, self._versions = kept or (None, {})
        self._reached = kept is not None  # whether the server ever answered, this process or another
        self._again_s = 0.0
        self.away = False

    @property
    def address(self) -> str:
        return self._registry.address

    def names(self) -> tuple[str, ...]:
        return self._ask(self._registry.names, self._keep_names, self._remembered_names)

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        return self._ask(
            lambda: self._registry.versions(name), lambda found: self._keep_versions(name, found), lambda: self._remembered(name)
        )

    def folder(self, model: ModelVersion) -> Path:
        return self._registry.folder(model)

    def digest(self, model: ModelVersion) -> str:
        return self._registry.digest(model)

    def manifest(self, model: ModelVersion) -> tuple[Manifest, str]:
        return self._registry.manifest(model)

    def publish(self, folder: Path, name: str) -> ModelVersion:
        return self._registry.publish(folder, name)

    def check_alias(self, alias: str) -> None:
        self._registry.check_alias(alias)

    def move_alias(self, name: str, alias: str, to: int | None, *, expected: int | None) -> None:
        self._registry.move_alias(name, alias, to, expected=expected)

    def history(self, name: str, alias: str) -> tuple[int, ...]:
        return self._registry.history(name, alias)

    def remove(self, model: ModelVersion) -> None:
        self._registry.remove(model)

    def _ask(self, question: Callable[[], T], keep: Callable[[T], None], remembered: Callable[[], T | None]) -> T:
        """What the server says, else what it said last. Raises: RegistryUnavailable (nothing is remembered either)."""
        before = remembered()
        if before is not None and not self._my_turn():
            return before
        try:
            found = question()
        except RegistryUnavailable as error:
            if not self.away:
                LOG.warning("registry away, going by memory", extra={"fields": {"error": str(error)}})
            self.away, self._again_s = True, time.monotonic() + AGAIN_S
            if before is None:
                raise
            return before
        self.away, self._reached = False, True
        if (found and found != before) or (before and not found):  # of names that somebody made up, nothing is kept
            keep(found)
        return found

    def _remembered_names(self) -> tuple[str, ...] | None:
        if self._names is None and not self._reached:
            return None
        return tuple(sorted({*(self._names or ()), *self._versions}))

    def _remembered(self, name: str) -> tuple[ModelVersion, ...] | None:
        """Versions of a model; none of one that was never heard of. None if the server never answered."""
        return self._versions.get(name, ()) if self._reached else None

    def _my_turn(self) -> bool:
        """Whether to ask: of a server that was away only one at a time finds out whether it is there again."""
        with self._lock:
            if self.away and time.monotonic() < self._again_s:
                return False
            self._again_s = time.monotonic() + TRY_S
            return True

    def _keep_names(self, names: tuple[str, ...]) -> None:
        with self._lock:
            self._names = names
            self._write(None)

    def _keep_versions(self, name: str, versions: tuple[ModelVersion, ...]) -> None:
        with self._lock:
            if versions:
                self._versions[name] = versions
            else:
                self._versions.pop(name, None)
            self._write(name)

    def _write(self, changed: str | None) -> None:
        """Keep what is new: the versions of a model, or (None) the names. Of all else, others may have been told later than we.

        Raises nothing: without the file the next start has to find the server.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with locked(self._file.with_name(f".{self._file.name}.lock")):  # other services may have the same cache
                names, versions = _read(self._file) or (self._names, dict(self._versions))
                if changed is None:
                    names = self._names
                elif changed in self._versions:
                    versions[changed] = self._versions[changed]
                else:
                    versions.pop(changed, None)
                told = {name: [[model.version, *model.aliases] for model in found] for name, found in versions.items()}
                write_whole(self._file, (json.dumps({"names": names, "versions": told}, sort_keys=True) + "\n").encode())
        except OSError as error:
            LOG.warning("what the registry says cannot be kept", extra={"fields": {"error": str(error)}})


def _read(file: Path) -> tuple[tuple[str, ...] | None, dict[str, tuple[ModelVersion, ...]]] | None:
    """Names, if they were ever asked for, and versions by name; None without a sound file."""
    try:
        document = json.loads(file.read_bytes())
        versions = {
            str(name): tuple(ModelVersion(str(name), int(version), tuple(map(str, aliases))) for version, *aliases in found)
            for name, found in document["versions"].items()
        }
        names = document["names"]
        return None if names is None else tuple(map(str, names)), versions
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
