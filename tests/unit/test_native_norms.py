"""Batch norm of the native engine: every instruction set against PyTorch in float64, and what it leaves to PyTorch."""

import itertools

import pytest
import torch
from torch import nn

from models.manifest import NetworkSpec
from models.resnet3d import ResNet3d
from models.sparse.backends.native import NativeEngine
from models.sparse.backends.native_choice import INSTRUCTION_SETS
from models.sparse.backends.norms import TORCH_NORMS, Norms
from models.sparse.norm import batch_norm_act
from models.sparse.tensor import sparse_tensor
from models.zoo import build

SHAPES = [
    (2, 1),
    (50, 6),
    (333, 16),
    (700, 17),
    (300, 81),
    (129, 64),
    (1100, 32),
    (40, 512),
    (9, 9000),
    (20_000, 64),
]  # the last in blocks of memory that are used again
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
            assert ours.shape == exact.shape
            assert bool(ours.isfinite().all())
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


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("channels", [1, 2, 16])
def test_a_mean_that_float32_cannot_hold_does_no_harm(instruction_set: str, channels: int) -> None:
    """Sums of thousands of values near 1000.1 are off by more than their spread of 0.01."""
    norms, norm = engine_with(instruction_set).norms, nn.BatchNorm1d(channels, momentum=1.0)
    x = torch.randn(20_000, channels, generator=torch.Generator().manual_seed(0)) * 0.01 + 1000.1
    batch_norm_act(x, norm, norms=norms)
    torch.testing.assert_close(norm.running_var, x.double().var(0).float(), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("norms", [NativeEngine().norms, TORCH_NORMS])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_that_do_not_fit_are_refused_before_anything_moves(norms: Norms, training: bool) -> None:
    norm = nn.BatchNorm1d(4).train(training).requires_grad_(False)
    for x, residual in (
        (torch.ones(30, 4), torch.ones(3, 4)),
        (torch.ones(30, 1), None),
        (torch.ones(30, 24), None),
        (torch.ones(4), None),
    ):
        with pytest.raises(ValueError, match=r"features must be|does not fit features"):
            batch_norm_act(x, norm, residual, norms=norms)
    assert int(norm.num_batches_tracked or 0) == 0
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize("what", ["x", "residual", "bias"])
def test_a_mix_of_dtypes_or_strides_runs_as_in_torch(what: str) -> None:
    """Features that lie column by column, with a residual of bfloat16 or a bias of float64."""
    if reason := NativeEngine().unavailable():
        pytest.skip(reason)
    found = []
    for norms in (NativeEngine().norms, TORCH_NORMS):
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6).eval().requires_grad_(False)
        x, residual = torch.randn(6, 50).t().requires_grad_(), torch.randn(50, 6)
        if what == "bias":
            norm.bias = nn.Parameter(torch.full((6,), 7.0, dtype=torch.float64), requires_grad=False)
        out = batch_norm_act(x, norm, residual.bfloat16() if what == "residual" else residual, relu=True, norms=norms)
        out.sum().backward()
        assert x.grad is not None
        found.append((out.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1])


def test_nothing_to_normalise() -> None:
    norm = nn.BatchNorm1d(4).eval().requires_grad_(False)
    assert batch_norm_act(torch.empty(0, 4), norm, relu=True, norms=NativeEngine().norms).shape == (0, 4)
    assert batch_norm_act(torch.empty(4, 0), nn.BatchNorm1d(0).eval().requires_grad_(False), norms=NativeEngine().norms).shape == (4, 0)


@pytest.mark.parametrize("case", CASES)
def test_other_dtypes_run_through_torch(case: tuple[bool, ...]) -> None:
    ours, theirs = (step(norms, (20, 4), case, torch.float64) for norms in (NativeEngine().norms, TORCH_NORMS))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_what_layers_on_sites_compute_is_the_same_for_any_number_of_threads(precision: torch.dtype) -> None:
    """A whole net up to its head, and every gradient."""
    if reason := NativeEngine().unavailable():
        pytest.skip(reason)
    coords = (torch.rand(4, 12, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.7).nonzero().int()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            net = build(NetworkSpec(name="cifar_resnet20", in_channels=3, num_classes=5))
            assert isinstance(net, ResNet3d)
            x = sparse_tensor(coords, torch.randn(len(coords), 3), 4, NativeEngine())
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                features = net.features(x)
                features.backward(torch.randn(features.shape))
            found.append([features.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    finally:
        torch.set_num_threads(before)
    assert len(found[0]) > 50
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))
