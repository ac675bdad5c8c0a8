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
from models.tiling import Reach
from models.voxelize import Voxels, prepare, voxelize

OVERFLOW = "numbers in the net overflow: coordinates or intensities are far outside what it was trained on; check the unit"


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
    with less than that the answer is not quite that of the whole cloud.
    """

    labels: npt.NDArray[np.uint16]
    confidence: npt.NDArray[np.float32]
    num_voxels: int
    filled: tuple[str, ...]
    scaled: tuple[str, ...] = ()
    tiles: int = 1
    halo: int = 0
    full_halo: int = 0


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
        return Classification(logits, scores, np.argsort(-scores, kind="stable"), len(voxels), voxels.filled)

    def answers_of_points(self, voxels: Voxels, logits: torch.Tensor) -> Segmentation:
        """From the logits of the voxels (M, L) to the answers of the points."""
        if voxels.grid is None:
            best, sure = best_of(logits)  # (M,) each
            return Segmentation(nearest(best, voxels), nearest(sure, voxels), len(voxels), voxels.filled, voxels.scaled)
        table, around = logits.cpu(), Surroundings(voxels.coords)
        parts = [best_of(around.interpolate(table, *part)) for part in pieces(voxels.grid, voxels.inverse)]
        labels, confidence = np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])
        return Segmentation(labels, confidence, len(voxels), voxels.filled, voxels.scaled)


def best_of(logits: torch.Tensor) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """The class of each row (n, L) with the largest logit, and its softmax: (n,), (n,). Raises: NonFinite."""
    confidence, labels = finite(logits).softmax(dim=1).max(dim=1)
    return labels.cpu().numpy().astype(np.uint16), confidence.cpu().numpy()


def finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits. Raises: NonFinite (the net overflowed: NaN has no class)."""
    if not bool(logits.isfinite().all()):
        raise NonFinite(OVERFLOW)
    return logits
