"""The torch engine, training and Predictor on a CUDA device, against the same on the CPU."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.checkpoint import load_checkpoint
from models.manifest import Decoder, NetworkSpec
from models.pointcloud import PointCloud
from models.predictor import Predictor
from models.registry import Catalogue
from models.sparse.nn import SparseBatchNorm, SparseConv3d, prepare_inference
from models.sparse.tensor import sparse_tensor
from models.zoo import build
from training.datasets import LabelledClouds
from training.distributed import synchronise_norms
from training.finetune import freeze_policy
from training.loop import fit
from training.recipe import load_recipe
from training.samples import CloudSamples
from training.validation import validate

pytestmark = pytest.mark.gpu


def coords() -> torch.Tensor:
    """Half of the cells of two 10³ grids."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, 10, 10, 10, generator=generator) < 0.5).nonzero().int() - torch.tensor([0, 5, 5, 5], dtype=torch.int32)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)])
def test_convolution_forward_and_backward(kernel_size: int, stride: int) -> None:
    sites, feats = coords(), torch.randn(len(coords()), 16)
    conv = SparseConv3d(16, 24, kernel_size, stride)
    results = []
    for device in ("cpu", "cuda"):
        x = feats.clone().to(device).requires_grad_()
        layer = copy.deepcopy(conv).to(device)
        out = layer(sparse_tensor(sites.to(device), x))
        out.feats.square().sum().backward()
        assert layer.weight.grad is not None
        assert x.grad is not None
        results.append([tensor.detach().cpu() for tensor in (out.coords, out.feats, x.grad, layer.weight.grad)])
    assert torch.equal(results[0][0], results[1][0])
    for on_cpu, on_gpu in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("network", ["resnet18", "resnet50", "cifar_resnet20"])
def test_nets_agree_with_the_cpu(network: str) -> None:
    torch.manual_seed(0)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=5)).eval()
    feats = torch.randn(len(coords()), 3)
    with torch.inference_mode():
        expected = net(sparse_tensor(coords(), feats))
        found = net.cuda()(sparse_tensor(coords().cuda(), feats.cuda()))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decoder", ["listing", "reference"])
@pytest.mark.parametrize("network", ["resnet18", "res16unet34c", "cifar_resnet20"])
def test_unets_agree_with_the_cpu(network: str, decoder: Decoder) -> None:
    """Scores of every voxel as they are served, with the reference's detour; and a training step moves every parameter."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=5, decoder=decoder, blur=decoder == "reference"))
    feats = torch.randn(len(coords()), 3)
    net.train()(sparse_tensor(coords(), feats))  # statistics that keep features small
    results = []
    for device in ("cpu", "cuda"):
        served = copy.deepcopy(net).to(device).eval().requires_grad_(False)
        prepare_inference(served)
        with torch.inference_mode():
            results.append(served(sparse_tensor(coords().to(device), feats.to(device))).cpu())
    torch.testing.assert_close(results[1], results[0], atol=1e-3, rtol=1e-3)
    trained = net.cuda().train()
    scores = trained(sparse_tensor(coords().cuda(), feats.cuda()))
    torch.nn.functional.cross_entropy(scores, torch.arange(len(scores), device="cuda") % 5).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained.parameters())


@pytest.mark.parametrize("devoxelize", ["nearest", "trilinear"])
def test_every_point_gets_the_same_class(devoxelize: str) -> None:
    manifest = load_checkpoint(Catalogue().locate("modelnet40")[0]).manifest
    spec = {"voxel_size": 0.2, "normalise": "none", "point_budget": None, "devoxelize": devoxelize}
    network = manifest.network.model_copy(update={"num_classes": 5, "decoder": "listing"})
    manifest = manifest.model_copy(update={"task": "segment", "network": network, "input": manifest.input.model_copy(update=spec)})
    torch.manual_seed(0)
    net = build(network)
    cloud = PointCloud(np.random.default_rng(0).normal(size=(3000, 3)).astype("f4"))
    found = []
    for device in ("cpu", "cuda"):
        predictor = Predictor(copy.deepcopy(net), manifest, device)
        found.append(predictor.segment([predictor.voxelize(cloud), predictor.voxelize(cloud.take(np.arange(100)))]))
    for on_cpu, on_gpu, points in zip(*found, (3000, 100), strict=True):
        assert on_gpu.labels.shape == on_gpu.confidence.shape == (points,)
        assert (on_gpu.labels == on_cpu.labels).mean() > 0.999
        np.testing.assert_allclose(on_gpu.confidence, on_cpu.confidence, atol=1e-3)


def test_training_runs_on_the_device(tmp_path: Path) -> None:
    clouds = LabelledClouds(np.random.default_rng(0).normal(size=(12, 64, 3)).astype("f4"), np.arange(12) % 3, ("a", "b", "c"))
    recipe = load_recipe("bundled-modelnet40", {"epochs": 2, "batch_size": 4, "init": "scratch"})
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=3)).cuda()
    for _ in range(2):  # the second call goes on from the saved state
        fit(net, freeze_policy(net, "all"), recipe, clouds, clouds, tmp_path)
    assert 0 <= validate(net, CloudSamples(clouds, recipe.input)).accuracy <= 1
    assert all(parameter.is_cuda and parameter.isfinite().all() for parameter in net.parameters())


def test_norms_over_all_processes_are_norms_over_one_where_there_is_one(tmp_path: Path) -> None:
    feats = torch.randn(len(coords()), 16, device="cuda")
    plain, synced = (torch.nn.Sequential(SparseBatchNorm(16)).cuda() for _ in range(2))
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        synchronise_norms(synced, frozenset())
        results = []
        for net in (plain, synced):
            x = feats.clone().requires_grad_()
            out = net(sparse_tensor(coords().cuda(), x)).feats
            out.square().sum().backward()
            results.append((out, x.grad, net[0].weight.grad, net[0].running_var))
    finally:
        dist.destroy_process_group()
    assert isinstance(synced[0], torch.nn.SyncBatchNorm)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_bundled_model_gives_the_same_label() -> None:
    folder = Catalogue().locate("modelnet40")[0]
    cloud = PointCloud(np.random.default_rng(0).normal(size=(3000, 3)).astype("f4"))
    on_cpu, on_gpu = (Predictor.load(folder, device) for device in ("cpu", "cuda"))
    found = [predictor.classify([predictor.voxelize(cloud)])[0] for predictor in (on_cpu, on_gpu)]
    assert found[0].index == found[1].index
    np.testing.assert_allclose(found[0].logits, found[1].logits, atol=1e-3)
