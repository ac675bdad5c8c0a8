"""Each mode by what it moves: parameters, running statistics, and nothing else."""

import pytest
import torch

from models.manifest import NetworkSpec
from models.sparse.tensor import SparseTensor, sparse_tensor
from models.zoo import build
from training.finetune import freeze_policy
from training.optim import OptimSpec, sgd

HEAD = ("conv1.", "bn1.", "fc.", "fc_bn.")


def moved(network: str, mode: str) -> tuple[set[str], set[str]]:
    """(parameters, running statistics) that three optimiser steps change."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=4))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    policy = freeze_policy(net, mode)
    policy.apply(net)
    optimiser = sgd(policy.parameters(net), OptimSpec(lr=0.1, weight_decay=0.1))
    grid = torch.cartesian_prod(torch.arange(4), *[torch.arange(5)] * 3).int()
    for _ in range(3):
        policy.set_train(net)
        loss = torch.nn.functional.cross_entropy(net(sparse_tensor(grid, torch.randn(len(grid), 3))), torch.arange(4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    parameters = {name for name, _ in net.named_parameters()}
    return changed & parameters, {name for name in changed - parameters if "running" in name}


@pytest.mark.parametrize(
    ("mode", "stage_kernels", "stage_affine", "stage_statistics"),
    [("io", False, False, False), ("ioms", False, False, True), ("iobn", False, True, True), ("all", True, True, True)],
)
@pytest.mark.parametrize("network", ["cifar_resnet20", "resnet18"])  # without and with parameters in the shortcuts
def test_what_moves(network: str, mode: str, stage_kernels: bool, stage_affine: bool, stage_statistics: bool) -> None:
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=4))
    names = {name for name, _ in net.named_parameters()}
    statistics = {name for name, _ in net.named_buffers() if "running" in name}
    kernels = {name for name in names if name.startswith("layer") and (".conv" in name or "downsample.0" in name)}
    affine = {name for name in names if name.startswith("layer")} - kernels
    outside = {name for name in names if name.startswith(HEAD)} - {"fc.bias"}  # the batch norm after it cancels a bias
    expected = outside | (kernels if stage_kernels else set()) | (affine if stage_affine else set())
    parameters, running = moved(network, mode)
    assert parameters - {"fc.bias"} == expected
    assert running == {name for name in statistics if stage_statistics or name.startswith(HEAD)}


def test_trainable_share_of_the_paper() -> None:
    """ResNet18: 25,912 trained parameters in IO, 35,384 in IO+BN."""
    with torch.device("meta"):
        net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=40))
    counts = {mode: sum(p.numel() for p in freeze_policy(net, mode).parameters(net)) for mode in ("io", "ioms", "iobn", "all")}
    assert counts == {"io": 25_912, "ioms": 25_912, "iobn": 35_384, "all": 34_368_056}


def test_norms_that_follow_divide_the_scale_of_filters_out() -> None:
    """So a scale of inflated filters matters to IO, whose statistics are frozen, and to ALL, where it is how far a step goes."""
    torch.manual_seed(0)
    nets = [build(NetworkSpec(name="resnet18", in_channels=3, num_classes=4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    with torch.no_grad():
        for name, parameter in nets[1].named_parameters():
            if name.startswith("layer") and parameter.dim() == 3:
                parameter.div_(3 if len(parameter) == 27 else 8)
    grid = torch.cartesian_prod(torch.arange(4), *[torch.arange(9)] * 3).int()
    cloud = sparse_tensor(grid, torch.randn(len(grid), 3))
    outputs = {mode: _outputs(nets, mode, cloud) for mode in ("io", "iobn")}
    torch.testing.assert_close(*outputs["iobn"], atol=0.02, rtol=0)  # but for the norms' epsilon
    assert (outputs["io"][0] - outputs["io"][1]).abs().max() > 0.2


def _outputs(nets: list[torch.nn.Module], mode: str, cloud: SparseTensor) -> list[torch.Tensor]:
    found = []
    for net in nets:
        freeze_policy(net, mode).set_train(net)
        found.append(net(cloud).detach())
    return found


@pytest.mark.parametrize("mode", ["io", "iobn", "all"])
def test_stages_may_move_less(mode: str) -> None:
    """By their factor, at every point of the schedule; stem and head by the whole rate."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=4))
    policy = freeze_policy(net, mode)
    policy.apply(net)
    optimiser = sgd(policy.parameters(net), OptimSpec(lr=0.5, momentum=0, weight_decay=0, stages=0.125), policy.of_stages(net))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    for rate in (0.5, 0.25):
        before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
        schedule.step()
        for name, parameter in net.named_parameters():
            wanted = rate * (0.125 if name.startswith("layer") else 1) * (name in policy.trained)
            torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, wanted), rtol=0, atol=1e-6)
