"""Training on a device: batches that are streamed there are those of the CPU, steps in low precision stay near, and engines agree."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from models.manifest import InputSpec, NetworkSpec
from models.sparse.backends.protocol import Engine
from models.sparse.tensor import SiteCache, sparse_tensor
from models.zoo import build
from tests.gpu.cases import NAMES, REFERENCE, engine_here, sites
from training.batches import plan_epoch, train_batches
from training.datasets import LabelledClouds
from training.finetune import freeze_policy
from training.loop import Compute, fit
from training.recipe import load_recipe
from training.samples import CloudSamples

pytestmark = pytest.mark.gpu
SCALE = 256.0


def clouds(count: int = 40) -> LabelledClouds:
    rng = np.random.default_rng(0)
    return LabelledClouds(rng.normal(size=(count, 256, 3)).astype("f4"), np.arange(count) % 3, ("a", "b", "c"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # by Python 3.12: no worker touches the device
@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_those_of_the_cpu(workers: int) -> None:
    """While the device is kept busy, so that copies overlap with work."""
    spec: InputSpec = load_recipe("bundled-modelnet40", {}).input
    samples = CloudSamples(clouds(), spec)
    plan = plan_epoch(samples.strata, batch_size=4, accumulate=1, balance="none", seed=1, epoch=0)
    micros = [micro for step in plan for micro in step]
    busy, found = torch.randn(4096, 4096, device="cuda"), []
    for batch in train_batches(samples, micros, seed=1, epoch=0, device=torch.device("cuda"), workers=workers):
        for _ in range(4):
            busy = (busy @ busy).tanh()
        found.append((batch.inputs.coords.clone(), batch.inputs.feats.clone(), batch.targets.clone()))
    expected = list(train_batches(samples, micros, seed=1, epoch=0, device=torch.device("cpu")))
    assert len(found) == len(expected) == 10
    for (coords, feats, targets), batch in zip(found, expected, strict=True):
        assert torch.equal(coords.cpu(), batch.inputs.coords)
        assert torch.equal(feats.cpu(), batch.inputs.feats)
        assert torch.equal(targets.cpu(), batch.targets)


def test_maps_are_built_while_the_last_batch_computes() -> None:
    """From the third batch on they are there when it arrives (two may be made before the first step), and they are right."""
    spec: InputSpec = load_recipe("bundled-modelnet40", {}).input
    samples = CloudSamples(clouds(), spec)
    micros = [micro for step in plan_epoch(samples.strata, batch_size=4, accumulate=1, balance="none", seed=1, epoch=0) for micro in step]
    net, device = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=3)).cuda().train(), torch.device("cuda")
    busy, there = torch.randn(4096, 4096, device=device), []
    for batch in train_batches(samples, micros, seed=1, epoch=0, device=device):
        there.append(len(batch.inputs.sites.geometry.maps))
        for _ in range(8):
            busy = (busy @ busy).tanh()
        net(batch.inputs).square().sum().backward()
        assert len(batch.inputs.sites.geometry.maps) == max(there[2:], default=len(batch.inputs.sites.geometry.maps))
        plain = SiteCache(batch.inputs.coords)
        plain.build(batch.inputs.sites.geometry)
        for key, kernel_map in plain._maps.items():
            assert torch.equal(batch.inputs.sites._maps[key].in_rows, kernel_map.in_rows), key
            assert torch.equal(batch.inputs.sites._maps[key].out_rows, kernel_map.out_rows), key
    assert there[0] == 0
    assert min(there[2:]) > 0


def gradients(engine: Engine, device: str, low: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Of a loss that is scaled up for the way back: else small ones would be none in float16."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=5)).to(device).train()
    coords = sites(12, 0.4)
    feats = torch.randn(len(coords), 3)
    x = sparse_tensor(coords.to(device), feats.to(device), 2, engine)
    with torch.autocast(device, low or torch.bfloat16, enabled=low is not None):
        loss = torch.nn.functional.cross_entropy(net(x).float(), torch.tensor([1, 3], device=device))
    (SCALE * loss).backward()
    return {name: parameter.grad.cpu() / SCALE for name, parameter in net.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("low", "least"), [(None, 0.9999), (torch.bfloat16, 0.9), (torch.float16, 0.99)])
def test_gradients_point_where_the_reference_has_them(name: str, low: torch.dtype | None, least: float) -> None:
    """Cosine of the angle between all gradients as one vector."""
    found, expected = gradients(engine_here(name), "cuda", low), gradients(REFERENCE, "cpu", None)
    assert found.keys() == expected.keys()
    ours, theirs = (torch.cat([each[key].flatten() for key in expected]) for each in (found, expected))
    assert ours.isfinite().all()
    assert float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)) > least


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns_on_the_device(name: str, precision: str, tmp_path: Path) -> None:
    engine_here(name)
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(48, 128, 3)).astype("f4")
    flat[np.arange(48) % 2 == 0, :, 2] *= 0.05  # discs and balls
    data = LabelledClouds(flat, np.arange(48) % 2, ("disc", "ball"))
    options = {"epochs": 4, "batch_size": 8, "init": "scratch", "precision": precision}
    recipe = load_recipe("bundled-modelnet40", options)
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=2)).cuda()
    before = copy.deepcopy(net.state_dict())
    end = fit(net, freeze_policy(net, "all"), recipe, data, data, tmp_path, Compute(engine=name))
    assert end.engine == name
    assert end.best >= 0.7
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())
