"""A registry in a directory: `root/name/version/` holds a checkpoint, `root/name/aliases.json` says where aliases point.

What may happen at any moment, and why nothing is ever half there:

- A version is copied into `root/name/.publish-ID/`, synced, and renamed to its number. A publisher that dies leaves that
  folder behind; whoever publishes or removes next deletes it, for the lock `.publish-ID.lock` died with its process.
- Numbers are given out under the lock `root/name/.lock`; `.removed-7` remembers that 7 was given out once, and `.digest-7`,
  written before the rename, what its manifest was: a manifest that somebody changes later is noticed. (A folder that was put
  there by hand has no such file.)
- Aliases move under the same lock: read, compare, write beside, sync, rename. Readers take no lock.
- The folder of a model that cannot be read is that model's damage; the registry is away when its own folder is.
"""

import errno
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.artefact import MANIFEST, read_manifest
from models.durable import copy_synced, is_held, locked, sync_path, write_whole
from models.errors import AliasConflict, BadCheckpoint, RegistryUnavailable, UnknownModel
from models.manifest import Manifest
from models.registry.aliases import read_aliases
from models.registry.protocol import ModelVersion
from models.registry.reference import check_name, is_name
from models.registry.verify import verify

LOCK = ".lock"
STAGING, REMOVED, TRASH, DIGEST = ".publish-", ".removed-", ".trash-", ".digest-"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}\Z")


@dataclass(frozen=True)
class LocalRegistry:
    """The protocol of models.registry.protocol over an existing folder."""

    root: Path

    @property
    def address(self) -> str:
        return str(self.root)

    def names(self) -> tuple[str, ...]:
        with self._reachable():
            return tuple(sorted(path.name for path in self.root.iterdir() if is_name(path.name) and _is_model(path)))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        check_name(name)
        with self._reachable():
            self.root.stat()
            current, numbers = read_aliases(self.root / name).current, _read_numbers(self.root / name)
            if not set(current.values()) <= set(numbers):  # an alias moved and what it pointed at was removed, in between
                current, numbers = read_aliases(self.root / name).current, _read_numbers(self.root / name)
        pointing = {number: tuple(sorted(alias for alias, to in current.items() if to == number)) for number in numbers}
        return tuple(ModelVersion(name, number, pointing[number]) for number in numbers)

    def folder(self, model: ModelVersion) -> Path:
        check_name(model.name)
        with self._reachable():
            self.root.stat()
            numbers = _read_numbers(self.root / model.name)
        if model.version not in numbers:
            raise UnknownModel(f"no version {model}", where="model", known=[f"{model.name}:{number}" for number in numbers])
        folder = self.root / model.name / str(model.version)
        self._check_digest(model, folder)
        return folder

    def digest(self, model: ModelVersion) -> str:
        return self.manifest(model)[1]

    def manifest(self, model: ModelVersion) -> tuple[Manifest, str]:
        return read_manifest(self.folder(model))

    def publish(self, folder: Path, name: str) -> ModelVersion:
        check_name(name)
        manifest, digest = read_manifest(folder)
        verify(folder)
        with self._reachable(), self._staging(name) as staging:
            _copy(folder, staging, manifest, digest)
            with locked(self.root / name / LOCK):
                number = _claim(staging, digest)
        return ModelVersion(name, number)

    def check_alias(self, alias: str) -> None:
        check_name(alias, "alias")

    def move_alias(self, name: str, alias: str, to: int | None, *, expected: int | None) -> None:
        check_name(alias, "alias")
        with self._changing(name) as model_dir:
            aliases = read_aliases(model_dir)
            if aliases.current.get(alias) != expected:
                raise _conflict(name, alias, aliases.current.get(alias), expected)
            if to is not None and to not in _numbers(model_dir):
                raise UnknownModel(f"no version {name}:{to}", where="model", known=[f"{name}:{n}" for n in _numbers(model_dir)])
            if to != expected:
                aliases.moved(alias, to).write(model_dir)

    def history(self, name: str, alias: str) -> tuple[int, ...]:
        check_name(name)
        with self._reachable():
            self.root.stat()
            return read_aliases(self.root / name).history.get(alias, ())

    def remove(self, model: ModelVersion) -> None:
        self.folder(model)
        with self._changing(model.name) as model_dir:
            pointing = sorted(alias for alias, to in read_aliases(model_dir).current.items() if to == model.version)
            if pointing:
                raise AliasConflict(f"{', '.join(pointing)} points at it; move that first", where=str(model))
            (model_dir / f"{REMOVED}{model.version}").touch()
            sync_path(model_dir)  # the number must not come back, whatever happens next
            trash = model_dir / f"{TRASH}{uuid.uuid4().hex}"
            (model_dir / str(model.version)).rename(trash)
            (model_dir / f"{DIGEST}{model.version}").unlink(missing_ok=True)
            sync_path(model_dir)
            shutil.rmtree(trash)

    def _check_digest(self, model: ModelVersion, folder: Path) -> None:
        """Raises: BadCheckpoint (the manifest is not the one that was published)."""
        kept = folder.with_name(f"{DIGEST}{model.version}")
        try:
            published = kept.read_text(encoding="ascii", errors="replace").strip() if kept.is_file() else None
        except OSError as error:
            raise BadCheckpoint(f"cannot be read: {error.strerror}", where=str(kept)) from error
        if published is not None and read_manifest(folder)[1] != published:
            raise BadCheckpoint("the manifest is not the one that was published", where=str(folder / MANIFEST))

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn what the file system refuses into RegistryUnavailable."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RegistryUnavailable(f"the registry cannot be used: {reason}", where=str(error.filename or self.root)) from error

    @contextmanager
    def _changing(self, name: str) -> Iterator[Path]:
        """The folder of a model that has versions, with its lock held. Raises: BadModelName, UnknownModel, RegistryUnavailable."""
        check_name(name)
        with self._reachable():
            self.root.stat()
            if not _numbers(self.root / name):
                raise UnknownModel(f"no model is called {name!r}", where="model", known=self.names())
            with locked(self.root / name / LOCK):
                _sweep(self.root / name)
                yield self.root / name

    @contextmanager
    def _staging(self, name: str) -> Iterator[Path]:
        """An empty folder of our own beside the versions; whatever is still there at the end is deleted."""
        model_dir = self.root / name
        if not model_dir.is_dir():
            model_dir.mkdir(exist_ok=True)
            sync_path(self.root)
        staging = model_dir / f"{STAGING}{uuid.uuid4().hex}"
        with ExitStack() as held:
            with locked(model_dir / LOCK):
                _sweep(model_dir)
                held.enter_context(locked(_lock_of(staging)))
                staging.mkdir()
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                _lock_of(staging).unlink(missing_ok=True)


def _lock_of(staging: Path) -> Path:
    return staging.with_name(f"{staging.name}{LOCK}")


def _copy(folder: Path, staging: Path, manifest: Manifest, digest: str) -> None:
    """Copy a checkpoint and see that it is still the one that was verified. Raises: BadCheckpoint (it changed meanwhile)."""
    for name, expected in {**manifest.files, MANIFEST: digest}.items():
        if copy_synced(folder / name, staging / name) != expected:
            raise BadCheckpoint("the file changed while it was being published", where=str(folder / name))
    sync_path(staging)


def _claim(staging: Path, digest: str) -> int:
    """Rename a whole copy to the next number, and remember the digest of its manifest. The caller holds the model's lock."""
    model_dir = staging.parent
    marked = [number for prefix in ("", REMOVED, DIGEST) for number in _numbers(model_dir, prefix)]
    number = 1 + max((*marked, *read_aliases(model_dir).mentioned), default=0)
    while True:
        try:
            write_whole(model_dir / f"{DIGEST}{number}", f"{digest}\n".encode())
            staging.rename(model_dir / str(number))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            (model_dir / f"{DIGEST}{number}").unlink()
            number += 1  # somebody put a folder there by hand
        else:
            sync_path(model_dir)
            return number


def _sweep(model_dir: Path) -> None:
    """Delete what dead publishers and removers left. The caller holds the model's lock."""
    for path in list(model_dir.iterdir()):
        if path.name.startswith(TRASH):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(STAGING) and path.suffix != LOCK and not is_held(_lock_of(path)):
            shutil.rmtree(path, ignore_errors=True)
            _lock_of(path).unlink(missing_ok=True)
        elif path.name.startswith(STAGING) and path.suffix == LOCK and not is_held(path):
            path.unlink(missing_ok=True)


def _numbers(model_dir: Path, prefix: str = "") -> list[int]:
    """Version numbers, ascending; the folder of version 7 is called 7 and nothing else. With REMOVED: numbers given out and gone."""
    try:
        names = [path.name for path in model_dir.iterdir() if prefix or path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name.removeprefix(prefix)) for name in names if name.startswith(prefix) and _NUMBER.match(name.removeprefix(prefix)))


def _read_numbers(model_dir: Path) -> list[int]:
    """Version numbers, ascending. Raises: BadCheckpoint (the folder of the model cannot be read, which says nothing of the others)."""
    try:
        return _numbers(model_dir)
    except OSError as error:
        raise BadCheckpoint(f"cannot be read: {error.strerror or error}", where=str(model_dir)) from error


def _is_model(path: Path) -> bool:
    """Whether a folder has versions. One that cannot be read counts as a model: whoever asks for it is told that it cannot be."""
    try:
        return path.is_dir() and bool(_numbers(path))
    except OSError:
        return True


def _conflict(name: str, alias: str, found: int | None, expected: int | None) -> AliasConflict:
    def said(version: int | None) -> str:
        return "nothing" if version is None else f"version {version}"

    return AliasConflict(f"points at {said(found)}, not at {said(expected)}; nothing was moved", where=f"{name}@{alias}")
