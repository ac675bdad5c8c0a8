"""A registry in a directory: `root/name/version/` holds a checkpoint, versions are whole numbers that only grow.

`root/name/aliases.json` maps an alias to a version, for example {"champion": 3}.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadCheckpoint, BadModelName, UnknownModel, nearest
from models.manifest import MODEL_NAME

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
CHAMPION = "champion"
ALIASES = "aliases.json"
_REFERENCE = re.compile(r"^(?P<name>[^@:]+)(?:@(?P<alias>[^@:]+)|:(?P<version>[^@:]+))?$")


@dataclass(frozen=True)
class ModelVersion:
    """One published checkpoint: where it is and what it is called. aliases: the names that point at it now."""

    name: str
    version: int
    folder: Path
    aliases: tuple[str, ...]


def list_models(registry: Path | None = None) -> list[ModelVersion]:
    """Every version in the registry and in the package; a name in the registry hides the bundled one. Sorted."""
    found = _found(registry)
    return [version for name in sorted(found) for version in _versions(found[name], _readable_aliases(found[name]))]


def resolve(reference: str, registry: Path | None = None) -> ModelVersion:
    """The version that `name`, `name@alias` or `name:version` means; a bare name means its champion, else the newest.

    Raises: BadModelName (breaks the pattern; nothing is looked up on disk), UnknownModel (lists the known ones), BadCheckpoint
    (the model's aliases are damaged).
    """
    parsed = _REFERENCE.match(reference)
    parts = [part for part in parsed.groups() if part is not None] if parsed else []
    if parsed is None or not all(re.fullmatch(MODEL_NAME, part) for part in parts):
        raise BadModelName(f"{reference!r} is not name, name@alias or name:version in lower-case letters, digits, '.', '_' and '-'")
    name, alias, version = parsed["name"], parsed["alias"], parsed["version"]
    found = _found(registry)
    versions = _versions(found[name], _read_aliases(found[name] / ALIASES)) if name in found else []
    if not versions:
        names = sorted(found)
        raise UnknownModel(f"no model is called {name!r}{nearest(name, names)}", where="model", known=names)
    if version is not None:
        chosen = [model for model in versions if str(model.version) == version]
    elif alias is not None:
        chosen = [model for model in versions if alias in model.aliases]
    else:
        chosen = [model for model in versions if CHAMPION in model.aliases] or versions[-1:]
    if not chosen:
        known = [f"{name}:{model.version}" for model in versions] + [f"{name}@{alias}" for model in versions for alias in model.aliases]
        raise UnknownModel(f"model {name!r} has no {alias or version!r}", where="model", known=known)
    return chosen[0]


def find_model(reference: str, registry: Path | None = None) -> Path:
    """Checkpoint folder of a reference, or of a path to a folder. Raises: BadModelName, UnknownModel."""
    if (Path(reference) / "manifest.json").is_file():
        return Path(reference)
    if Path(reference).is_dir() and "/" in reference:
        raise UnknownModel("the folder is no checkpoint: it has no manifest.json", where=reference)
    return resolve(reference, registry).folder


def _model_dirs(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if path.is_dir() and re.fullmatch(MODEL_NAME, path.name) and _numbers(path)]


def _found(registry: Path | None) -> dict[str, Path]:
    """Names of models that have a version, and their folders; the registry's win over the bundled ones."""
    return {model_dir.name: model_dir for root in (BUNDLED, registry) if root is not None for model_dir in _model_dirs(root)}


def _versions(model_dir: Path, aliases: dict[str, int]) -> list[ModelVersion]:
    """Versions of one model, oldest first."""
    return [
        ModelVersion(model_dir.name, number, model_dir / str(number), tuple(sorted(alias for alias, to in aliases.items() if to == number)))
        for number in _numbers(model_dir)
    ]


def _numbers(model_dir: Path) -> list[int]:
    """Version numbers, ascending; the folder of version 7 is called 7 and nothing else."""
    return sorted(int(path.name) for path in model_dir.iterdir() if path.is_dir() and re.fullmatch(r"[1-9][0-9]{0,8}", path.name))


def _readable_aliases(model_dir: Path) -> dict[str, int]:
    """Aliases for a listing: a damaged file must not hide the other models. Resolving a name of this model says what is wrong."""
    try:
        return _read_aliases(model_dir / ALIASES)
    except BadCheckpoint:
        return {}


def _read_aliases(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    try:
        aliases = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadCheckpoint(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(aliases, dict) or not all(isinstance(version, int) for version in aliases.values()):
        raise BadCheckpoint("must map aliases to version numbers", where=str(path))
    return aliases
