"""A test double for the weights of a segmenter: a real checkpoint of the smallest U-Net, with random weights.

It takes the place of a trained one where a test is about what happens around the net. No score may be taken from it, and it is
never shown as a model.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.checkpoint import save_checkpoint
from models.labels import load_label_map
from models.manifest import Devoxelize, FeatureSpec, InputSpec, Manifest, NetworkSpec, Provenance
from models.pointcloud import PointCloud
from models.sparse.tensor import collate
from models.unet3d import UNet3d
from models.voxelize import voxelize
from models.zoo import build
from tests.conftest import white_pixel


def save_segmenter(
    folder: Path, name: str, *, fill: float | None = 0.0, voxel_size: float = 0.2, devoxelize: Devoxelize = "nearest", seed: int = 0
) -> None:
    """A checkpoint that gives every point, from z and intensity, one of the 19 classes of SemanticKITTI.

    fill: what stands for an intensity that a file lacks; None refuses such files.
    """
    label_map = load_label_map("semantickitti19")
    network = NetworkSpec(name="cifar_resnet20", in_channels=2, num_classes=len(label_map), decoder="listing")
    digests = {key: hashlib.sha256(key.encode()).hexdigest() for key in ("recipe_sha256", "dataset_sha256")}
    licence = "none: untrained"
    manifest = Manifest(
        name=name,
        task="segment",
        network=network,
        input=InputSpec(
            features=(FeatureSpec(name="z"), FeatureSpec(name="intensity", fill=fill)), voxel_size=voxel_size, devoxelize=devoxelize
        ),
        labels=label_map.names,
        label_map=label_map,
        metrics={},
        provenance=Provenance(
            init="scratch",
            mode="all",
            recipe="none",
            seed=seed,
            dataset="none",
            code_version="test",
            created="2026-01-01T00:00:00Z",
            licences=(licence,),
            **digests,
        ),
    )
    folder.mkdir(parents=True)
    (folder / "curve.png").write_bytes(white_pixel())
    facts = "\n".join(f"- {fact}" for fact in ("test", *digests.values(), licence))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_checkpoint(folder, undecided(manifest), manifest, f"# {name}\n\nUntrained.\n\n![nothing](curve.png)\n\n{facts}\n")


def undecided(manifest: Manifest) -> nn.Module:
    """A net with random weights, its logits centred so that all classes occur: one class everywhere would hide a mixed-up order."""
    net = build(manifest.network)
    assert isinstance(net, UNet3d)
    rng = np.random.default_rng(0)
    cloud = PointCloud(rng.normal(size=(4000, 3)).astype(np.float32) * [4, 4, 1], intensity=rng.random(4000).astype(np.float32))
    tensor = collate([voxelize(cloud, manifest.input)])
    with torch.no_grad():
        for _ in range(40):  # until batch norm has the means of this cloud
            features = net.features(tensor)
        spread, middle = torch.std_mean(features @ net.fc.weight.T, dim=0)
        net.fc.weight /= spread[:, None]
        net.fc.bias[:] = -middle / spread
    return net
