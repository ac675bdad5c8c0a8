"""A classifier that is looked into: its net, layer by layer as it was trained, and the clouds that it is shown.

Clouds are prepared by the functions that the service calls; the layers run unmerged, so that each can be seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.checkpoint import load_checkpoint
from models.errors import BadDataset
from models.manifest import Axis, Manifest
from models.processor import Processor
from models.registry import open_catalogue
from models.resnet3d import ResNet3d
from models.sparse.backends import engine_for
from models.sparse.nn import ties_of
from models.sparse.tensor import SparseTensor, collate
from models.voxelize import Voxels
from models.zoo import build
from training.datasets import Clouds
from training.datasets.labelled import AnyClouds
from training.image_weights import ImageWeights
from training.inflate import InflateSpec, inflate_state_dict
from training.progress import progress
from training.recipe import Recipe, load_recipe
from training.sources import clouds_to_score

BATCH = 32


@dataclass(frozen=True)
class Subject:
    """net: in evaluation mode, without gradients. digest: sha256 of the manifest. up: the axis that is up in the clouds' files, None as
    the manifest says.
    """

    net: ResNet3d
    manifest: Manifest
    digest: str
    recipe: Recipe | None
    device: torch.device
    engine: str
    up: Axis | None = None

    @classmethod
    def open(
        cls, model: str, registry: str | None = None, device: torch.device | str = "cpu", engine: str | None = None, up: Axis | None = None
    ) -> "Subject":
        """Load a checkpoint folder or a model by name. Raises: UnknownModel, BadCheckpoint, BadOption, WrongTask (no classifier)."""
        folder = open_catalogue(registry).locate(model)[0]
        checkpoint = load_checkpoint(folder)
        manifest = checkpoint.manifest
        Processor(manifest, None).require("classify")
        net = _still(build(manifest.network))
        checkpoint.load_into(net)
        recipe = load_recipe(str(folder / "recipe.yaml")) if (folder / "recipe.yaml").is_file() else None
        place = torch.device(device)
        return cls(net.to(place), manifest, checkpoint.digest, recipe, place, engine_for(place, engine).name, up)

    def untrained(self, seed: int) -> ResNet3d:
        """The same network with fresh weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _still(build(self.manifest.network)).to(self.device)

    def inflated(self, image: ImageWeights, seed: int) -> ResNet3d:
        """The network as finetuning begins: stages from a 2D net, as the model's recipe inflates them, stem and head fresh.

        Raises: InflationError (the 2D net is another).
        """
        net = self.untrained(seed)
        spec = self.recipe.inflate if self.recipe else InflateSpec()
        net.load_state_dict(inflate_state_dict(image.tensors, net.state_dict(), spec, ties_of(net))[0])
        return net

    def clouds(self, root: Path, split: str, kind: str | None) -> tuple[Clouds, str | None]:
        """A split of a data set, and what must be said of it. Raises: BadDataset (its classes are not the model's; no clouds)."""
        clouds, note = clouds_to_score(root, split, kind, self.recipe, self.manifest.provenance.dataset_sha256)
        if clouds.names != self.manifest.labels:
            raise BadDataset(f"the data set names other classes than the model: {clouds.names[:3]}…, {self.manifest.labels[:3]}…")
        if not len(clouds):
            raise BadDataset("there are no clouds to look at", where=str(root))
        return clouds, note

    def voxels(self, clouds: Clouds, row: int) -> Voxels:
        """One cloud as the net gets it, without the variants that would vote with it."""
        alone = self.manifest.model_copy(update={"input": self.manifest.input.model_copy(update={"votes": None})})
        return Processor(alone, None).voxelize(clouds.cloud(row), up=self.up)

    def batches(self, clouds: Clouds, size: int = BATCH) -> Iterator[SparseTensor]:
        """All clouds in order, `size` at a time."""
        starts = range(0, len(clouds), size)
        for start in progress(starts, "looking at clouds, batches", len(starts)):
            rows = range(start, min(start + size, len(clouds)))
            yield self.collate([self.voxels(clouds, row) for row in rows])

    def collate(self, batch: list[Voxels]) -> SparseTensor:
        return collate(batch, self.device, engine_for(self.device, self.engine))


def balanced(clouds: AnyClouds, limit: int | None, seed: int) -> AnyClouds:
    """Up to `limit` clouds, as many of each class as can be, in their order; all without a limit."""
    if limit is None or limit >= len(clouds):
        return clouds
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(clouds))
    rank = np.empty(len(clouds), np.int64)  # of a cloud within its class
    for target in range(len(clouds.names)):
        of_class = order[clouds.targets[order] == target]
        rank[of_class] = np.arange(len(of_class))
    chosen = order[np.argsort(rank[order], kind="stable")][:limit]
    return clouds.take(np.sort(chosen))


def _still(net: torch.nn.Module) -> ResNet3d:
    assert isinstance(net, ResNet3d)
    return net.eval().requires_grad_(False)
