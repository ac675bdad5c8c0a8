"""The classification net run by spconv 2.3.8, as fast as its own functions allow.

spconv races with more than one thread, so it runs on one. Its own output sites of a k3 s2 convolution are too many for these
nets: its functions are given pairs made beforehand, outside any timing; every other map it builds itself in each run.
K = k³ taps, S sites, T output sites, C channels. Filters are (Cout, k, k, k, Cin), as spconv stores them.
"""

import copy
import ctypes
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

with warnings.catch_warnings(action="ignore"):  # its build tools warn on import
    import spconv.pytorch.functional as spconv_functional
    from spconv.core import ConvAlgo
    from spconv.pytorch import ops

from models.resnet3d import Block, ResNet3d
from models.sparse.backends import engine_named
from models.sparse.nn import SparseConv3d
from tests.bench.engine.workloads import Workload

ops.get_current_stream = lambda: 0  # its backward asks CUDA for a stream even where there is none


def one_thread() -> None:
    """spconv brings an OpenMP of its own, which torch.set_num_threads does not reach."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines() if "libgomp" in line}
    torch.set_num_threads(1)
    for library in mapped:
        ctypes.CDLL(library).omp_set_num_threads(1)


@dataclass(frozen=True)
class Pairs:
    """pairs (2, K, S) int32 [input or output, tap, place], counts (K,) int32."""

    pairs: torch.Tensor
    counts: torch.Tensor
    num_out: int
    subm: bool = False


class FrozenConv(torch.autograd.Function):
    """spconv's convolution with a backward that leaves out the filters' gradient; spconv's own computes it and throws it away."""

    @staticmethod
    def forward(ctx: FunctionCtx, feats: torch.Tensor, filters: torch.Tensor, back: torch.Tensor, to: Pairs) -> torch.Tensor:
        ctx.back, ctx.to, ctx.rows = back, to, len(feats)  # type: ignore[attr-defined]
        found: torch.Tensor = ops.indice_conv(feats, filters, to.pairs, to.counts, to.num_out, False, to.subm, ConvAlgo.Native)
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        to: Pairs = ctx.to  # type: ignore[attr-defined]
        back, rows = ctx.back, ctx.rows  # type: ignore[attr-defined]
        return ops.indice_conv(grad, back, to.pairs, to.counts, rows, True, to.subm, ConvAlgo.Native), None, None, None


class Conv(nn.Module):
    """A convolution and the norm behind it. fold: into one, for evaluation. skip_dw: FrozenConv where the filters are frozen."""

    def __init__(self, conv: SparseConv3d, norm: nn.BatchNorm1d, *, fold: bool, skip_dw: bool) -> None:
        super().__init__()
        side = conv.kernel_size
        weight = conv.weight.detach()
        self.norm = nn.BatchNorm1d(norm.num_features, norm.eps, norm.momentum)
        self.norm.load_state_dict(norm.state_dict())
        self.bias: torch.Tensor | None = None
        if fold:
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = ((norm.running_var + norm.eps).rsqrt() * norm.weight).detach()
            weight, self.bias = weight * scale, (norm.bias - norm.running_mean * scale).detach()
        self.weight = nn.Parameter(weight.permute(2, 0, 1).unflatten(1, (side, side, side)).contiguous(), conv.weight.requires_grad)
        self.back = weight.permute(1, 0, 2).unflatten(1, (side, side, side)).contiguous() if skip_dw else None

    def forward(self, feats: torch.Tensor, to: Pairs, residual: torch.Tensor | None = None, relu: bool = True) -> torch.Tensor:
        if self.back is not None and not self.weight.requires_grad:
            out = FrozenConv.apply(feats, self.weight, self.back, to)  # type: ignore[no-untyped-call]
        else:
            function = spconv_functional.indice_subm_conv if to.subm else spconv_functional.indice_conv
            out = function(feats, self.weight, to.pairs, to.counts, to.num_out, ConvAlgo.Native)
        out = self.norm(out) if self.bias is None else out.add_(self.bias)
        if self.bias is not None:
            out = out if residual is None else out.add_(residual)
            return out.relu_() if relu else out
        out = out if residual is None else out + residual
        return out.relu() if relu else out


class ResidualBlock(nn.Module):
    """The convolutions of a block, by what they do."""

    def __init__(self, block: Block, **kind: bool) -> None:
        super().__init__()
        self.first, self.second = Conv(block.conv1, block.bn1, **kind), Conv(block.conv2, block.bn2, **kind)
        self.shortcut = None if block.downsample is None else Conv(*block.downsample.children(), **kind)


class SpconvNet(nn.Module):
    """The weights of a ResNet3d, run by spconv on one workload."""

    def __init__(self, net: ResNet3d, workload: Workload, *, fold: bool = False, skip_dw: bool = False) -> None:
        super().__init__()
        kind = {"fold": fold, "skip_dw": skip_dw}
        self.stem = Conv(net.conv1, net.bn1, **kind)
        stages = [net.get_submodule(f"layer{stage + 1}") for stage in range(net.stages)]
        self.blocks = [ResidualBlock(block, **kind) for stage in stages for block in stage.children()]
        self.parts = nn.ModuleList(self.blocks)
        self.fc, self.fc_bn = copy.deepcopy(net.fc), copy.deepcopy(net.fc_bn)
        self.workload = workload
        self.shape = [int(size) + 8 - int(size) % 8 for size in workload.coords[:, 1:].amax(0)]
        self.strided = self._floor_maps()
        self.train(net.training)

    def forward(self) -> torch.Tensor:
        """Logits (B, L) of the workload."""
        coords, feats, level = self.workload.coords, self.workload.feats, 1
        same = self._submanifold(coords, level)
        feats = self.stem(feats, same, relu=False)
        for block in self.blocks:
            if block.shortcut is None:
                branch, shortcut = block.first(feats, same), feats
            else:
                coords, halved = self._halved(coords, level)
                down, level = self.strided[level], 2 * level
                same = self._submanifold(coords, level)
                branch, shortcut = block.first(feats, down), block.shortcut(feats, halved, relu=False)
            feats = block.second(branch, same, shortcut)
        rows = coords[:, 0].long()
        sums = feats.new_zeros(self.workload.batch_size, feats.shape[1]).index_add(0, rows, feats)
        logits: torch.Tensor = self.fc_bn(self.fc(sums / torch.bincount(rows, minlength=len(sums))[:, None]))
        return logits

    def _submanifold(self, coords: torch.Tensor, level: int) -> Pairs:
        shape = [size // level for size in self.shape]
        _, pairs, counts = ops.get_indice_pairs(
            coords, self.workload.batch_size, shape, ConvAlgo.Native, [3] * 3, [1] * 3, [1] * 3, [1] * 3, [0] * 3, True
        )
        return Pairs(pairs, counts, len(coords), True)

    def _halved(self, coords: torch.Tensor, level: int) -> tuple[torch.Tensor, Pairs]:
        """Sites floor(c / 2) and the pairs of a k2 s2 convolution onto them."""
        shape = [size // level for size in self.shape]
        coarse, pairs, counts = ops.get_indice_pairs(
            coords, self.workload.batch_size, shape, ConvAlgo.Native, [2] * 3, [2] * 3, [0] * 3, [1] * 3, [0] * 3
        )
        return coarse, Pairs(pairs, counts, len(coarse))

    def _floor_maps(self) -> dict[int, Pairs]:
        """The k3 s2 maps of every level, onto the sites of its k2 s2 map, in spconv's order of rows."""
        engine, coords, found = engine_named("reference"), self.workload.coords, {}
        for level in (1, 2, 4):
            coarse, _ = self._halved(coords, level)
            whole = engine.kernel_map(engine.index(coords), coarse, 3, 2)
            pairs = torch.full((2, 27, max(whole.sizes)), -1, dtype=torch.int32)
            start = 0
            for tap, size in enumerate(whole.sizes):
                pairs[0, tap, :size] = whole.in_rows[start : start + size]
                pairs[1, tap, :size] = whole.out_rows[start : start + size]
                start += size
            found[level] = Pairs(pairs, torch.tensor(whole.sizes, dtype=torch.int32), len(coarse))
            coords = coarse
        return found
