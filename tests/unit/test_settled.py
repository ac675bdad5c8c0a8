"""What a loaded model takes: never more than was reckoned with beforehand, and half of it once it has run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import load_checkpoint, loading_bytes, save_checkpoint
from models.labels import load_label_map
from models.manifest import FeatureSpec, InputSpec, Manifest, NetworkSpec, Precision, Provenance
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.sparse.nn import bytes_of
from models.zoo import build

NETS = {
    "cifar": NetworkSpec(name="cifar_resnet20", in_channels=1, num_classes=19),
    "tied": NetworkSpec(name="cifar_resnet20", in_channels=1, num_classes=19, tied="z"),
    "resnet18": NetworkSpec(name="resnet18", in_channels=1, num_classes=19),
    "bottlenecks": NetworkSpec(name="resnet50", in_channels=1, num_classes=19, tied="z"),
    "listing": NetworkSpec(name="cifar_resnet20", in_channels=1, num_classes=19, decoder="listing"),
    "reference": NetworkSpec(name="cifar_resnet20", in_channels=1, num_classes=19, decoder="reference", blur=True),
}


def saved(folder: Path, network: NetworkSpec, *, half: bool) -> Path:
    label_map = load_label_map("semantickitti19")
    sources = {"init": "scratch", "mode": "all", "recipe": "none", "dataset": "none", "code_version": "test", "created": "2026-01-01"}
    digests = {"recipe_sha256": "0" * 64, "dataset_sha256": "0" * 64}
    manifest = Manifest(
        name="net",
        task=network.task,
        network=network,
        input=InputSpec(features=(FeatureSpec(name="z"),), voxel_size=0.2),
        labels=label_map.names,
        label_map=label_map if network.task == "segment" else None,
        metrics={},
        provenance=Provenance.model_validate({**sources, **digests, "seed": 0}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(folder, build(network), manifest, "# net\n", half=half)
    return folder


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("engine", "precision", "half"), [("torch", "fp32", False), (None, "fp32", True), (None, "bf16", False)])
def test_a_net_that_has_settled_says_the_same_in_less(
    tmp_path: Path, kind: str, engine: str | None, precision: Precision, half: bool
) -> None:
    folder = saved(tmp_path / "net", NETS[kind], half=half)
    reckoned, stored = loading_bytes(folder), sum(4 * each.numel() for each in load_checkpoint(folder).tensors.values())
    net = Predictor.load(folder, "cpu", engine, precision)
    voxels = net.voxelize(PointCloud(np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)))
    before = net.forward([voxels])
    both = bytes_of(net._net)
    settled = net.settle()
    torch.testing.assert_close(net.forward([voxels]), before, rtol=0, atol=0)
    assert bytes_of(net._net) == settled
    assert stored < both <= reckoned
    assert settled < 0.8 * both
