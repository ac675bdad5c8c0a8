"""What a training step keeps for backward: frozen layers keep what backward reads, and gradients stay those of plain layers."""

import copy

import pytest
import torch
from torch import nn

from models.manifest import NetworkSpec
from models.resnet3d import Block
from models.sparse.nn import SparseAvgPool3d, SparseBatchNorm, SparseConv3d, conv_norm
from models.sparse.norm import batch_norm_act
from models.sparse.tensor import SparseTensor, sparse_tensor
from models.zoo import build
from training.finetune import Mode, freeze_policy

CASES = [(training, residual, relu) for training in (True, False) for residual in (False, True) for relu in (False, True)]


def clouds(channels: int = 3) -> SparseTensor:
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, 10, 10, 10, generator=generator) < 0.4).nonzero().int()
    return sparse_tensor(coords, torch.randn(len(coords), channels, generator=generator))


def kept_bytes(net: nn.Module, x: SparseTensor) -> int:
    """Bytes that autograd holds between forward and backward: each storage once, parameters and buffers not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no other tensor takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = net(x).square().sum()
    loss.backward()
    return sum(storage.nbytes() for storage in kept.values())


def stage_features(net: nn.Module, x: SparseTensor) -> tuple[int, int, int]:
    """Of one pass through the stages: features that come out of convolutions, and out of ReLUs; channels of the norms."""
    counts = {SparseConv3d: 0, Block: 0}

    def count(module: nn.Module, _: object, out: SparseTensor) -> None:
        counts[type(module)] += out.feats.numel()

    stages = [module for name, module in net.named_modules() if name.startswith("layer")]
    hooks = [module.register_forward_hook(count) for module in stages if type(module) in counts]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    channels = sum(module.num_features for module in stages if isinstance(module, SparseBatchNorm))
    return counts[SparseConv3d], 2 * counts[Block], channels  # both ReLUs of a basic block are as large as what leaves it


MODES: tuple[Mode, ...] = ("io", "ioms", "iobn", "all")
Found = tuple[dict[Mode, int], tuple[int, int, int], int]


@pytest.fixture(scope="module")
def found() -> Found:
    torch.manual_seed(0)
    net = build(NetworkSpec(name="resnet18", in_channels=3, num_classes=5))
    x = clouds()
    bytes_kept: dict[Mode, int] = {}
    for mode in MODES:
        policy = freeze_policy(net, mode)
        policy.apply(net)
        policy.set_train(net)
        bytes_kept[mode] = kept_bytes(net, x)
    return bytes_kept, stage_features(net, x), len(x.coords)


def test_frozen_layers_keep_less(found: Found) -> None:
    """Two ReLUs a block of ResNet18, a convolution before each, and three more in the shortcuts.

    io: a byte for each feature behind ReLU, and the scale of each channel. iobn: what comes out of every convolution besides, mean
    and deviation of each channel. all: instead of that byte the feature itself, which dW of the next convolution needs (the input
    of the stages is the stem's). In every mode the stem, which is trained, and the head.
    """
    kept, (convs, relus, channels), sites = found
    head = 8 << 10
    least = {
        "io": relus + 4 * channels,
        "iobn": 4 * convs + relus + 8 * channels,
        "all": 4 * (convs + relus + 64 * sites) + 8 * channels,
    }
    for mode in ("io", "iobn", "all"):
        assert least[mode] <= kept[mode] - 4 * sites * (3 + 64) <= least[mode] + head, mode
    assert kept["ioms"] == kept["iobn"]
    assert 3 * kept["io"] < kept["iobn"] < 0.7 * kept["all"]


def test_a_frozen_filter_that_repeats_itself_is_not_copied() -> None:
    torch.manual_seed(0)
    conv, norm = SparseConv3d(8, 8), SparseBatchNorm(8)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(3, 1, 3, 8, 8).expand(3, 3, 3, 8, 8).flatten(0, 2))
    conv.requires_grad_(False)
    norm.requires_grad_(False).eval()
    x = clouds(8)
    net = nn.Sequential(conv, norm)
    feats = x.feats.clone().requires_grad_()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: SparseTensor) -> torch.Tensor:
            return conv_norm(x, conv, norm, relu=True).feats

    loss_and_mask = kept_bytes(Both(), x.with_feats(feats))
    assert loss_and_mask <= x.feats.numel() * (4 + 1) + 64  # the loss's square, ReLU's byte, the scale of each channel


def plain(x: torch.Tensor, norm: nn.BatchNorm1d, residual: torch.Tensor | None, relu: bool) -> torch.Tensor:
    out = nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, norm.eps)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


@pytest.mark.parametrize(("training", "residual", "relu"), CASES)
@pytest.mark.parametrize("output_is_kept", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_and_gradients_are_those_of_plain_layers(
    training: bool, residual: bool, relu: bool, output_is_kept: bool, dtype: torch.dtype
) -> None:
    """By the batch bit for bit; the frozen norm to the last bits, since its scale is applied in one multiply-add."""
    torch.manual_seed(0)
    norm = SparseBatchNorm(6)
    norm.load_state_dict({name: torch.rand(6) + 0.5 if tensor.dim() else tensor for name, tensor in norm.state_dict().items()})
    norm.to(dtype)
    norm.train(training).requires_grad_(training)
    other = copy.deepcopy(norm)
    outer, results = torch.randn(50, 6, dtype=dtype), []
    x, rest = torch.randn(50, 6, dtype=dtype), torch.randn(50, 6, dtype=dtype) if residual else None
    for function, layer in ((batch_norm_act, norm), (plain, other)):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, rest) if tensor is not None]
        second = inputs[1] if residual else None
        if function is batch_norm_act:
            out = batch_norm_act(inputs[0], layer, second, relu=relu, output_is_kept=output_is_kept)
        else:
            out = plain(inputs[0], layer, second, relu)
        out.backward(outer)
        gradients = [tensor.grad for tensor in [*inputs, layer.weight, layer.bias] if tensor.requires_grad]
        assert all(gradient is not None for gradient in gradients)
        results.append([out.detach(), *gradients, layer.running_mean, layer.running_var])
    exact = {"atol": 0.0, "rtol": 0.0} if training else {"atol": 1e-6, "rtol": 1e-6}
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **exact)


@pytest.mark.parametrize(("training", "residual", "relu"), CASES)
def test_gradcheck(training: bool, residual: bool, relu: bool) -> None:
    torch.manual_seed(0)
    norm = SparseBatchNorm(3).double().train(training).requires_grad_(training)
    x, rest = torch.randn(2, 7, 3, dtype=torch.float64)
    arguments = (x.requires_grad_(), rest.requires_grad_() if residual else None, norm.weight, norm.bias)

    def call(x: torch.Tensor, rest: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return batch_norm_act(x, norm, rest, relu=relu)

    assert torch.autograd.gradcheck(call, arguments)


class PlainNorm(nn.BatchNorm1d):
    """Torch's own norm; the ReLU behind it is then torch's own too."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        return x.with_feats(super().forward(x.feats))


def with_plain_norms(net: nn.Module) -> nn.Module:
    plain_net = copy.deepcopy(net)
    for name, norm in list(plain_net.named_modules()):
        if isinstance(norm, SparseBatchNorm):
            plain_norm = PlainNorm(norm.num_features)
            plain_norm.load_state_dict(norm.state_dict())
            parent, _, last = name.rpartition(".")
            setattr(plain_net.get_submodule(parent), last, plain_norm.to(norm.weight.dtype))
    return plain_net


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", ["resnet18", "cifar_resnet20"])
def test_a_nets_gradients_are_those_of_plain_layers(network: str, mode: Mode) -> None:
    """The whole net, against torch's own norms and ReLUs, and against convolutions that compute every dW."""
    torch.manual_seed(0)
    net = build(NetworkSpec(name=network, in_channels=3, num_classes=5)).double()
    x = clouds()
    x = x.with_feats(x.feats.double())
    policy = freeze_policy(net, mode)
    plain_net = with_plain_norms(net)
    policy.apply(net)
    results = []
    for each in (net, plain_net):
        policy.set_train(each)
        each(x)[0].sum().backward()
        results.append({name: p.grad for name, p in each.named_parameters() if name in policy.trained})
    assert all(p.grad is None for name, p in net.named_parameters() if name not in policy.trained)
    assert all(p.grad is not None for p in plain_net.parameters())
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], atol=1e-9, rtol=1e-7, msg=name)


def test_a_mean_over_cells_keeps_no_features() -> None:
    """The shortcuts of the CIFAR nets, and the head."""
    x = clouds(8)
    pool, feats = SparseAvgPool3d(2), x.feats.clone().requires_grad_()
    out = pool(x.with_feats(feats))
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pool(x.with_feats(feats))
    assert sum(kept) == 8 * len(x.coords) + 4 * len(out.coords)  # the row of each site, the count of each cell
    doubles = x.feats[:40].double().requires_grad_()
    few = sparse_tensor(x.coords[:40], doubles, 2)
    assert torch.autograd.gradcheck(lambda feats: pool(few.with_feats(feats)).feats, (doubles,))


def test_what_does_not_fit_runs_as_in_torch() -> None:
    """16-bit features, and a norm in evaluation that still trains its affine."""
    x = torch.randn(20, 4)
    norm = SparseBatchNorm(4).eval()
    batch_norm_act(x, norm, relu=True).sum().backward()
    assert norm.weight.grad is not None
    low = SparseBatchNorm(4).to(torch.bfloat16)
    found = batch_norm_act(x.bfloat16(), low, x.bfloat16(), relu=True)
    assert found.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="two sites or more"):
        batch_norm_act(x[:1], SparseBatchNorm(4))


def test_a_norm_counts_its_batches() -> None:
    norm = SparseBatchNorm(4)
    for _ in range(3):
        norm(clouds(4))
    assert norm.num_batches_tracked == 3
    norm.eval()(clouds(4))
    assert norm.num_batches_tracked == 3
