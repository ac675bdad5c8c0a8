"""The only door to a net for the service, `fip predict` and evaluation: clouds in, predictions out. Keeps no state between calls.

B clouds, L classes, N points and M voxels of a cloud, S = ΣM.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from models.checkpoint import load_checkpoint
from models.errors import BadOption
from models.manifest import Manifest, Precision
from models.processor import Classification, Processor, Segmentation
from models.rounding import rounding
from models.sparse.backends import engine_for
from models.sparse.nn import bytes_of, forget_folded, prepare_inference
from models.sparse.tensor import SparseTensor, collate
from models.unet3d import UNet3d, reach_of
from models.voxelize import Voxels
from models.zoo import build


class Predictor(Processor):
    """A Processor with its net, in evaluation mode.

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
        products are rounded to; taps are summed in float32; tf32 on CUDA only, where it holds for the process while a pass lasts.
        Raises: BadOption.
        """
        super().__init__(manifest, reach_of(net) if isinstance(net, UNet3d) else None)
        self.device = torch.device(device)
        self.engine = engine_for(self.device, engine, (precision,))
        self.precision = precision
        if precision == "tf32" and self.device.type != "cuda":
            raise BadOption(
                "tf32 is what NVIDIA's matrix units round to; on a CPU take bf16", where="precision", known=("fp32", "bf16", "fp16")
            )
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

    def settle(self) -> int:
        """Let go of what the passes to come do not need, after at least one, and nothing else is asked of the net from then on; the bytes
        that its weights take.
        """
        forget_folded(self._net)
        return bytes_of(self._net)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Voxels]) -> torch.Tensor:
        """Logits of a batch, float32: (B, L) of a classifier, (S, L) where every voxel has an answer."""
        tensor: SparseTensor = collate(batch, self.device, self.engine)
        with torch.cuda.device_of(tensor.feats), rounding(self.device, self.precision):
            logits: torch.Tensor = self._net(tensor)
        return logits.float()

    def logits(self, voxels: Voxels) -> torch.Tensor:
        """Logits of one cloud or tile, on the CPU: (1, L) of a classifier, else (M, L)."""
        return self.forward([voxels]).cpu()

    def classify(self, batch: Sequence[Voxels]) -> list[Classification]:
        """One Classification per voxelized cloud, in order. Raises: WrongTask."""
        self.require("classify")
        logits = self.forward(batch).cpu().numpy()  # (B, L)
        return [self.answer_of_cloud(voxels, logits[b]) for b, voxels in enumerate(batch)]

    def segment(self, batch: Sequence[Voxels]) -> list[Segmentation]:
        """One Segmentation per voxelized cloud, in order. Raises: WrongTask."""
        self.require("segment")
        parts = self.forward(batch).split([len(voxels) for voxels in batch])  # (M, L) each
        return [self.answers_of_points(voxels, logits) for voxels, logits in zip(batch, parts, strict=True)]
