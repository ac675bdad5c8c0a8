"""`aliases.json` of a model in a directory registry: where each alias points, and where it pointed before.

    {"aliases": {"champion": 3}, "history": {"champion": [1, 2]}}

The plain form {"champion": 3}, which a person may write, is read too.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from models.durable import write_whole
from models.errors import BadCheckpoint

ALIASES = "aliases.json"


@dataclass(frozen=True)
class Aliases:
    """current: alias -> version; history: alias -> versions it pointed at before, oldest first."""

    current: dict[str, int] = field(default_factory=dict)
    history: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def mentioned(self) -> set[int]:
        """Every version that an alias points at or pointed at."""
        return {*self.current.values(), *(version for past in self.history.values() for version in past)}

    def moved(self, alias: str, to: int | None) -> "Aliases":
        """The same with `alias` at version `to`, or taken away."""
        before = self.current.get(alias)
        if before == to:
            return self
        current = {name: version for name, version in self.current.items() if name != alias} | ({} if to is None else {alias: to})
        left = () if before is None else (before,)
        return Aliases(current, {**self.history, alias: (*self.history.get(alias, ()), *left)})

    def write(self, model_dir: Path) -> None:
        """Replace the file: readers see the old one or the new one, also after a crash. The caller holds the model's lock."""
        document = {"aliases": self.current, "history": self.history}
        write_whole(model_dir / ALIASES, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def read_aliases(model_dir: Path) -> Aliases:
    """Aliases of a model; none without the file. Raises: BadCheckpoint (the file is damaged)."""
    path = model_dir / ALIASES
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Aliases()
    except OSError as error:
        raise BadCheckpoint(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise BadCheckpoint("must map aliases to version numbers", where=str(path))
    layered = isinstance(document.get("aliases"), dict)
    current, history = (document["aliases"], document.get("history", {})) if layered else (document, {})
    if not all(_is_version(version) for version in current.values()):
        raise BadCheckpoint("must map aliases to version numbers", where=str(path))
    if not isinstance(history, dict) or not all(isinstance(past, list) and all(map(_is_version, past)) for past in history.values()):
        raise BadCheckpoint("history must map aliases to lists of version numbers", where=str(path))
    return Aliases(current, {alias: tuple(past) for alias, past in history.items()})


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
