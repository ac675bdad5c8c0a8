"""The registry, asked with care: one that cannot be reached is left alone for a moment, and what it raises is made fit for an answer."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from models.errors import BadCheckpoint, RegistryUnavailable, UnknownModel
from models.registry import Catalogue, Entry, ModelVersion, Reference, open_catalogue
from service.settings import Settings

LOG = logging.getLogger("fip.service")
ASK_AGAIN_S = 2.0  # a registry that was not there is left alone for so long
AWAY = "the registry of models cannot be reached at the moment"


class Inquiry:
    """Thread-safe, and asked in threads. Its errors name a model and a file, no folder and no address."""

    def __init__(self, settings: Settings, models: Catalogue | None = None) -> None:
        """models: what can be asked for; None opens the registry of the settings at the first use."""
        self._settings, self._given = settings, models
        self._unreachable_until_s = 0.0

    @cached_property
    def models(self) -> Catalogue:
        return self._given or open_catalogue(self._settings.registry, remembered=True)

    def versions(self, name: str) -> tuple[Entry, ...]:
        """Of a model, oldest first; none of one that there is not. Raises: BadCheckpoint (damaged aliases), RegistryUnavailable."""
        with self.asking(name):
            found = self.models.versions(name)
        if not found and self.models.away:  # what is remembered of it is not all that there is
            raise RegistryUnavailable(AWAY)
        return found

    def resolve(self, wanted: Reference, versions: tuple[Entry, ...] | None = None) -> Entry:
        """The version that a reference means. versions: of the model, where they are known already.

        Raises: UnknownModel, BadCheckpoint (damaged aliases), RegistryUnavailable.
        """
        with self.asking(wanted.name):
            try:
                return self.models.resolve(wanted, versions)
            except UnknownModel:
                if self.models.away:
                    raise RegistryUnavailable(AWAY) from None
                raise

    @contextmanager
    def asking(self, about: ModelVersion | str = "") -> Iterator[None]:
        """Around a question, which is not put to a registry that was just unreachable. Raises: BadCheckpoint, RegistryUnavailable."""
        if time.monotonic() < self._unreachable_until_s:
            raise RegistryUnavailable(AWAY)
        try:
            yield
        except RegistryUnavailable as error:
            if not self.models.away:  # one that is remembered sees to that itself
                self._unreachable_until_s = time.monotonic() + ASK_AGAIN_S
            LOG.error("registry unavailable", extra={"fields": {"error": str(error)}})
            raise RegistryUnavailable(AWAY) from error
        except BadCheckpoint as error:
            raise _named(error, about) from error

    @contextmanager
    def fetching(self, model: ModelVersion) -> Iterator[None]:
        """Around what needs the files of one version: that they cannot be had says nothing of the others. Raises: as `asking`."""
        try:
            yield
        except RegistryUnavailable as error:
            LOG.error("files cannot be fetched", extra={"fields": {"model": str(model), "error": str(error)}})
            raise RegistryUnavailable(AWAY) from error
        except BadCheckpoint as error:
            raise _named(error, model) from error


def _named(error: BadCheckpoint, about: ModelVersion | str) -> BadCheckpoint:
    return BadCheckpoint(f"{about} is damaged: {_file(error)}{error.detail}", where=str(about))


def _file(error: BadCheckpoint) -> str:
    """`model.safetensors: ` if the error is about a file, else nothing: no more of a path is shown."""
    name = Path(error.where).name if error.where else ""
    return f"{name}: " if "." in name else ""
