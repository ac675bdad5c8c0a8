"""What every registry of models can do. One contract-test suite (`tests/contract/test_registry.py`) holds for all of them.

A registry holds checkpoints under a name and a version. Versions are whole numbers, never change and only grow: the number
of a removed version is not given out again. Aliases (`champion`, `candidate`, ...) point at versions and move by
compare-and-set, so that of two who move one at the same time, one is told.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.manifest import Manifest

CHAMPION = "champion"


@dataclass(frozen=True)
class ModelVersion:
    """One published checkpoint. aliases: the names that point at it now, sorted."""

    name: str
    version: int
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


class Registry(Protocol):
    """Raises, from every method: RegistryUnavailable (cannot be reached, read or written)."""

    @property
    def address(self) -> str:
        """What it is opened by: a folder, or the URL of a server."""

    def names(self) -> tuple[str, ...]:
        """Names of the models that have a version, sorted."""

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Versions of one model, oldest first; none for an unknown name. Raises: BadCheckpoint (its aliases are damaged)."""

    def folder(self, model: ModelVersion) -> Path:
        """A local folder with the files of a version, as they were published or not at all. Who loads it verifies the digests.

        Raises: UnknownModel, BadCheckpoint (what is stored is not what was published).
        """

    def digest(self, model: ModelVersion) -> str:
        """sha256 of the version's manifest.json. Raises: UnknownModel, BadCheckpoint."""

    def manifest(self, model: ModelVersion) -> tuple[Manifest, str]:
        """The manifest of a version and its digest, without fetching the weights. Raises: UnknownModel, BadCheckpoint."""

    def publish(self, folder: Path, name: str) -> ModelVersion:
        """Copy a checkpoint folder in as the next version of `name`. All of it becomes visible at once, or nothing.

        Raises: BadModelName, BadCheckpoint (the folder does not verify; nothing is published).
        """

    def check_alias(self, alias: str) -> None:
        """Whether an alias may be called so here. Raises: BadModelName."""

    def move_alias(self, name: str, alias: str, to: int | None, *, expected: int | None) -> None:
        """Point `alias` at version `to` (None takes it away), provided that it points at `expected` now (None: at nothing).

        Raises: AliasConflict (it points elsewhere; nothing moved), UnknownModel (no such version), BadModelName.
        """

    def history(self, name: str, alias: str) -> tuple[int, ...]:
        """Versions that the alias pointed at before, oldest first: one entry a move away, so moves to 1, 2, 3, 2 give (1, 2, 3)."""

    def remove(self, model: ModelVersion) -> None:
        """Delete a version for good. Raises: UnknownModel, AliasConflict (an alias points at it; move that first)."""
