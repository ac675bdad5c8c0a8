"""The only door to a net for the service, `fip predict` and evaluation: clouds in, predictions out. Keeps no state between calls.

B clouds, L classes, N points and M voxels of a cloud, S = ΣM.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.checkpoint import load_checkpoint
from models.devoxelize import Surroundings, nearest, pieces
from models.errors import NonFinite, WrongTask
from models.manifest import Axis, Manifest, Precision, Task
from models.pointcloud import PointCloud
from models.ranges import in_range
from models.sparse.backends import engine_for
from models.sparse.nn import prepare_inference
from models.sparse.tensor import SparseTensor, collate
from models.tiling import Reach
from models.unet3d import UNet3d, reach_of
from models.voxelize import Voxels, prepare, voxelize
from models.zoo import build


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


class Predictor:
    """A net in evaluation mode with the manifest that says how to feed it.

    Thread-safe: every method is a pure function of its arguments and the frozen weights. The net is taken over, not copied:
    whoever trains it afterwards changes the answers; give a copy to keep them.
    """

    def __init__(
        self,
        net: nn.Module,
        manifest: Manifest,
        device: torch.device | str = "cpu",
        engine: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """engine: a name of models.sparse.backends.ENGINES; None = the one chosen for the device. precision: what the factors of
        products are rounded to; taps are summed in float32. Raises: BadOption.
        """
        self.manifest = manifest
        self.device = torch.device(device)
        self.engine = engine_for(self.device, engine)
        self.precision = precision
        self._net = net.to(self.device).eval().requires_grad_(False)
        prepare_inference(self._net)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", engine: str | None = None, precision: Precision = "fp32"
    ) -> "Predictor":
        """Read a checkpoint folder. Raises: BadCheckpoint (damaged, incomplete, unknown network), BadOption (engine)."""
        checkpoint = load_checkpoint(folder)
        net = build(checkpoint.manifest.network)
        checkpoint.load_into(net)
        return cls(net, checkpoint.manifest, device, engine, precision)

    def voxelize(self, cloud: PointCloud, *, up: Axis | None = None, unit: str | None = None) -> Voxels:
        """Prepare and voxelize one cloud as the manifest says. Raises: CloudError, BadOption (see models.voxelize)."""
        cloud, scaled = prepare(cloud, self.manifest.input, up=up, unit=unit), False
        if self.manifest.largest_intensity is not None:
            cloud, scaled = in_range(cloud, self.manifest.largest_intensity)
        return replace(voxelize(cloud, self.manifest.input), scaled=("intensity",) if scaled else ())

    @torch.inference_mode()
    def forward(self, batch: Sequence[Voxels]) -> torch.Tensor:
        """Logits of a batch, float32: (B, L) of a classifier, (S, L) where every voxel has an answer."""
        tensor: SparseTensor = collate(batch, self.device, self.engine)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: torch.Tensor = self._net(tensor)
        return logits.float()

    def logits(self, voxels: Voxels) -> torch.Tensor:
        """Logits of one cloud or tile, on the CPU: (1, L) of a classifier, else (M, L)."""
        return self.forward([voxels]).cpu()

    @property
    def reach(self) -> Reach:
        """How far the net sees. Raises: WrongTask (a classifier sees the whole cloud)."""
        self.require("segment")
        assert isinstance(self._net, UNet3d)
        return reach_of(self._net)

    def classify(self, batch: Sequence[Voxels]) -> list[Classification]:
        """One Classification per voxelized cloud, in order. Raises: WrongTask."""
        self.require("classify")
        logits = finite(self.forward(batch).cpu())  # (B, L)
        scores = logits.softmax(dim=1)
        ranking = scores.argsort(dim=1, descending=True, stable=True)
        return [
            Classification(logits[b].numpy(), scores[b].numpy(), ranking[b].numpy(), len(voxels), voxels.filled)
            for b, voxels in enumerate(batch)
        ]

    def segment(self, batch: Sequence[Voxels]) -> list[Segmentation]:
        """One Segmentation per voxelized cloud, in order. Raises: WrongTask."""
        self.require("segment")
        parts = self.forward(batch).split([len(voxels) for voxels in batch])  # (M, L) each
        return [self.answers_of_points(voxels, logits) for voxels, logits in zip(batch, parts, strict=True)]

    def require(self, task: Task) -> None:
        """Raises: WrongTask."""
        if self.manifest.task != task:
            raise WrongTask(f"model {self.manifest.name!r} does not {task}: its task is to {self.manifest.task}")

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
        raise NonFinite("numbers in the net overflow: coordinates or intensities are far outside what it was trained on; check the unit")
    return logits
