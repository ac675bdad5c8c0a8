"""Real 2D weights and real clouds: what is inflated, and a short real FIP run with frozen filters."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.manifest import NetworkSpec
from models.zoo import build
from training.image_weights import load_image_weights
from training.inflate import InflateSpec, inflate_kernel, inflate_state_dict
from training.loop import fit
from training.recipe import load_recipe
from training.run import start

pytestmark = pytest.mark.data

FILES = {
    "cifar10_resnet20.safetensors": "cifar_resnet20",
    "cifar10_resnet32.safetensors": "cifar_resnet32",
    "cifar10_resnet44.safetensors": "cifar_resnet44",
    "cifar10_resnet56.safetensors": "cifar_resnet56",
    "imagenet1k_resnet18_pq_small.npz": "resnet18",
    "imagenet1k_resnet50_pq_large.npz": "resnet50",
}


def first_ten(targets: np.ndarray) -> np.ndarray:
    """Rows of the first six clouds of each of the first ten classes."""
    return np.concatenate([np.flatnonzero(targets == c)[:6] for c in range(10)])


@pytest.mark.parametrize(("file", "network"), FILES.items())
def test_every_stage_tensor_finds_its_place(data_dir: Path, file: str, network: str) -> None:
    image = load_image_weights(str(data_dir / "weights" / file))
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=40))
    state, report = inflate_state_dict(image.tensors, net.state_dict(), InflateSpec())
    net.load_state_dict(state)
    assert {name.split(".")[0] for name in report.unused} <= {"conv1", "bn1", "fc", "linear"}
    kernel = image.tensors["layer1.0.conv1.weight"]
    if kernel.shape[2] == 3:
        assert torch.equal(net.get_parameter("layer1.0.conv1.weight"), inflate_kernel(kernel, InflateSpec()))
    assert report.loaded_values / report.total_values > 0.99


@pytest.mark.parametrize("mode", ["io", "iobn"])
def test_a_real_run_leaves_frozen_filters_bit_identical(data_dir: Path, modelnet, tmp_path: Path, mode: str) -> None:
    """Inflated CIFAR ResNet20 on ten real classes, six clouds each: the loss falls, frozen tensors keep every bit."""
    overrides = {"mode": mode, "epochs": 4, "optim.lr": 0.05, "schedule.warmup_epochs": 0, "batch_size": 20}
    recipe = load_recipe("bundled-modelnet40", overrides)
    clouds = modelnet("train", first_ten)
    beginning = start(recipe, 10, str(data_dir / "weights" / "cifar10_resnet20.safetensors"))
    before = {name: tensor.clone() for name, tensor in beginning.net.state_dict().items()}
    fit(beginning.net, beginning.policy, recipe, clouds, clouds.take(np.arange(0)), tmp_path)
    after = beginning.net.state_dict()
    frozen = {name for name, _ in beginning.net.named_parameters()} - beginning.policy.trained
    assert len(frozen) == (54 if mode == "io" else 18)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any(not torch.equal(before[name], after[name]) for name in beginning.policy.trained)
    lines = (tmp_path / "scalars.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < losses[0]
