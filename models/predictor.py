"""The only door to a net for the service, `fip predict` and evaluation: clouds in, predictions out. Keeps no state between calls.

B clouds, L classes, M voxels of a cloud.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.checkpoint import load_checkpoint
from models.errors import WrongTask
from models.manifest import Axis, Manifest, Precision
from models.pointcloud import PointCloud
from models.sparse.backends import engine_for
from models.sparse.nn import prepare_inference
from models.sparse.tensor import SparseTensor, collate
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
        return voxelize(prepare(cloud, self.manifest.input, up=up, unit=unit), self.manifest.input)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Voxels]) -> torch.Tensor:
        """Logits of a batch: (B, L) float32 for a classifier."""
        tensor: SparseTensor = collate(batch, self.device, self.engine)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: torch.Tensor = self._net(tensor)
        return logits.float()

    def classify(self, batch: Sequence[Voxels]) -> list[Classification]:
        """One Classification per voxelized cloud, in order. Raises: WrongTask."""
        if self.manifest.task != "classify":
            raise WrongTask(f"model {self.manifest.name!r} does not classify, its task is {self.manifest.task!r}")
        logits = self.forward(batch).cpu()  # (B, L)
        scores = logits.softmax(dim=1)
        ranking = scores.argsort(dim=1, descending=True, stable=True)
        return [
            Classification(logits[b].numpy(), scores[b].numpy(), ranking[b].numpy(), len(voxels), voxels.filled)
            for b, voxels in enumerate(batch)
        ]
