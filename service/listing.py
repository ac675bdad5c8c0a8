"""What can be asked for, without loading any of it."""

import contextlib
import logging

from models.artefact import read_manifest
from models.errors import BadCheckpoint, ModelError, RegistryUnavailable
from models.registry import CHAMPION, Entry, ModelVersion, parse_reference
from service.model_rows import alias_of, model_info, read_card, read_class_scores
from service.pool import TASKS, Pool
from service.schemas import DamagedModel, ModelDetails, ModelInfo, ModelList

LOG = logging.getLogger("fip.service")


class Listing:
    """Thread-safe, and asked in threads."""

    def __init__(self, pool: Pool) -> None:
        self._inquiry, self._pool = pool.inquiry, pool

    def catalogue(self) -> ModelList:
        """Every version that can be asked for, and apart from them those that are damaged. Raises: RegistryUnavailable."""
        defaults = self._defaults()
        with self._inquiry.asking():
            rows = [row for name in self._inquiry.models.names() for row in self._listed(name, defaults)]
        return ModelList(
            models=tuple(row for row in rows if isinstance(row, ModelInfo)),
            damaged=tuple(row for row in rows if isinstance(row, DamagedModel)),
        )

    def versions(self, name: str) -> tuple[str, ...]:
        """All of a model, oldest first, damaged ones too. Raises: BadModelName, BadCheckpoint, RegistryUnavailable."""
        with self._inquiry.asking(name):
            return tuple(str(entry.model.version) for entry in self._inquiry.models.versions(name))

    def describe(self, reference: str) -> ModelDetails:
        """One model with its card, without loading it. Raises: BadModelName, UnknownModel, BadCheckpoint, RegistryUnavailable."""
        wanted = parse_reference(reference)
        entry = self._inquiry.resolve(wanted)
        if error := self._pool.loader.failure(entry):  # what does not load is not described as if it did
            raise error
        with self._inquiry.fetching(entry.model):
            folder = entry.folder()
            manifest, digest = read_manifest(folder)
            card, scores = read_card(folder, manifest), read_class_scores(folder, manifest)
        info = model_info(entry.model, manifest, digest, alias_of(entry.model, wanted), self._defaults())
        return ModelDetails(**dict(info), card=card, class_scores=scores, provenance=manifest.provenance)

    def _listed(self, name: str, defaults: list[ModelVersion]) -> list[ModelInfo | DamagedModel | None]:
        """A row for every version of a model; one for all of them if its aliases are damaged."""
        try:
            with self._inquiry.asking(name):
                return [self._row(entry, defaults) for entry in self._inquiry.models.versions(name)]
        except BadCheckpoint as error:
            return [DamagedModel(name=name, version=None, aliases=(), reason=error.detail)]

    def _row(self, entry: Entry, defaults: list[ModelVersion]) -> ModelInfo | DamagedModel | None:
        """None of what is on a server that is away, and not here."""
        model = entry.model
        if error := self._pool.loader.failure(entry):
            return DamagedModel(name=model.name, version=str(model.version), aliases=model.aliases, reason=error.detail)
        try:
            with self._inquiry.fetching(model):
                manifest, digest = entry.manifest()
        except BadCheckpoint as error:
            LOG.warning("model is damaged", extra={"fields": {"model": str(model), "error": str(error.__cause__)}})
            return DamagedModel(name=model.name, version=str(model.version), aliases=model.aliases, reason=error.detail)
        except RegistryUnavailable:
            if self._inquiry.models.away:
                return None
            raise
        return model_info(model, manifest, digest, CHAMPION if CHAMPION in model.aliases else None, defaults)

    def _defaults(self) -> list[ModelVersion]:
        """What answers requests that name no model, of each task that something answers."""
        found = []
        for task in TASKS:
            with contextlib.suppress(ModelError):
                found.append(self._pool.default_version(task))
        return found
