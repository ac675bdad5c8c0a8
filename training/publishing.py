"""`--publish NAME[@ALIAS]`: a finished checkpoint becomes the next version of a model in a registry."""

from dataclasses import dataclass
from pathlib import Path

from models.artefact import read_manifest
from models.errors import RegistryUnavailable
from models.registry import ModelVersion, Registry, open_registry, parse_target, point, publish_as

LOOKED_AT = 20  # newest versions among which a repeated command looks for its own


@dataclass(frozen=True)
class Target:
    """Where a model goes. Opened before training starts, so that a mistake costs seconds."""

    name: str
    alias: str | None
    registry: Registry

    @classmethod
    def parse(cls, text: str, registry: str) -> "Target":
        """`NAME[@ALIAS]` and the registry's address; a folder that is not there is made. Raises: BadModelName, RegistryUnavailable."""
        name, alias = parse_target(text)
        if "://" not in registry:
            _make(Path(registry))
        opened = open_registry(registry)
        opened.names()
        return cls(name, alias, opened)

    def publish(self, checkpoint: Path) -> str:
        """Publish the folder and move the alias; what a stopped command published already is not published again.

        Returns a line for people. Raises: BadCheckpoint, RegistryUnavailable.
        """
        found = self._published(checkpoint)
        if found is None:
            found = publish_as(self.registry, checkpoint, self.name, self.alias)
        elif self.alias is not None:
            point(self.registry, found, self.alias)
        alias = f", {self.name}@{self.alias} points at it" if self.alias else ""
        return f"published as {found} in {self.registry.address}{alias}; fip serve --registry {self.registry.address} --model {self.name}"

    def _published(self, checkpoint: Path) -> ModelVersion | None:
        digest = read_manifest(checkpoint)[1]
        newest = reversed(self.registry.versions(self.name)[-LOOKED_AT:])
        return next((version for version in newest if self.registry.digest(version) == digest), None)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryUnavailable(f"cannot be made: {error.strerror}", where=str(folder)) from error
