"""Batch norm of the native engine: every instruction set against PyTorch in float64, and what it leaves to PyTorch."""

import itertools

import pytest
import torch
from torch import nn

from models.manifest import NetworkSpec
from models.sparse.backends.native import INSTRUCTION_SETS, NativeEngine
from models.sparse.backends.norms import TORCH_NORMS, Norms
from models.sparse.norm import batch_norm_act
from models.sparse.tensor import sparse_tensor
from models.zoo import build
from training.optim import OptimSpec, sgd

SHAPES = [(2, 1), (50, 6), (333, 16), (700, 17), (300, 81), (129, 64), (1100, 32), (40, 512), (9, 9000)]
CASES = list(itertools.product((True, False), repeat=4))  # by the batch, residual, ReLU, its output is kept


def engine_with(instruction_set: str) -> NativeEngine:
    engine = NativeEngine(instruction_set)
    if reason := engine.unavailable():
        pytest.skip(reason)
    return engine


def step(norms: Norms, shape: tuple[int, int], case: tuple[bool, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """The result of a norm, every gradient, and the running statistics that it left."""
    by_batch, residual, relu, output_is_kept = case
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm1d(shape[1])
    norm.load_state_dict({name: torch.rand(t.shape, generator=generator) + 0.5 if t.dim() else t for name, t in norm.state_dict().items()})
    norm.to(dtype).train(by_batch).requires_grad_(by_batch)
    x, rest, outer = ((torch.randn(shape, generator=generator) * 2 + 3).to(dtype) for _ in range(3))
    x.requires_grad_()
    rest.requires_grad_()
    out = batch_norm_act(x, norm, rest if residual else None, relu=relu, output_is_kept=output_is_kept, norms=norms)
    out.backward(outer)
    parameters = [norm.weight.grad, norm.bias.grad] if by_batch else []
    found = [out.detach(), x.grad, *([rest.grad] if residual else []), *parameters, norm.running_mean, norm.running_var]
    assert all(tensor is not None for tensor in found)
    return [tensor for tensor in found if tensor is not None]


def compare_norms(engine: NativeEngine) -> float:
    """The largest relative error over all shapes and cases."""
    worst = 0.0
    for shape, case in itertools.product(SHAPES, CASES):
        for ours, exact in zip(step(engine.norms, shape, case), step(TORCH_NORMS, shape, case, torch.float64), strict=True):
            worst = max(worst, float((ours - exact).abs().max() / exact.abs().max().clamp(min=1)))
    return worst


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_equals_torch_in_float64(instruction_set: str) -> None:
    assert compare_norms(engine_with(instruction_set)) < 2e-5


def test_same_bits_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, found = NativeEngine(), []
    if reason := engine.unavailable():
        pytest.skip(reason)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append([tensor for case in CASES for tensor in step(engine.norms, (5000, 24), case)])
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_the_variance_of_far_off_features_is_not_lost(instruction_set: str) -> None:
    """A mean of 1000 beside a spread of 1: squares summed in float32 would leave nothing of it."""
    norms, norm = engine_with(instruction_set).norms, nn.BatchNorm1d(8)
    x = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)) + 1000
    found = batch_norm_act(x, norm, norms=norms).double()
    torch.testing.assert_close(found, ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)), atol=2e-3, rtol=0.0)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("by_batch", [True, False])
def test_what_is_not_a_number_stays(instruction_set: str, by_batch: bool) -> None:
    """So that a training that diverges is noticed."""
    norms, norm = engine_with(instruction_set).norms, nn.BatchNorm1d(5).train(by_batch).requires_grad_(by_batch)
    x = torch.ones(30, 5)
    x[7, 2] = torch.nan
    x.requires_grad_()
    out = batch_norm_act(x, norm, relu=True, norms=norms)
    assert bool(out[7, 2].isnan())
    assert bool(out[:, 2].isnan().all()) == by_batch
    assert not bool(out[:, [0, 1, 3, 4]].isnan().any())
    out.backward(torch.full((30, 5), torch.nan))
    assert x.grad is not None
    assert bool(x.grad[7, 2].isnan())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a residual of \(3, 4\) does not fit features of \(30, 4\)"):
        batch_norm_act(torch.ones(30, 4), nn.BatchNorm1d(4), torch.ones(3, 4), norms=NativeEngine().norms)


@pytest.mark.parametrize("case", CASES)
def test_other_dtypes_run_through_torch(case: tuple[bool, ...]) -> None:
    ours, theirs = (step(norms, (20, 4), case, torch.float64) for norms in (NativeEngine().norms, TORCH_NORMS))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_steps_are_the_same_bits_whatever_the_threads(precision: torch.dtype) -> None:
    """A whole net, its head and its optimiser with it."""
    if reason := NativeEngine().unavailable():
        pytest.skip(reason)
    coords = (torch.rand(4, 12, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.7).nonzero().int()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=5))
            x = sparse_tensor(coords, torch.randn(len(coords), 3), 4, NativeEngine())
            optimiser = sgd(net.parameters(), OptimSpec())
            for _ in range(3):
                optimiser.zero_grad()
                with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                    nn.functional.cross_entropy(net(x), torch.arange(4)).backward()
                optimiser.step()
            found.append(net.state_dict())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
