"""What is done to registries of any kind, in terms of the protocol alone."""

import random
import time
from pathlib import Path

from models.errors import AliasConflict, UnknownModel, nearest
from models.registry.protocol import ModelVersion, Registry
from models.registry.reference import check_name
from models.registry.verify import verify

PAUSE_S = 0.02


def publish_as(registry: Registry, folder: Path, name: str, alias: str | None) -> ModelVersion:
    """Publish a folder and point `alias` at it. Of those who do so at the same time everyone's move happens; the last one stands.

    Raises: BadModelName, BadCheckpoint, RegistryUnavailable.
    """
    if alias is not None:
        check_name(alias, "alias")  # before anything is published
    if alias is not None:
        registry.check_alias(alias)
    published = registry.publish(folder, name)
    if alias is not None:
        point(registry, published, alias)
    return next((model for model in registry.versions(name) if model.version == published.version), published)


def point(registry: Registry, model: ModelVersion, alias: str) -> None:
    """Point `alias` at a version, wherever it points now. Raises: BadModelName, UnknownModel, RegistryUnavailable."""
    while (current := pointed_at(registry, model.name, alias)) != model.version:
        try:
            registry.move_alias(model.name, alias, model.version, expected=current)
            return
        except AliasConflict:  # somebody moved it between our look and our move
            time.sleep(random.uniform(0, PAUSE_S))


def promote(registry: Registry, name: str, alias: str, to: int, *, expected: int | None) -> None:
    """Point an alias at a version that verifies.

    Raises: AliasConflict (the alias is not at `expected`), UnknownModel, BadCheckpoint (damaged: nothing moves).
    """
    verify(registry.folder(ModelVersion(name, to)))
    registry.move_alias(name, alias, to, expected=expected)


def rollback(registry: Registry, name: str, alias: str) -> int:
    """Point an alias at the version it pointed at before, and return that. Rolling back again goes one further back.

    Raises: as `went_before`, AliasConflict (somebody moves it now), BadCheckpoint (damaged: nothing moves).
    """
    current = pointed_at(registry, name, alias)
    before = went_before(registry, name, alias)
    promote(registry, name, alias, before, expected=current)
    return before


def went_before(registry: Registry, name: str, alias: str) -> int:
    """Where a rollback goes. Going to the version before is going back, whichever command does it; removed versions are passed over.

    Raises: UnknownModel (no such model; it pointed at nothing before).
    """
    existing = {model.version for model in registry.versions(name)}
    if not existing:
        raise UnknownModel(f"no model is called {name!r}{nearest(name, registry.names())}", where="model", known=registry.names())
    current = pointed_at(registry, name, alias)
    before = _before([version for version in registry.history(name, alias) if version in existing], current)
    if before is None:
        raise UnknownModel("it pointed at no other version before", where=f"{name}@{alias}")
    return before


def pointed_at(registry: Registry, name: str, alias: str) -> int | None:
    """The version an alias points at now. Raises: BadCheckpoint (damaged aliases)."""
    return next((model.version for model in registry.versions(name) if alias in model.aliases), None)


def _before(history: list[int], current: int | None) -> int | None:
    """Where a rollback goes: moves are replayed onto a stack, and a move to what lies beneath the top takes the top away."""
    stack: list[int] = []
    for version in [*history, *([] if current is None else [current])]:
        if stack and stack[-1] == version:
            continue
        if len(stack) > 1 and stack[-2] == version:
            stack.pop()
        else:
            stack.append(version)
    if current is None:
        return stack[-1] if stack else None
    return stack[-2] if len(stack) > 1 else None
