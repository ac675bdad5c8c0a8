"""The native engine: rows are read where they lie and sums stay in registers, in C that is compiled on the user's machine.

float32 on a CPU, products in float32 or bfloat16; everything else it hands to the torch engine. K taps, C channels.
"""

import ctypes
import os
from functools import cached_property

import torch

from models.sparse.backends.arena import ARENA
from models.sparse.backends.native_build import CannotBuild
from models.sparse.backends.native_choice import BF16, INSTRUCTION_SETS, best_of, low_products_pay
from models.sparse.backends.native_library import ConvCall, GradCall, Kernels, address, map_pairs, native_library
from models.sparse.backends.native_maps import SortedSites, native_coords, native_downsample, native_tie
from models.sparse.backends.native_norms import NativeNorms
from models.sparse.backends.protocol import Epilogue, Packed, SiteIndexLike
from models.sparse.backends.torch_engine import TorchEngine
from models.sparse.kernel_map import KernelMap


class NativeEngine:
    """instruction_set: one of INSTRUCTION_SETS; None = the best that this processor has.

    Where AVX-512's products of bfloat16 are slower than those of float32, the latter multiply factors that are rounded to bfloat16.
    """

    name = "native"

    def __init__(self, instruction_set: str | None = None) -> None:
        self._wanted = instruction_set
        self._otherwise = TorchEngine()
        self.norms = NativeNorms(lambda: self.kernels)

    @cached_property
    def library(self) -> ctypes.CDLL:
        """Compiled at first use. Raises: CannotBuild."""
        return native_library()

    @cached_property
    def instruction_set(self) -> str:
        """The one in use. Raises: CannotBuild."""
        names = (self._wanted,) if self._wanted else INSTRUCTION_SETS
        found = [name for name in names if self.library.fip_kernels_named(name.encode())]
        if not found:
            raise CannotBuild(f"this processor does not have {names[0]}")
        return best_of(found, lambda: low_products_pay(self._kernels_of(BF16)))

    @cached_property
    def kernels(self) -> Kernels:
        return self._kernels_of(self.instruction_set)

    def _kernels_of(self, instruction_set: str) -> Kernels:
        found: Kernels = self.library.fip_kernels_named(instruction_set.encode()).contents
        return found

    def unavailable(self) -> str | None:
        return self._why_not

    @cached_property
    def _why_not(self) -> str | None:
        """Asked once, so that a compiler that fails is not called again and again."""
        try:
            self.kernels  # noqa: B018
        except CannotBuild as error:
            return str(error)
        return None

    def detail(self) -> str:
        return self.instruction_set + ("" if self.library.fip_has_threads() else ", one thread: the compiler has no OpenMP")

    def __reduce__(self) -> tuple[type["NativeEngine"], tuple[str | None]]:
        """A copy, or one in another process, loads the library itself."""
        return NativeEngine, (self._wanted,)

    def runs(self, device: torch.device, dtype: torch.dtype) -> bool:
        return device.type == "cpu" and dtype == torch.float32 and self.unavailable() is None

    def downsample(self, coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        return native_downsample(self.library, coords, stride) if native_coords(coords) else self._otherwise.downsample(coords, stride)

    def index(self, coords: torch.Tensor) -> SiteIndexLike:
        return SortedSites.of(coords, self.library) or self._otherwise.index(coords)

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        found = index.kernel_map(out_coords, kernel_size, stride) if isinstance(index, SortedSites) else None
        if found is None:
            general = self._otherwise.index(index.coords) if isinstance(index, SortedSites) else index
            return self._otherwise.kernel_map(general, out_coords, kernel_size, stride)
        return found

    def tie(self, kernel_map: KernelMap, axes: str) -> KernelMap:
        on_cpu = kernel_map.in_rows.device.type == "cpu"
        return (native_tie(self.library, kernel_map, axes) if on_cpu else None) or self._otherwise.tie(kernel_map, axes)

    def pack(self, weight: torch.Tensor, products: torch.dtype) -> Packed:
        if not self._takes(weight, products):
            return self._otherwise.pack(weight, products)
        return self._pack(weight, products, transpose=False)

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
            return self._otherwise.conv(feats, weight, kernel_map, products=products, transpose=transpose, epilogue=epilogue)
        cin, cout = _channels(weight, transpose)
        threads = torch.get_num_threads()
        if isinstance(weight, torch.Tensor) and epilogue is None and _is_product(kernel_map) and not self._multiplies_low(products):
            feats = checked(feats, "feats", (kernel_map.num_in, cin))
            matrix = checked(weight[0], "weight", tuple(weight.shape[1:]))
            feats, matrix = (self._factor(each, products, threads) for each in (feats, matrix))
            return torch.mm(feats, matrix.T if transpose else matrix, out=ARENA.empty(kernel_map.num_out, cout))
        stride = _rounded_up(cout, self.kernels.width)
        out = ARENA.empty(kernel_map.num_out, stride)
        feats = checked(feats, "feats", (kernel_map.num_in, cin))
        low = weight.data.dtype == torch.bfloat16 if isinstance(weight, Packed) else self._multiplies_low(products)
        lines = self._sum_lines(feats, kernel_map, low, threads)
        if low:
            feats = self._rounded(feats, threads)
        elif products == torch.bfloat16:
            feats, lines = (self._kept_float(each, threads) for each in (feats, lines))
        epilogue = epilogue or Epilogue()
        bias = None if epilogue.bias is None else checked(epilogue.bias, "bias", (cout,))
        residual = None if epilogue.residual is None else checked(epilogue.residual, "residual", (kernel_map.num_out, cout))
        task = ConvCall(
            map=map_pairs(kernel_map), cin=cin, cout=cout, out_stride=stride, relu=epilogue.relu, threads=threads, transposed=transpose
        )
        task.feats, task.lines, task.out = address(feats), address(lines), address(out)
        task.bias, task.residual = address(bias), address(residual)
        if isinstance(weight, torch.Tensor):
            weight = checked(weight.to(torch.float32), "weight", weight.shape)
            task.weight = address(weight)
            if not (low and bool(self.kernels.packs) and self.kernels.packs(ctypes.byref(task))):
                weight = self._pack(weight, products, transpose)
        task.packed = address(weight.data) if isinstance(weight, Packed) else None
        (self.kernels.conv_bf16 if low else self.kernels.conv)(ctypes.byref(task))
        return out if stride == cout else out[:, :cout].contiguous()

    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        if not self._takes(feats, products):
            return self._otherwise.weight_grad(feats, grad, kernel_map, products=products)
        cin, cout = feats.shape[1], grad.shape[1]
        low = products == torch.bfloat16 and bool(self.kernels.weight_grad_bf16)
        stride = _rounded_up(cout, self.kernels.width)
        threads = torch.get_num_threads()
        feats, grad = checked(feats, "feats", (kernel_map.num_in, cin)), checked(grad, "grad", (kernel_map.num_out, cout))
        if _is_product(kernel_map) and not low:
            feats, grad = (self._factor(each, products, threads) for each in (feats, grad))
            return torch.mm(feats.T, grad, out=ARENA.empty(cin, cout))[None]
        if stride != cout:
            grad = torch.nn.functional.pad(grad, (0, stride - cout))
        out = ARENA.empty(len(kernel_map.sizes), cin, stride)
        lines = self._sum_lines(feats, kernel_map, low, threads)
        if low:
            feats, grad = self._rounded(feats, threads), self._rounded(grad, threads)
        elif products == torch.bfloat16:
            feats, lines, grad = (self._kept_float(each, threads) for each in (feats, lines, grad))
        task = GradCall(map_pairs(kernel_map), address(feats), address(lines), address(grad), address(out), cin, stride, threads)
        (self.kernels.weight_grad_bf16 if low else self.kernels.weight_grad)(ctypes.byref(task))
        return out if stride == cout else out[:, :, :cout].contiguous()

    def _factor(self, factor: torch.Tensor, products: torch.dtype, threads: int) -> torch.Tensor:
        """As torch's library is to multiply it in float32."""
        return self._kept_float(factor, threads) if products == torch.bfloat16 else factor

    def _takes(self, tensor: torch.Tensor, products: torch.dtype) -> bool:
        return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and products in (torch.float32, torch.bfloat16)

    def _multiplies_low(self, products: torch.dtype) -> bool:
        return products == torch.bfloat16 and bool(self.kernels.conv_bf16)

    def _pack(self, weight: torch.Tensor, products: torch.dtype, transpose: bool) -> Packed:
        taps, cin, cout = weight.shape
        if transpose:
            cin, cout = cout, cin
        panel, width = self.kernels.panel, self.kernels.width
        columns = _rounded_up(cout, width)
        weight = checked(weight.to(torch.float32), "weight", weight.shape)
        if self._multiplies_low(products):
            data = ARENA.empty(taps * _rounded_up(cin, 2) * columns, dtype=torch.bfloat16)
            self.kernels.pack_bf16(address(weight), taps, cin, cout, transpose, address(data), torch.get_num_threads())
            return Packed(self.name, (taps, cin, cout), data, products)
        if products == torch.bfloat16:
            weight = self._kept_float(weight, torch.get_num_threads())
        data = ARENA.empty(taps * cin * columns)
        self.library.fip_pack(
            address(weight), taps, cin, cout, transpose, panel, width,
            address(data), torch.get_num_threads(),
        )  # fmt: skip
        return Packed(self.name, (taps, cin, cout), data, products)

    def _sum_lines(self, feats: torch.Tensor, kernel_map: KernelMap, low: bool, threads: int) -> torch.Tensor:
        """(E, C), or with `low` rounded to bfloat16: (E, C rounded up to even)."""
        count, channels = 0 if kernel_map.lines is None else len(kernel_map.lines), feats.shape[1]
        sums = ARENA.empty(count, _rounded_up(channels, 2), dtype=torch.bfloat16) if low else ARENA.empty(count, channels)
        if kernel_map.lines is not None and count:
            sum_lines = self.kernels.sum_lines_bf16 if low else self.library.fip_sum_lines
            starts, rows = address(kernel_map.lines.starts), address(kernel_map.lines.rows)
            sum_lines(address(feats), channels, starts, rows, count, address(sums), threads)
        return sums

    def _kept_float(self, factor: torch.Tensor, threads: int) -> torch.Tensor:
        """Rounded to bfloat16, still float32: its products are the same."""
        out = ARENA.empty(*factor.shape)
        self.kernels.round(address(factor), factor.numel(), address(out), threads)
        return out

    def _rounded(self, feats: torch.Tensor, threads: int) -> torch.Tensor:
        count, channels = feats.shape
        low = ARENA.empty(count, _rounded_up(channels, 2), dtype=torch.bfloat16)
        self.kernels.round_bf16(address(feats), count, channels, address(low), threads)
        return low


def checked(tensor: torch.Tensor, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor as C reads it: contiguous float32 on the CPU, of the shape that the rest of a call wants. Raises: ValueError."""
    if tuple(tensor.shape) != tuple(shape) or tensor.device.type != "cpu":
        raise ValueError(f"{name} must be {tuple(shape)} on the CPU, got {tuple(tensor.shape)} on {tensor.device.type}")
    return tensor.to(torch.float32).contiguous()


def _is_product(kernel_map: KernelMap) -> bool:
    """Whether a convolution is one product of matrices, which torch's library multiplies faster than kernels that look rows up."""
    return len(kernel_map.sizes) == 1 and kernel_map.identity_tap == 0


def _channels(weight: torch.Tensor | Packed, transpose: bool) -> tuple[int, int]:
    """Cin and Cout as the convolution sees them."""
    _, first, second = weight.shape
    return (second, first) if transpose and isinstance(weight, torch.Tensor) else (first, second)


def _rounded_up(value: int, step: int) -> int:
    return -(-value // step) * step


def native_engine() -> NativeEngine:
    """With the instruction set that FIP_NATIVE_ISA names, else the best."""
    return NativeEngine(os.environ.get("FIP_NATIVE_ISA"))
