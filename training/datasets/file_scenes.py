"""Labelled scenes that stay on disk, each read when it is asked for.

F files of a data set, D scenes of a split, N points of a scene.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset, BadLabels, FileError, InputError, nearest
from models.io import read_cloud
from models.labels import IGNORE, LabelMap
from models.pointcloud import PointCloud
from training.datasets.kept_digests import kept_digest
from training.datasets.paths import Paths, offsets_of
from training.datasets.scenes import Scene
from training.progress import progress

SHOWN = 10  # places that one error lists
NO_ID = -1  # what a file may write for a point without a label
SHA256_BYTES = 32
KEPT_FROM_BYTES = 1 << 30  # smaller sets are read for their digest in a few seconds

Ids = npt.NDArray[np.integer]
IdReader = Callable[[PointCloud, Path], Ids]


@dataclass(frozen=True)
class FileScenes:
    """D scenes; rows (D,) are those of `clouds`, `labels` and `names`.

    labels: the file with the label of every point, which may be the cloud's own. read_ids: the ids (N,) in it, NO_ID where it
    says there is none; a function of a module, so that it travels to other processes. names: what `titles` are made of.
    sha256 (D, 64) uint8 of the cloud's and the label file's bytes, where they were read. notes: what whoever trains on this must
    know. Nothing here is a Python object a scene: forked workers share it.
    """

    clouds: Paths
    labels: Paths
    names: Paths
    rows: npt.NDArray[np.int64]
    label_map: LabelMap
    read_ids: IdReader
    sha256: npt.NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def titles(self) -> Sequence[str]:
        return tuple(self.names.relative(int(row)) for row in self.rows)

    def scene(self, index: int) -> Scene:
        """One scene, read as the service reads the same bytes; further columns are dropped: the labels may be one of them.

        Raises: InputError of the kind that the reader met, BadLabels; both name the file.
        """
        row = int(self.rows[index])
        with naming(self.clouds.relative(row)):
            cloud = read_cloud(self.clouds.path(row)).checked()
        with naming(self.labels.relative(row)):
            classes = classes_of(self.read_ids(cloud, self.labels.path(row)), self.label_map)
            if len(classes) != len(cloud):
                raise BadLabels(f"{len(classes):,} labels for the {len(cloud):,} points of {self.clouds.relative(row)}")
        return Scene(replace(cloud, extra=MappingProxyType({})), classes)

    def take(self, rows: npt.NDArray[np.integer]) -> "FileScenes":
        sha256 = None if self.sha256 is None else self.sha256[rows]
        return replace(self, rows=self.rows[rows], sha256=sha256)

    @cached_property
    def digest(self) -> str:
        """sha256 over the classes and (title, sha256 of cloud and labels) in order.

        Files that were not read yet are read once: a later process finds the digest of a large set kept, as long as no file has
        another size or time of change. Raises: FileError.
        """
        if self.sha256 is not None:
            return self._digest()
        size, signature = self._signature()
        return self._digest() if size < KEPT_FROM_BYTES else kept_digest(signature, self._digest)

    def _digest(self) -> str:
        digest = hashlib.sha256(self.label_map.model_dump_json().encode())
        for index, row in enumerate(progress(map(int, self.rows), "reading files for their digest", len(self))):
            content = self._hash(row) if self.sha256 is None else self.sha256[index].tobytes()
            digest.update(self.names.raw(row) + b"\0" + content)
        return digest.hexdigest()

    def _signature(self) -> tuple[int, str]:
        """(bytes of all files; sha256 of what changes when one of them does: titles, sizes, times of change)."""
        total = 0
        signature = hashlib.sha256(self.label_map.model_dump_json().encode())
        for row in map(int, self.rows):
            for paths in (self.clouds, self.labels):
                with naming(paths.relative(row)):
                    found = paths.path(row).stat()
                total += found.st_size
                signature.update(self.names.raw(row) + b"\0%d %d\0" % (found.st_size, found.st_mtime_ns))
        return total, signature.hexdigest()

    def _hash(self, row: int) -> bytes:
        with naming(self.clouds.relative(row)):
            return file_hashes(self.clouds.path(row), self.labels.path(row))

    def without(self, exclude: Sequence[str], elsewhere: Callable[[str], bool]) -> "FileScenes":
        """The scenes whose titles are not in `exclude`. elsewhere: whether a title is one of another split.

        Raises: BadDataset (no scene has such a title, or none is left).
        """
        if not exclude:
            return self
        titles = self.titles
        unknown = [title for title in exclude if title not in titles and not elsewhere(title)]
        if unknown:
            raise BadDataset(
                f"no scene to exclude of the title {listed(unknown)}{nearest(unknown[0], titles)}", where=str(self.clouds.root)
            )
        rest = self.take(np.array([row for row, title in enumerate(titles) if title not in exclude], np.int64))
        if not len(rest):
            raise BadDataset(f"all {len(self):,} scenes are excluded", where=str(self.clouds.root))
        return rest


def classes_of(ids: Ids, label_map: LabelMap) -> npt.NDArray[np.int64]:
    """Ids of a file (N,) -> classes (N,), IGNORE for NO_ID too. Raises: BadLabels."""
    unlabelled = ids == NO_ID
    if not unlabelled.any():
        return label_map.classes_of(ids)
    classes = np.full(ids.shape, IGNORE, np.int64)
    classes[~unlabelled] = label_map.classes_of(ids[~unlabelled])
    return classes


def file_hashes(cloud: Path, labels: Path) -> bytes:
    """sha256 of the bytes of one file, then of the other: 64 bytes. Raises: OSError."""
    first = _sha256(cloud)
    return first + (first if labels == cloud else _sha256(labels))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors about a file say which one, by its path below the root, and keep the place inside it that they name."""
    try:
        yield
    except (InputError, BadLabels) as error:
        inside = "" if error.where is None or Path(error.where).is_absolute() else f", {error.where}"
        raise type(error)(error.detail, where=where + inside, known=error.known) from error
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", where=where) from error


def as_paths(root: Path, texts: Sequence[str]) -> Paths:
    """Paths below root, or titles, as compact as `Paths` keeps them."""
    raw = [text.encode(errors="surrogateescape") for text in texts]
    return Paths(root, b"".join(raw), offsets_of(np.array([len(each) for each in raw], np.int64)))


def listed(texts: Sequence[str]) -> str:
    """The first ten, and how many there are beyond."""
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def refuse(root: Path, head: str, problems: Sequence[str]) -> None:
    """Raises: BadDataset, if there are problems, with the first ten, one a line."""
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        raise BadDataset("\n  ".join([head, *problems[:SHOWN], *more]), where=str(root))
