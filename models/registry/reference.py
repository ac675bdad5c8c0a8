"""What models are called: `name`, `name@alias`, `name:version`, and MLflow's `models:/name@alias` and `models:/name/3`."""

import re
from dataclasses import dataclass

from models.errors import BadModelName
from models.manifest import MODEL_NAME

_NAME = re.compile(MODEL_NAME.removesuffix("$") + r"\Z")
REFERENCE = r"^{name}(@{name}|:[1-9][0-9]{{0,8}})?$".format(name=MODEL_NAME.strip("^$"))  # for descriptions; MLflow's way is one more
_VERSION = re.compile(r"[1-9][0-9]{0,8}\Z")
_OURS = re.compile(r"(?P<name>[^@:/]+)(?:@(?P<alias>[^@:/]+)|:(?P<version>[^@:/]+))?\Z")
_MLFLOW = re.compile(r"models:/(?P<name>[^@:/]+)(?:@(?P<alias>[^@:/]+)|/(?P<version>[^@:/]+))?\Z")


@dataclass(frozen=True)
class Reference:
    """A name, with an alias or a version or neither: then its champion is meant, else its newest version."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias is not None else self.name


def parse_reference(text: str) -> Reference:
    """Read a reference; nothing is looked up. Raises: BadModelName (breaks the pattern)."""
    parsed = _OURS.match(text) or _MLFLOW.match(text)
    if parsed is None:
        raise BadModelName(f"{text!r} is not name, name@alias or name:version, nor models:/name@alias or models:/name/version")
    name, alias, version = parsed["name"], parsed["alias"], parsed["version"]
    check_name(name)
    if alias is not None:
        check_name(alias, "alias")
    if version is not None and not _VERSION.match(version):
        raise BadModelName(f"{version!r} is no version: versions are whole numbers from 1 on")
    return Reference(name, alias, int(version) if version is not None else None)


def parse_target(text: str) -> tuple[str, str | None]:
    """NAME[@ALIAS] that something is to be published as. Raises: BadModelName (also for a version: the registry chooses it)."""
    target = parse_reference(text)
    if target.version is not None:
        raise BadModelName(f"{text!r} names a version, and the registry gives those out; publish as NAME or NAME@ALIAS")
    return target.name, target.alias


def is_name(text: str) -> bool:
    """Whether a model or an alias may be called so."""
    return _NAME.match(text) is not None


def check_name(name: str, what: str = "name") -> None:
    """Raises: BadModelName (not lower-case letters, digits, '.', '_' and '-', at most 64)."""
    if not is_name(name):
        raise BadModelName(f"{name!r} is no {what} of lower-case letters, digits, '.', '_' and '-', at most 64, a letter or digit first")
