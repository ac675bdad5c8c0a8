"""Downloaded versions on this machine: `root/name/version-digest/`, there as a whole or not at all, and looked at before use."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.artefact import read_manifest
from models.durable import sync_path
from models.errors import BadCheckpoint, RegistryUnavailable
from models.manifest import Manifest
from models.registry.mlflow_files import check
from models.registry.protocol import ModelVersion

STALE_S = 24 * 3600.0


@dataclass(frozen=True)
class Cache:
    """Versions of one registry. Raises, from every method: RegistryUnavailable (the disk refuses)."""

    root: Path

    def find(self, model: ModelVersion, digest: str | None) -> Path | None:
        """Folder of a version that is here and undamaged; one that is damaged is dropped. digest: None if it is not known."""
        for copy in self._copies(model, digest):
            try:
                check(copy, model, _digest(copy))
            except BadCheckpoint:
                self._drop(copy)
            else:
                return copy
        return None

    def digest(self, model: ModelVersion) -> str | None:
        """Digest of a version that is here; its files are not looked at."""
        return next(map(_digest, self._copies(model, None)), None)

    def manifest(self, model: ModelVersion, digest: str) -> Manifest | None:
        """Manifest of a version that is here, if it is the one of that digest; the other files are not looked at."""
        for copy in self._copies(model, digest):
            with contextlib.suppress(BadCheckpoint):
                manifest, found = read_manifest(copy)
                if found == digest:
                    return manifest
        return None

    def keep(self, folder: Path, model: ModelVersion, digest: str) -> Path:
        """Take over a checked folder from a workspace, and say where it is now."""
        target = self.root / model.name / f"{model.version}-{digest}"
        with self._usable():
            for path in (*folder.iterdir(), folder):  # on the disk before the folder gets its final name
                sync_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was faster with the same files
                    raise
        return target

    def forget(self, model: ModelVersion) -> None:
        for copy in self._copies(model, None):
            self._drop(copy)

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder on the same disk that is deleted in the end; also deletes those of processes that were killed a day ago."""
        with self._usable():
            self.root.mkdir(parents=True, exist_ok=True)
            for left in self.root.glob(".work-*"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - left.stat().st_mtime > STALE_S:
                        shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".work-", ignore_cleanup_errors=True) as workspace:
                yield Path(workspace)

    def _copies(self, model: ModelVersion, digest: str | None) -> list[Path]:
        return sorted((self.root / model.name).glob(f"{model.version}-{digest or '*'}"))

    def _drop(self, copy: Path) -> None:
        with self.workspace() as workspace, contextlib.suppress(FileNotFoundError):
            copy.rename(workspace / copy.name)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RegistryUnavailable(
                f"the cache cannot be used: {error.strerror or error}", where=str(error.filename or self.root)
            ) from error


def _digest(copy: Path) -> str:
    return copy.name.partition("-")[2]
