"""The engine on NVIDIA GPUs: implicit matrix products in Triton, which comes with CUDA builds of torch, so that nothing is built.

float32 features on a CUDA device, products in float32 (or TF32, where PyTorch is told to use it), float16 or, where the device has it,
bfloat16; everything else it hands to the torch engine. What runs best is measured once for each shape and kept in the cache directory.
Matrix units know no float32: there its factors are sums of two TF32 numbers, of whose products three are taken; 22 bits of 24 are kept.
S input rows, T output rows, K taps, C channels.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from models.device import AMPERE
from models.sparse.backends.norms import TORCH_NORMS
from models.sparse.backends.protocol import Epilogue, Packed
from models.sparse.backends.torch_engine import TorchEngine, with_lines
from models.sparse.backends.tuning import Tuner, bucket, cuda_time_ms
from models.sparse.kernel_map import KernelMap

FEWEST_PAIRS = 512  # of a tap that one program of a weight gradient sums, where it has so many ...
PROGRAMS = 4  # ... and so many programs for each processor of the device, or more
PRODUCTS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Tiling:
    """Rows (or pairs) and channels of a tile, and how it is run."""

    rows: int
    out: int
    inner: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """What Triton's compiler is told."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


CONV = (
    Tiling(64, 64, 32, 4, 3),
    Tiling(128, 64, 32, 4, 3),
    Tiling(128, 128, 32, 8, 3),
    Tiling(64, 128, 32, 4, 3),
    Tiling(128, 64, 64, 4, 3),
    Tiling(64, 32, 32, 4, 3),
    Tiling(128, 32, 32, 4, 3),
    Tiling(32, 64, 32, 4, 4),
    Tiling(128, 128, 64, 8, 3),
)
GRAD = (Tiling(32, 64, 64, 4, 3), Tiling(64, 64, 64, 4, 3), Tiling(32, 32, 32, 4, 3), Tiling(64, 128, 64, 8, 3), Tiling(64, 16, 16, 4, 3))


class TritonEngine(TorchEngine):
    """Maps and norms are those of the torch engine."""

    name = "triton"
    norms = TORCH_NORMS

    def unavailable(self) -> str | None:
        return _why_not()

    def detail(self) -> str:
        return f"Triton {_version()}" + (", interpreted" if _interpreted() else "")

    def runs(self, device: torch.device, dtype: torch.dtype) -> bool:
        return device.type == ("cpu" if _interpreted() else "cuda") and dtype == torch.float32 and self.unavailable() is None

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        if not self._takes(weight, products):
            return super().pack(weight, products)
        taps, cin, cout = weight.shape
        data = weight.detach().to(products, copy=True, memory_format=torch.contiguous_format)
        return Packed(self.name, (taps, cin, cout), data, products)

    @torch.no_grad()
    def conv(
        self,
        feats: torch.Tensor,
        weight: torch.Tensor | Packed,
        kernel_map: KernelMap,
        *,
        products: torch.dtype,
        transpose: bool = False,
        epilogue: Epilogue | None = None,
    ) -> torch.Tensor:
        foreign = isinstance(weight, Packed) and weight.engine != self.name
        if foreign or not self._takes(feats, products):
            return super().conv(feats, weight, kernel_map, products=products, transpose=transpose, epilogue=epilogue)
        filters = weight.data if isinstance(weight, Packed) else weight.to(products).contiguous()
        if transpose:
            filters = filters.transpose(1, 2)
        taps, cin, cout = filters.shape
        out = feats.new_empty(kernel_map.num_out, cout)
        if not out.numel():
            return out
        epilogue = epilogue or Epilogue()
        bias, residual = (out if each is None else each.contiguous() for each in (epilogue.bias, epilogue.residual))  # out: not read
        kinds = epilogue.bias is not None, epilogue.residual is not None, epilogue.relu
        rows, sources = with_lines(feats, kernel_map, products).contiguous(), kernel_map.sources_by_likeness
        precision = _precision(products, out.device)

        def run(tiling: Tiling) -> None:
            _kernels().conv_kernel[(-(-len(out) // tiling.rows), -(-cout // tiling.out))](
                rows, filters, sources, kernel_map.like_rows, bias, residual, out, len(out), cin, cout, *filters.stride(),
                taps, *(int(kind) for kind in kinds),
                precision=precision, block_rows=tiling.rows, block_out=tiling.out, block_in=tiling.inner,
                **tiling.options,
            )  # fmt: skip

        key = f"conv {taps} {cin} {cout} {transpose} {bucket(len(out))} {products} {precision}"
        with torch.cuda.device_of(out):
            run(self._chosen(key, fitting(CONV, cin, cout), run, out.device))
        return out

    @torch.no_grad()
    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        if not self._takes(feats, products):
            return super().weight_grad(feats, grad, kernel_map, products=products)
        taps, cin, cout = len(kernel_map.sizes), feats.shape[1], grad.shape[1]
        longest, precision = max(kernel_map.sizes, default=0), _precision(products, feats.device)
        rows, grads = with_lines(feats, kernel_map, products).contiguous(), grad.to(products).contiguous()
        if "triton starts" not in kernel_map.prepared:
            kernel_map.prepared["triton starts"] = (kernel_map.starts.to(feats.device, non_blocking=True),)
        [starts] = kernel_map.prepared["triton starts"]

        def run(tiling: Tiling) -> torch.Tensor:
            tiles = -(-cin // tiling.inner), -(-cout // tiling.out)
            splits = splits_of(longest, taps * tiles[0] * tiles[1], _processors(feats.device))
            out = feats.new_empty(splits, taps, cin, cout)
            _kernels().weight_grad_kernel[(taps * splits, *tiles)](
                rows, grads, kernel_map.in_rows, kernel_map.out_rows, starts, out, cin, cout, taps, splits, precision=precision,
                block_in=tiling.inner, block_out=tiling.out, block_pairs=tiling.rows, **tiling.options,
            )  # fmt: skip
            return out.sum(0) if splits > 1 else out[0]

        key = f"grad {taps} {cin} {cout} {bucket(longest)} {products} {precision}"
        with torch.cuda.device_of(feats):
            return run(self._chosen(key, fitting(GRAD, cin, cout), run, feats.device))

    def _takes(self, tensor: torch.Tensor, products: torch.dtype) -> bool:
        return (
            products in PRODUCTS
            and self.runs(tensor.device, tensor.dtype)
            and (products != torch.bfloat16 or _interpreted() or torch.cuda.get_device_capability(tensor.device) >= AMPERE)
        )

    def _chosen(self, key: str, tilings: dict[str, Tiling], run: Callable[[Tiling], object], device: torch.device) -> Tiling:
        if device.type != "cuda":  # interpreted: all are equally slow
            return next(iter(tilings.values()))
        tuner = _tuner(device)
        name = tuner.known(key, tilings) or tuner.best(key, {name: functools.partial(run, tiling) for name, tiling in tilings.items()})
        return tilings[name]


@functools.cache
def fitting(tilings: tuple[Tiling, ...], cin: int, cout: int) -> dict[str, Tiling]:
    """Those that are not mostly empty with so many channels, by name: fewer to compile, and to measure."""
    largest_in, largest_out = (max(32, 1 << (channels - 1).bit_length()) for channels in (cin, cout))
    found = tuple(tiling for tiling in tilings if tiling.inner <= largest_in and tiling.out <= largest_out)
    return {str(tiling): tiling for tiling in found or tilings}


def splits_of(longest: int, programs: int, processors: int) -> int:
    """Parts that the pairs of each tap are summed in, the longest of which has so many, where `programs` do one part of all.

    Enough of them to fill the device, and none so short that starting it and adding it up costs more than it does.
    """
    return max(1, min(-(-PROGRAMS * processors // programs), longest // FEWEST_PAIRS))


@functools.cache
def _kernels() -> ModuleType:
    from models.sparse.backends import triton_kernels

    return triton_kernels


@functools.cache
def _tuner(device: torch.device) -> Tuner:
    return Tuner(f"{torch.cuda.get_device_name(device)} triton-{_version()} torch-{torch.__version__}", cuda_time_ms)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _why_not() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with CUDA builds of torch"
    return None if _interpreted() or torch.cuda.is_available() else "no CUDA device"


def _version() -> str:
    """As it calls itself: it is distributed under several names."""
    import triton

    return str(triton.__version__)


def _precision(products: torch.dtype, device: torch.device) -> str:
    """How float32 factors are multiplied: as PyTorch is told to multiply matrices, on matrix units where they can."""
    if products != torch.float32 or device.type != "cuda" or torch.cuda.get_device_capability(device) < AMPERE:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


@functools.cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
