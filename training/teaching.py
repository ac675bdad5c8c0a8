"""Clouds that nobody labelled: what a teacher says of them stands in for their classes.

D labelled clouds, U others, R rows of both, L classes. Source: what the public code of Image2Point sets out to do (a teacher of few
shots, a student of all clouds). Departs: the teacher is asked once, of clouds as they are, and the student sees them augmented.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import BadDataset
from models.pointcloud import PointCloud
from models.predictor import Predictor
from training.datasets import Clouds
from training.datasets.folder import FileClouds
from training.datasets.walk import ENDINGS, Walk
from training.evaluate import BATCH
from training.progress import progress
from training.recipe import DistillSpec

TAUGHT = "taught.npz"


@dataclass(frozen=True)
class TaughtClouds:
    """Labelled clouds, and others of which a teacher's scores (U, L) float32 are known. rows (R,): the labelled first, then the others."""

    labelled: Clouds
    others: Clouds
    scores: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]

    @property
    def names(self) -> tuple[str, ...]:
        return self.labelled.names

    @cached_property
    def shares(self) -> npt.NDArray[np.float32]:
        """(R, L): what is to be learnt of each; of labelled clouds all is of their class."""
        known = np.zeros((len(self.labelled), len(self.names)), np.float32)
        known[np.arange(len(known)), self.labelled.targets] = 1
        both: npt.NDArray[np.float32] = np.concatenate([known, self.scores])[self.rows]
        return both

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """(R,) the class with the largest share."""
        return np.asarray(self.shares.argmax(1), np.int64)

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(f"{self.labelled.digest} {self.others.digest}".encode())
        digest.update(np.ascontiguousarray(self.scores, "<f4").data)
        digest.update(np.ascontiguousarray(self.rows, "<i8").data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def cloud(self, index: int) -> PointCloud:
        row = int(self.rows[index])
        count = len(self.labelled)
        return self.labelled.cloud(row) if row < count else self.others.cloud(row - count)

    def take(self, rows: npt.NDArray[np.integer]) -> "TaughtClouds":
        return replace(self, rows=self.rows[rows])


def taught(teacher: Predictor, labelled: Clouds, others: Clouds, spec: DistillSpec, folder: Path, key: str) -> TaughtClouds:
    """Ask the teacher about the clouds without labels; what it says is kept in `folder`, so that going on asks nothing again.

    key: says which teacher it is. Raises: BadDataset (it knows other classes; no clouds), WrongTask, InputError.
    """
    teacher.require("classify")
    names = teacher.manifest.labels
    if names != labelled.names:
        raise BadDataset(f"the teacher knows other classes than the data set: {names[:3]}…, {labelled.names[:3]}…", known=labelled.names)
    if not len(others):
        raise BadDataset("there are no clouds without labels to be taught about")
    logits = _logits(teacher, others, folder / TAUGHT, f"{key} {others.digest}")
    sharp = np.exp((logits - logits.max(1, keepdims=True)) / spec.temperature)
    scores = np.asarray(sharp / sharp.sum(1, keepdims=True), np.float32)
    sure = np.flatnonzero(scores.max(1) >= spec.least)
    rows = [*[np.arange(len(labelled))] * spec.copies, len(labelled) + sure]
    return TaughtClouds(labelled, others, scores, np.concatenate(rows))


def _logits(teacher: Predictor, clouds: Clouds, path: Path, key: str) -> npt.NDArray[np.float32]:
    """(U, L) float32, from disk where they are of this teacher and these clouds."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            if str(found["key"]) == key:
                return np.asarray(found["logits"], np.float32)
    starts = range(0, len(clouds), BATCH)
    parts = []
    for start in progress(starts, f"asking the teacher, batches of {BATCH}", len(starts)):
        voxels = [teacher.voxelize(clouds.cloud(row)) for row in range(start, min(start + BATCH, len(clouds)))]
        parts.append(np.stack([answer.logits for answer in teacher.classify(voxels)]))
    logits = np.concatenate(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, logits=logits, key=np.array(key))
    part.replace(path)
    return logits


def unlabelled_folder(root: Path) -> FileClouds:
    """All clouds in a folder and below it, whatever its folders are called. Raises: BadDataset."""
    walk = Walk(root)
    if not root.is_dir():
        raise BadDataset("not a folder", where=str(root))
    count = walk.add(b"")
    if walk.problems:
        raise BadDataset(walk.problems[0], where=str(root))
    if not count:
        raise BadDataset(f"no file of a readable format in it ({' '.join(ENDINGS)})", where=str(root))
    return FileClouds(walk.paths(), ("",), np.arange(count), np.zeros(count, np.int64))
