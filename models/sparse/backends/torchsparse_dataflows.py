"""Sparse products by torchsparse 2.1, from our kernel maps: what its own layers do, without its tensors and its global modes.

On CUDA an implicit matrix product: a table says which input row each output row reads through each tap, and either rows are taken
in their order, or those that read the same taps side by side, which lets blocks pass over the others. On a CPU torchsparse has a
gather-scatter only, which it is checked by where there is no device. Taps are in our order throughout: only its hash table has one
of its own (see torchsparse_backend).

S input rows (lines included), T output rows, K taps, P pairs, C channels.
"""

import functools
from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol

import torch
from torch.nn.functional import pad

from models.sparse.backends.tuning import Tuner, bucket, cuda_time_ms
from models.sparse.kernel_map import KernelMap

ROWS = 128  # tables have a multiple of so many: a block of its products ...
GRAD_ROWS = 64  # ... and one of its weight gradients
MOST_TAPS = 31  # a set of taps is an int32
SPLITS = 32  # parts that a weight gradient is summed in, as in torchsparse
LARGEST_PLACE = 1 << 31  # its kernels address elements by int32
WAYS = (0, 1, 3)  # rows in their own order, or ordered by all taps, or by each third of them


class CpuFunctions(Protocol):
    """What torchsparse.backend has on a CPU, as far as it is used here."""

    def conv_forward_gather_scatter_cpu(
        self, feats: torch.Tensor, out: torch.Tensor, weight: torch.Tensor, pairs: torch.Tensor, sizes: torch.Tensor, transposed: bool
    ) -> None: ...

    def conv_backward_gather_scatter_cpu(
        self,
        feats: torch.Tensor,
        grad_feats: torch.Tensor,
        grad: torch.Tensor,
        weight: torch.Tensor,
        grad_weight: torch.Tensor,
        pairs: torch.Tensor,
        sizes: torch.Tensor,
        transposed: bool,
    ) -> None: ...


class CudaFunctions(Protocol):
    """What it has where it is built with CUDA. Tables: (T rounded up to ROWS, K) int32, -1 for none."""

    def conv_forward_implicit_gemm_cuda(
        self, feats: torch.Tensor, weight: torch.Tensor, table: torch.Tensor, num_out: int, cout: int, allow_tf32: bool, allow_fp16: bool
    ) -> torch.Tensor: ...

    def conv_forward_implicit_gemm_sorted_cuda(
        self,
        feats: torch.Tensor,
        weight: torch.Tensor,
        table: torch.Tensor,
        masks: torch.Tensor,
        order: torch.Tensor,
        num_out: int,
        cout: int,
        allow_tf32: bool,
        allow_fp16: bool,
    ) -> torch.Tensor: ...

    def conv_backward_wgrad_implicit_gemm_sorted_cuda(
        self,
        feats: torch.Tensor,
        grad: torch.Tensor,
        table: torch.Tensor,
        masks: torch.Tensor,
        order: torch.Tensor,
        splits: int,
        allow_tf32: bool,
        allow_fp16: bool,
    ) -> torch.Tensor: ...

    def derive_bitmask_from_out_in_map(self, table: torch.Tensor, splits: int, num_out: int) -> torch.Tensor: ...

    def reorder_out_in_map_cuda(self, table: torch.Tensor, order: torch.Tensor) -> torch.Tensor: ...

    def reduce_bitmask_cuda(self, masks: torch.Tensor, rows: int) -> torch.Tensor: ...


class Dataflow(Protocol):
    """How products are made on a kind of device. All tensors are contiguous and of one dtype, which it `takes`."""

    def takes(self, products: torch.dtype) -> bool: ...

    def takes_gradients(self, products: torch.dtype) -> bool:
        """Whether weight gradients, too."""

    def conv(self, rows: torch.Tensor, filters: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        """(S, Cin), (K, Cin, Cout) -> (T, Cout)."""

    def weight_grad(self, rows: torch.Tensor, grads: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        """(S, Cin), (T, Cout) -> (K, Cin, Cout)."""


class GatherScatter:
    """On a CPU, in float32."""

    def __init__(self, library: CpuFunctions) -> None:
        self._library = library

    def takes(self, products: torch.dtype) -> bool:
        return products == torch.float32

    takes_gradients = takes

    def conv(self, rows: torch.Tensor, filters: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        taps = len(kernel_map.sizes)
        if taps % 2 and len(rows) == kernel_map.num_out and kernel_map.identity_tap != taps // 2:
            rows = pad(rows, (0, 0, 0, 1))  # where rows are as many, it takes the tap in the middle to lead each row to itself
        out = rows.new_empty(kernel_map.num_out, filters.shape[2])
        self._library.conv_forward_gather_scatter_cpu(rows, out, filters, *_pairs(kernel_map), False)
        return out

    def weight_grad(self, rows: torch.Tensor, grads: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        filters = rows.new_zeros(len(kernel_map.sizes), rows.shape[1], grads.shape[1])  # not needed, but asked for
        out = torch.empty_like(filters)
        self._library.conv_backward_gather_scatter_cpu(rows, torch.empty_like(rows), grads, filters, out, *_pairs(kernel_map), False)
        return out


class ImplicitGemm:
    """On CUDA, in float32 (TF32 where PyTorch is told to use it) or float16.

    Parts of a sum are stored in the dtype of the factors before they are added up: so float16 is not taken in parts, nor for weight
    gradients, which have no other way.
    """

    def __init__(self, library: CudaFunctions, *, tf32: bool = False, fp16: bool = False, ways: tuple[int, ...] = WAYS) -> None:
        """tf32, fp16: whether the device has them. ways: those of WAYS that may be taken."""
        self._library, self._tf32, self._fp16, self._ways = library, tf32, fp16, ways

    def takes(self, products: torch.dtype) -> bool:
        return products == torch.float32 or (products == torch.float16 and self._fp16)

    def takes_gradients(self, products: torch.dtype) -> bool:
        return products == torch.float32

    def conv(self, rows: torch.Tensor, filters: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        taps, cin, cout = filters.shape

        def run(splits: int) -> torch.Tensor:
            size = kernel_map.num_out, cout
            if not splits:
                return self._library.conv_forward_implicit_gemm_cuda(rows, filters, table_of(kernel_map), *size, *self._allowed)
            table, order, masks, _ = self._ordered(kernel_map, splits)
            return self._library.conv_forward_implicit_gemm_sorted_cuda(rows, filters, table, masks, order, *size, *self._allowed)

        key = f"conv {taps} {cin} {cout} {bucket(kernel_map.num_out)} {rows.dtype} {self._allowed[0]}"
        ways = [splits for splits in self._ways_of(taps) if splits < 2 or rows.dtype == torch.float32] or [1]
        return run(_chosen(key, run, ways, rows.device))

    def weight_grad(self, rows: torch.Tensor, grads: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        taps, cin, cout = len(kernel_map.sizes), rows.shape[1], grads.shape[1]

        def run(splits: int) -> torch.Tensor:
            table, order, _, masks = self._ordered(kernel_map, splits)
            padded = pad(grads, (0, 0, 0, len(table) - len(grads)))  # `order` names the rows of the table that are none, too
            found = self._library.conv_backward_wgrad_implicit_gemm_sorted_cuda(rows, padded, table, masks, order, SPLITS, *self._allowed)
            return found.view(taps, cin, cout)

        key = f"grad {taps} {cin} {cout} {bucket(kernel_map.num_out)} {rows.dtype} {self._allowed[0]}"
        return run(_chosen(key, run, [splits for splits in self._ways_of(taps) if splits] or [1], rows.device))

    @property
    def _allowed(self) -> tuple[bool, bool]:
        return self._tf32 and torch.backends.cuda.matmul.fp32_precision == "tf32", self._fp16

    def _ways_of(self, taps: int) -> list[int]:
        """Those that a kernel of so many taps can be run in."""
        return [splits for splits in self._ways if splits < 2 or taps >= splits**2] or [1]

    def _ordered(self, kernel_map: KernelMap, splits: int) -> tuple[torch.Tensor, ...]:
        """Of each part of the taps: rows of the table that read the same side by side, where they stood (splits, rows), and which taps
        are read by a block of a product and of a weight gradient (splits, blocks).
        """
        name = f"torchsparse ordered {splits}"
        if name not in kernel_map.prepared:
            library, table = self._library, table_of(kernel_map)
            masks, order = library.derive_bitmask_from_out_in_map(table, splits, kernel_map.num_out).sort(descending=True)
            places = order.int()
            ordered = library.reorder_out_in_map_cuda(table, places)
            blocks = [library.reduce_bitmask_cuda(masks, rows) for rows in (ROWS, GRAD_ROWS)]
            kernel_map.prepared[name] = ordered, places, *blocks
        return kernel_map.prepared[name]


def table_of(kernel_map: KernelMap) -> torch.Tensor:
    """The input row that each output row reads through each tap: (T rounded up to ROWS, K) int32."""
    if "torchsparse table" not in kernel_map.prepared:
        sources = kernel_map.sources
        rows = -(-kernel_map.num_out // ROWS) * ROWS
        table = sources.new_full((rows, len(sources)), -1)
        table[: kernel_map.num_out] = sources.t()
        kernel_map.prepared["torchsparse table"] = (table,)
    return kernel_map.prepared["torchsparse table"][0]


def addressable(kernel_map: KernelMap, num_in: int, cin: int, cout: int) -> bool:
    """Whether no tensor of a call has more elements than its kernels can address: sums of each part of the taps among them."""
    rows, taps = kernel_map.num_out + ROWS, len(kernel_map.sizes)
    return max(num_in * cin, max(WAYS) * rows * cout, rows * taps, SPLITS * taps * cin * cout) < LARGEST_PLACE


def _pairs(kernel_map: KernelMap) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, 2) int32 [input row, output row], and how many of each tap, (K,) int32."""
    if "torchsparse pairs" not in kernel_map.prepared:
        pairs = torch.stack([kernel_map.in_rows, kernel_map.out_rows], dim=1).contiguous()
        kernel_map.prepared["torchsparse pairs"] = pairs, torch.tensor(kernel_map.sizes, dtype=torch.int32, device="cpu")
    pairs, sizes = kernel_map.prepared["torchsparse pairs"]
    return pairs, sizes


def _chosen(key: str, run: Callable[[int], object], ways: list[int], device: torch.device) -> int:
    """The quickest way, measured once."""
    if device.type != "cuda":
        return ways[-1]
    return int(_tuner(device).best(key, {str(splits): functools.partial(run, splits) for splits in ways}))


@functools.cache
def _tuner(device: torch.device) -> Tuner:
    name = f"{torch.cuda.get_device_name(device)} torchsparse-{version('torchsparse')} torch-{torch.__version__}"
    return Tuner(name, cuda_time_ms, built=True)
