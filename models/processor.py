"""All of a model but its net: clouds to voxels before it, logits to answers after it, as the manifest says.

N points and M voxels of a cloud, L classes. Where the net runs in another process, this is what the callers hold.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from models.devoxelize import Surroundings, nearest, pieces
from models.errors import NonFinite, WrongTask
from models.manifest import Axis, Manifest, Task
from models.pointcloud import PointCloud
from models.ranges import in_range
from models.tiling import Reach, Rows
from models.voxelize import Voxels, prepare, voxelize

OVERFLOW = "numbers in the net overflow: coordinates or intensities are far outside what it was trained on; check the unit"

Best = tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]  # classes and their softmax values


@dataclass(frozen=True)
class Classification:
    """Scores of one cloud. logits (L,) float32; ranking: class indices, best first; num_voxels M."""

    logits: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    ranking: npt.NDArray[np.int64]
    num_voxels: int
    filled: tuple[str, ...]

    @property
    def index(self) -> int:
        return int(self.ranking[0])


@dataclass(frozen=True)
class Segmentation:
    """Classes of one cloud. labels (N,) uint16, and confidence (N,) float32, the softmax value of that class; num_voxels M.

    tiles: forward passes that it took; of more than one, halo is the margin around each in voxels, and full_halo how far the net sees:
    with less than that the answer is not quite that of the whole cloud. logits (N, L) float32, where they were asked for.
    """

    labels: npt.NDArray[np.uint16]
    confidence: npt.NDArray[np.float32]
    num_voxels: int
    filled: tuple[str, ...]
    scaled: tuple[str, ...] = ()
    tiles: int = 1
    halo: int = 0
    full_halo: int = 0
    logits: npt.NDArray[np.float32] | None = None


class Processor:
    """Thread-safe: every method is a pure function of its arguments and the manifest."""

    def __init__(self, manifest: Manifest, reach: Reach | None) -> None:
        """reach: how far the net sees; None of a classifier, which sees the whole cloud."""
        self.manifest = manifest
        self._reach = reach

    def voxelize(self, cloud: PointCloud, *, up: Axis | None = None, unit: str | None = None) -> Voxels:
        """Prepare and voxelize one cloud as the manifest says. Raises: CloudError, BadOption (see models.voxelize)."""
        cloud, scaled = prepare(cloud, self.manifest.input, up=up, unit=unit), False
        if self.manifest.largest_intensity is not None:
            cloud, scaled = in_range(cloud, self.manifest.largest_intensity)
        return replace(voxelize(cloud, self.manifest.input), scaled=("intensity",) if scaled else ())

    @property
    def reach(self) -> Reach:
        """How far the net sees. Raises: WrongTask (a classifier sees the whole cloud)."""
        self.require("segment")
        assert self._reach is not None
        return self._reach

    def require(self, task: Task) -> None:
        """Raises: WrongTask."""
        if self.manifest.task != task:
            raise WrongTask(f"model {self.manifest.name!r} does not {task}: its task is to {self.manifest.task}")

    def answer_of_cloud(self, voxels: Voxels, logits: npt.NDArray[np.float32]) -> Classification:
        """From the logits (L,) of a cloud to its classes. Raises: NonFinite."""
        if not np.isfinite(logits).all():
            raise NonFinite(OVERFLOW)
        weights = np.exp(logits - logits.max())
        scores = weights / weights.sum()
        return Classification(logits, scores, np.argsort(-scores, kind="stable"), voxels.of_cloud, voxels.filled)

    def answers_of_points(self, voxels: Voxels, logits: torch.Tensor, *, keep_logits: bool = False) -> Segmentation:
        """From the logits of the voxels (M, L) to the answers of the points, with the logits (N, L) of these if they are to be kept."""
        if voxels.grid is None:
            best, sure = best_of(logits)  # (M,) each
            kept = nearest(logits.cpu().numpy(), voxels) if keep_logits else None
            return Segmentation(nearest(best, voxels), nearest(sure, voxels), len(voxels), voxels.filled, voxels.scaled, logits=kept)
        table, around, start = logits.cpu(), Surroundings(voxels.coords), 0
        found = PointAnswers(len(voxels.inverse), logits.shape[1] if keep_logits else 0)
        for grid, inverse in pieces(voxels.grid, voxels.inverse):
            found.own(slice(start, start + len(inverse)), around.interpolate(table, grid, inverse))
            start += len(inverse)
        return Segmentation(found.labels, found.confidence, len(voxels), voxels.filled, voxels.scaled, logits=found.logits)


class PointAnswers:
    """Answers of N points, filled in some rows at a time: labels (N,), confidence (N,), logits (N, L) or None."""

    def __init__(self, num_points: int, kept: int) -> None:
        """kept: L, or 0 if no logits are to be kept."""
        self.labels, self.confidence = np.empty(num_points, np.uint16), np.empty(num_points, np.float32)
        self.logits = np.empty((num_points, kept), np.float32) if kept else None

    def nearest(self, rows: Rows, logits: torch.Tensor, best: Best, inverse: npt.NDArray[np.int64]) -> None:
        """Points in these rows (n,) have the answers, `best_of` the logits (M, L), of the voxels that they lie in, `inverse` (n,)."""
        self.labels[rows], self.confidence[rows] = (each.take(inverse) for each in best)
        if self.logits is not None:
            self.logits[rows] = logits.cpu().numpy().take(inverse, axis=0)

    def own(self, rows: Rows, logits: torch.Tensor) -> None:
        """Points in these rows (n,) have logits of their own (n, L). Raises: NonFinite."""
        self.labels[rows], self.confidence[rows] = best_of(logits)
        if self.logits is not None:
            self.logits[rows] = logits.numpy()


def best_of(logits: torch.Tensor) -> Best:
    """The class of each row (n, L) with the largest logit, and its softmax: (n,), (n,). Raises: NonFinite."""
    confidence, labels = finite(logits).softmax(dim=1).max(dim=1)
    return labels.cpu().numpy().astype(np.uint16), confidence.cpu().numpy()


def finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits. Raises: NonFinite (the net overflowed: NaN has no class)."""
    if not bool(logits.isfinite().all()):
        raise NonFinite(OVERFLOW)
    return logits
