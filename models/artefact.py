"""The files of a checkpoint folder: which there may be, that they are what the manifest says, and what they hold. No torch here.

A folder holds model.safetensors, manifest.json, README.md (the model card) and what else the card shows. The manifest has
the sha256 of every other file; the digest of the checkpoint is the sha256 of the manifest.
"""

import hashlib
import json
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from models.errors import BadCheckpoint
from models.manifest import Manifest

WEIGHTS, MANIFEST, CARD, SCORES = "model.safetensors", "manifest.json", "README.md", "metrics.json"
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_TEXT = 16 << 20  # bytes of a manifest, a card, a table of metrics
LARGEST_YAML = 64 << 10  # of a recipe: Python reads some ten thousand a second


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a checkpoint folder and its digest, without touching the weights. Raises: BadCheckpoint."""
    path = folder / MANIFEST
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadCheckpoint("not a plain file", where=str(path))
        if path.stat().st_size > LARGEST_TEXT:
            raise BadCheckpoint(f"larger than {LARGEST_TEXT >> 20} MiB", where=str(path))
        text = path.read_bytes()
        return Manifest.model_validate_json(text), hashlib.sha256(text).hexdigest()
    except OSError as error:
        raise BadCheckpoint(f"cannot read the manifest: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadCheckpoint(f"{place}: {first['msg']}", where=str(path)) from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every file the manifest names is there, is whole and of a kind that belongs in a checkpoint; nothing else is there.

    Raises: BadCheckpoint (names the file).
    """
    try:
        entries = {path.name: path for path in folder.iterdir()}
        for path in entries.values():
            if path.is_symlink() or not path.is_file():
                raise BadCheckpoint("a checkpoint holds plain files: no links, no folders", where=str(path))
        found = entries.keys() - {MANIFEST}
        if found != manifest.files.keys():
            raise BadCheckpoint(f"files do not match the manifest: {_difference(found, set(manifest.files))}", where=str(folder))
        if WEIGHTS not in found or CARD not in found:
            raise BadCheckpoint(f"a checkpoint needs {WEIGHTS} and {CARD}", where=str(folder))
        for name, expected in sorted(manifest.files.items()):
            if sha256_of(folder / name) != expected:
                raise BadCheckpoint("the file differs from the digest in the manifest", where=str(folder / name))
            check_kind(folder / name)
    except OSError as error:
        raise BadCheckpoint(f"cannot be read: {error.strerror}", where=str(error.filename or folder)) from error


def check_kind(path: Path) -> None:
    """A file is of a kind that belongs in a checkpoint, and its content is of that kind too.

    Raises: BadCheckpoint (another kind; a pickle, an archive or anything else under the name of a kind that may be there).
    """
    check = KINDS.get(path.suffix)
    if check is None:
        raise BadCheckpoint(f"files of this kind do not belong in a checkpoint (known: {', '.join(KINDS)})", where=str(path))
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b")):
        raise BadCheckpoint("the content is an archive, whatever the name says", where=str(path))
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise BadCheckpoint("the content is a pickle, whatever the name says", where=str(path))
    if path.suffix in TEXTS and path.stat().st_size > LARGEST_TEXT:
        raise BadCheckpoint(f"larger than {LARGEST_TEXT >> 20} MiB", where=str(path))
    if not check(path, head):
        raise BadCheckpoint(f"the content is not that of a {path.suffix} file", where=str(path))


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(found: set[str], listed: set[str]) -> str:
    missing, surplus = sorted(listed - found), sorted(found - listed)
    return "; ".join([f"missing {name}" for name in missing] + [f"not listed {name}" for name in surplus])


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Eight bytes of length, then a JSON object that ends within the file."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size


def _is_png(path: Path, head: bytes) -> bool:
    return head.startswith(PNG)


def _is_json(path: Path, head: bytes) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


def _is_yaml(path: Path, head: bytes) -> bool:
    if path.stat().st_size > LARGEST_YAML:
        raise BadCheckpoint(f"larger than {LARGEST_YAML >> 10} KiB", where=str(path))
    try:
        return _is_plain_mapping(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError):
        return False


@lru_cache(maxsize=64)  # models are loaded again and again where memory is short, and Python's YAML is slow
def _is_plain_mapping(text: str) -> bool:
    """A mapping of plain values: no tags, which name types, no aliases, with which a few bytes become any amount of memory, and not nested
    for ever, which takes as long. Raises: ValueError, RecursionError, yaml.YAMLError.
    """
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        depth += isinstance(token, OPENS) - isinstance(token, CLOSES)
        if depth > DEEPEST or isinstance(token, yaml.TagToken | yaml.AliasToken):
            return False
    return isinstance(yaml.compose(text, Loader=yaml.SafeLoader), yaml.MappingNode)


def _is_markdown(path: Path, head: bytes) -> bool:
    """Text that begins with a heading or with front matter: a pickle of the old text protocol cannot begin so."""
    try:
        return head.startswith((b"#", b"---")) and "\0" not in path.read_text(encoding="utf-8")
    except ValueError:
        return False


OPENS = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
CLOSES = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
DEEPEST = 50
TEXTS = (".json", ".md", ".yaml")
KINDS: dict[str, Callable[[Path, bytes], bool]] = {
    ".safetensors": _is_safetensors,
    ".json": _is_json,
    ".md": _is_markdown,
    ".yaml": _is_yaml,
    ".png": _is_png,
}
