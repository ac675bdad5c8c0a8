"""`--publish NAME[@ALIAS]`: a finished checkpoint becomes the next version of a model in a registry."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.artefact import read_manifest
from models.errors import BadCheckpoint, RegistryUnavailable, UnknownModel
from models.registry import ModelVersion, Registry, open_registry, parse_target, point, pointed_at

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
        if alias is not None:
            opened.check_alias(alias)
        return cls(name, alias, opened)

    def publish(self, checkpoint: Path) -> str:
        """Publish the folder and move the alias. What an earlier call of the same command did is not done again: neither a second
        version, nor an alias moved back to where it was once.

        Returns lines for people. Raises: BadCheckpoint, RegistryUnavailable.
        """
        before = self._published(checkpoint)
        model = before or self.registry.publish(checkpoint, self.name)
        said = f"{model} was published before" if before else f"published as {model}"
        moved = self._move_alias(model) if self.alias is not None else ""
        return f"{said} in {self.registry.address}{moved}\nfip serve --registry {self.registry.address} --model {self.name}"

    def _move_alias(self, model: ModelVersion) -> str:
        """Point the alias at a version, unless it did once; returns what happened."""
        assert self.alias is not None
        alias, before = f"{self.name}@{self.alias}", pointed_at(self.registry, self.name, self.alias)
        if before == model.version:
            return f"; {alias} points at it"
        if model.version in self.registry.history(self.name, self.alias):
            stays = f"at version {before}" if before else "away"
            return f"; {alias} stays {stays}: `fip models promote {model} --alias {self.alias}` moves it back"
        point(self.registry, model, self.alias)
        return f"; {alias} points at it" + (f", before it was version {before}" if before else "")

    def _published(self, checkpoint: Path) -> ModelVersion | None:
        digest = read_manifest(checkpoint)[1]
        newest = reversed(self.registry.versions(self.name)[-LOOKED_AT:])
        return next((version for version in newest if self._is(version, digest)), None)

    def _is(self, version: ModelVersion, digest: str) -> bool:
        try:
            return self.registry.digest(version) == digest
        except (BadCheckpoint, UnknownModel):  # damaged, or removed meanwhile: not ours
            return False


def _make(folder: Path) -> None:
    """Make a registry's folder, and see that something can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RegistryUnavailable(f"cannot be made: {error.strerror}", where=str(folder)) from error
