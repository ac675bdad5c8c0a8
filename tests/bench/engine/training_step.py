"""A whole training step on one thread, kernel maps included: forward, loss, backward, SGD; ours and spconv's."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from models.resnet3d import ResNet3d
from models.sparse.backends import engine_named
from models.sparse.backends.protocol import Engine
from tests.bench.engine.evaluation import OURS, Subject, must_agree
from tests.bench.engine.spconv_peer import SpconvNet, one_thread
from tests.bench.engine.timing import Machine, copies, gemms, medians, row
from tests.bench.engine.work import gflop
from tests.bench.engine.workloads import Workload
from tests.bench.report import Row
from training.finetune import Mode, freeze_policy

LARGEST_GRADIENT_ERROR = 1e-2  # of its norm: after 17 layers with ReLUs float32 keeps about three digits
BARS: dict[Mode, float] = {"all": 1.8, "iobn": 3.0}


def rows(subject: Subject, rounds: int) -> list[Row]:
    """The modes differ in what is frozen; frozen filters are used as tied ones."""
    one_thread()
    found = []
    for mode, bar in BARS.items():
        found += _mode_rows(subject, mode, bar, rounds)
    return found


def _mode_rows(subject: Subject, mode: Mode, bar: float, rounds: int) -> list[Row]:
    workload = subject.workload
    net = _trainable(subject, mode)
    peers = {"spconv": SpconvNet(net, workload)}
    if mode != "all":
        peers["spconv without dW"] = SpconvNet(net, workload, skip_dw=True)
    for name, peer in peers.items():
        _must_learn_the_same(name, peer, _trainable(subject, mode), workload)
    steps: dict[str, Callable[[], object]] = {name: _step(peer, peer, workload) for name, peer in peers.items()}
    steps |= {name: _our_step(_trainable(subject, mode), workload, engine_named(engine)) for name, engine in OURS.items()}
    seconds = medians({**steps, **gemms(), **copies()}, 1, rounds)
    spconv = min(seconds[name] for name in peers)
    prefix = f"cls_{workload.name}_train_1t_{mode}"
    found = [
        row(f"{prefix}_vs_spconv", spconv / seconds["native"], "x", least=bar),
        row(f"{prefix}_pip_vs_spconv", spconv / seconds["pip"], "x"),
    ]
    if mode != "all":
        found.append(row(f"{prefix}_vs_spconv_with_dW", seconds["spconv"] / seconds["native"], "x"))
    work = gflop(lambda engine: _our_step(_trainable(subject, mode), workload, engine)())
    found.append(row(f"{prefix}_vs_spconv_at_the_floor", spconv / (work / Machine.of(seconds, 1).gflops), "x"))
    found.append(row(f"{prefix}_gflop", work, "GFLOP"))
    return found + [row(f"{prefix}_{name.replace(' ', '_')}_ms", 1e3 * seconds[name], "ms") for name in steps]


def _trainable(subject: Subject, mode: Mode) -> ResNet3d:
    assert isinstance(subject.tied, ResNet3d)
    net = copy.deepcopy(subject.tied)
    policy = freeze_policy(net, mode)
    policy.apply(net)
    policy.set_train(net)
    return net


def _our_step(net: ResNet3d, workload: Workload, engine: Engine) -> Callable[[], torch.Tensor]:
    return _step(net, lambda: net(workload.tensor(engine)), workload)


def _step(net: nn.Module, forward: Callable[[], torch.Tensor], workload: Workload) -> Callable[[], torch.Tensor]:
    """One step of SGD; returns the loss before it."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)

    def step() -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(forward(), workload.targets)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _must_learn_the_same(name: str, peer: SpconvNet, net: ResNet3d, workload: Workload) -> None:
    """Raises: RuntimeError when a peer has another loss, or other gradients at either end of the net."""
    losses = []
    for forward in (peer, lambda: net(workload.tensor(engine_named("reference")))):
        loss = nn.functional.cross_entropy(forward(), workload.targets)
        loss.backward()
        losses.append(loss.detach())
    must_agree(f"the loss of {name}", *losses)
    stem = peer.stem.weight.grad
    assert stem is not None
    pairs = {"stem": (stem.flatten(1, 3).permute(1, 2, 0), net.conv1.weight.grad), "fc": (peer.fc.weight.grad, net.fc.weight.grad)}
    for layer, (found, expected) in pairs.items():
        assert found is not None
        assert expected is not None
        error = float((found - expected).norm() / expected.norm())
        if not error <= LARGEST_GRADIENT_ERROR:
            raise RuntimeError(f"{name}: the gradient of {layer} is off by {error:.2g} of its norm")
    peer.zero_grad(set_to_none=True)
