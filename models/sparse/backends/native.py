"""The native engine: rows are read where they lie and sums stay in registers, in C that is compiled on the user's machine.

float32 on a CPU, products in float32 or bfloat16; everything else it hands to the torch engine. K taps, C channels.
"""

import ctypes
import os
from functools import cached_property

import torch

from models.errors import ExtentTooLarge
from models.sparse.backends.native_build import CannotBuild, load_library
from models.sparse.backends.protocol import Epilogue, Packed, SiteIndexLike
from models.sparse.backends.torch_engine import TorchEngine
from models.sparse.kernel_map import KernelMap, Lines, kernel_offsets
from models.sparse.tying import kernel_side, tap_groups

INSTRUCTION_SETS = ("avx512bf16", "avx512", "avx2", "portable")  # best first
INT, INT32, POINTER = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
ARGUMENTS = {  # of the functions in native/*.c, in their order
    "fip_kernels_named": (ctypes.c_char_p,),
    "fip_keys": (POINTER, INT, INT, POINTER, POINTER, POINTER),
    "fip_column": (POINTER, INT, POINTER, INT, INT, INT, POINTER, POINTER, POINTER),
    "fip_tie": (POINTER, POINTER, INT, INT, INT32, POINTER, POINTER, POINTER, POINTER, POINTER),
    "fip_downsample": (POINTER, INT, INT, POINTER, POINTER),
    "fip_pack": (POINTER, INT, INT, INT, INT32, INT32, INT32, POINTER, INT32),
    "fip_pack_bf16": (POINTER, INT, INT, INT, INT32, INT32, POINTER),
    "fip_round": (POINTER, INT, INT, POINTER, INT32),
    "fip_sum_lines": (POINTER, INT, POINTER, POINTER, INT, POINTER, INT32),
}


class _Map(ctypes.Structure):
    _fields_ = (("in_rows", POINTER), ("out_rows", POINTER), ("starts", POINTER), ("taps", INT), ("num_in", INT), ("num_out", INT))


class _Conv(ctypes.Structure):
    _fields_ = (
        ("map", _Map),
        *((name, POINTER) for name in ("feats", "lines", "packed", "bias", "residual", "out")),
        *((name, INT) for name in ("cin", "cout", "out_stride")),
        ("relu", INT32),
        ("threads", INT32),
    )


class _Grad(ctypes.Structure):
    _fields_ = (
        ("map", _Map),
        *((name, POINTER) for name in ("feats", "lines", "grad", "out")),
        ("cin", INT),
        ("stride", INT),
        ("threads", INT32),
    )


class _Kernels(ctypes.Structure):
    _fields_ = (
        ("panel", INT32),
        ("width", INT32),
        ("conv", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Conv))),
        ("conv_bf16", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Conv))),
        ("weight_grad", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Grad))),
        ("weight_grad_bf16", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Grad))),
    )


class NativeEngine:
    """instruction_set: one of INSTRUCTION_SETS; None = the best that this processor has."""

    name = "native"

    def __init__(self, instruction_set: str | None = None) -> None:
        self._wanted = instruction_set
        self._otherwise = TorchEngine()

    @cached_property
    def library(self) -> ctypes.CDLL:
        """Compiled at first use. Raises: CannotBuild."""
        library = load_library()
        for function, arguments in ARGUMENTS.items():
            getattr(library, function).argtypes = arguments
        library.fip_kernels_named.restype = ctypes.POINTER(_Kernels)
        library.fip_tie.restype = library.fip_downsample.restype = INT
        return library

    @cached_property
    def instruction_set(self) -> str:
        """The one in use. Raises: CannotBuild."""
        names = (self._wanted,) if self._wanted else INSTRUCTION_SETS
        for name in names:
            if self.library.fip_kernels_named(name.encode()):
                return name
        raise CannotBuild(f"this processor does not have {names[0]}")

    @cached_property
    def kernels(self) -> _Kernels:
        found: _Kernels = self.library.fip_kernels_named(self.instruction_set.encode()).contents
        return found

    def unavailable(self) -> str | None:
        try:
            self.kernels  # noqa: B018
        except CannotBuild as error:
            return str(error)
        return None

    def detail(self) -> str:
        return self.instruction_set

    def runs(self, device: torch.device, dtype: torch.dtype) -> bool:
        return device.type == "cpu" and dtype == torch.float32 and self.unavailable() is None

    def downsample(self, coords: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not _native_coords(coords):
            return self._otherwise.downsample(coords, stride)
        coords = coords.contiguous()
        sites, parents = torch.empty_like(coords), torch.empty(len(coords), dtype=torch.int64)
        count = self.library.fip_downsample(_at(coords), len(coords), stride, _at(sites), _at(parents))
        if count == -1:
            raise MemoryError("no memory left to sort sites")
        if count == -2:
            raise ExtentTooLarge("the box around the sites has more than 2^62 cells")
        return sites[:count].clone(), parents

    def index(self, coords: torch.Tensor) -> SiteIndexLike:
        return _SortedSites.of(coords, self.library) or self._otherwise.index(coords)

    def kernel_map(self, index: SiteIndexLike, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        if not isinstance(index, _SortedSites):
            return self._otherwise.kernel_map(index, out_coords, kernel_size, stride)
        return index.kernel_map(out_coords, kernel_size, stride)

    def tie(self, kernel_map: KernelMap, axes: str) -> KernelMap:
        side, pairs = kernel_side(len(kernel_map.sizes)), len(kernel_map.in_rows)
        # in a map of cells that do not overlap every input row, or in its transpose every output row, has one pair
        disjoint = side == 2 and pairs in (kernel_map.num_in, kernel_map.num_out)
        if kernel_map.in_rows.device.type != "cpu" or not (disjoint or (len(axes) == 1 and side <= 3)):
            return self._otherwise.tie(kernel_map, axes)
        groups = tap_groups(side, axes)
        width = side ** len(axes)
        count = len(groups) // width
        members = groups.argsort(stable=True).int()  # taps of a group in the order of their offsets, group after group
        in_rows, out_rows = torch.empty(pairs, dtype=torch.int32), torch.empty(pairs, dtype=torch.int32)
        starts = torch.empty(count + 1, dtype=torch.int64)
        line_starts, line_rows = torch.empty(pairs + 1, dtype=torch.int32), torch.empty(pairs, dtype=torch.int32)
        where, kept = _map(kernel_map)
        found = self.library.fip_tie(
            ctypes.byref(where), _at(members), count, width, disjoint,
            _at(in_rows), _at(out_rows), _at(starts), _at(line_starts), _at(line_rows),
        )  # fmt: skip
        del kept
        if found < 0:
            raise MemoryError("no memory left to tie a kernel map")
        used, sizes = int(starts[-1]), tuple(starts.diff().tolist())
        lines = Lines(line_starts[: found + 1].clone(), line_rows[: int(line_starts[found])].clone())
        return KernelMap(in_rows[:used].clone(), out_rows[:used].clone(), sizes, kernel_map.num_in, kernel_map.num_out, None, lines)

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
        packed = weight if isinstance(weight, Packed) else self._pack(weight, products, transpose)
        _, cin, cout = packed.shape
        stride = _rounded_up(cout, self.kernels.width)
        threads = torch.get_num_threads()
        out = torch.empty(kernel_map.num_out, stride)
        feats = feats.contiguous()
        lines = self._sum_lines(feats, kernel_map, threads)
        low = packed.data.dtype == torch.bfloat16
        if low:
            feats, lines = self._rounded(feats, threads), self._rounded(lines, threads)
        epilogue = epilogue or Epilogue()
        bias, residual = (None if each is None else each.contiguous() for each in (epilogue.bias, epilogue.residual))
        where, kept = _map(kernel_map)
        task = _Conv(
            where, _at(feats), _at(lines), _at(packed.data), _at(bias), _at(residual), _at(out), cin, cout, stride, epilogue.relu, threads
        )
        (self.kernels.conv_bf16 if low else self.kernels.conv)(ctypes.byref(task))
        del kept
        return out if stride == cout else out[:, :cout].contiguous()

    def weight_grad(self, feats: torch.Tensor, grad: torch.Tensor, kernel_map: KernelMap, *, products: torch.dtype) -> torch.Tensor:
        if not self._takes(feats, products):
            return self._otherwise.weight_grad(feats, grad, kernel_map, products=products)
        cin, cout = feats.shape[1], grad.shape[1]
        stride = _rounded_up(cout, self.kernels.width)
        threads = torch.get_num_threads()
        feats = feats.contiguous()
        grad = grad.contiguous() if stride == cout else torch.nn.functional.pad(grad, (0, stride - cout))
        out = torch.empty(len(kernel_map.sizes), cin, stride)
        lines = self._sum_lines(feats, kernel_map, threads)
        where, kept = _map(kernel_map)
        task = _Grad(where, _at(feats), _at(lines), _at(grad), _at(out), cin, stride, threads)
        low = products == torch.bfloat16 and bool(self.kernels.weight_grad_bf16)
        (self.kernels.weight_grad_bf16 if low else self.kernels.weight_grad)(ctypes.byref(task))
        del kept
        return out if stride == cout else out[:, :, :cout].contiguous()

    def _takes(self, tensor: torch.Tensor, products: torch.dtype) -> bool:
        return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and products in (torch.float32, torch.bfloat16)

    def _pack(self, weight: torch.Tensor, products: torch.dtype, transpose: bool) -> Packed:
        taps, cin, cout = weight.shape
        if transpose:
            cin, cout = cout, cin
        panel, width = self.kernels.panel, self.kernels.width
        columns = _rounded_up(cout, width)
        weight = weight.contiguous()
        low = products == torch.bfloat16 and bool(self.kernels.conv_bf16)
        if products == torch.bfloat16 and not low:
            weight = weight.to(torch.bfloat16).float()
        data = torch.empty(taps * cin * columns)
        self.library.fip_pack(
            _at(weight), taps, cin, cout, transpose, panel, width,
            _at(data), torch.get_num_threads(),
        )  # fmt: skip
        if low:
            plain, data = data, torch.empty(taps * _rounded_up(cin, 2) * columns, dtype=torch.bfloat16)
            self.library.fip_pack_bf16(
                _at(plain), taps, cin, cout, panel, width, _at(data)
            )  # fmt: skip
        return Packed(self.name, (taps, cin, cout), data, products)

    def _sum_lines(self, feats: torch.Tensor, kernel_map: KernelMap, threads: int) -> torch.Tensor:
        lines = kernel_map.lines
        if lines is None or not len(lines):
            return feats.new_empty(0, feats.shape[1])
        sums = feats.new_empty(len(lines), feats.shape[1])
        self.library.fip_sum_lines(_at(feats), feats.shape[1], _at(lines.starts), _at(lines.rows), len(lines), _at(sums), threads)
        return sums

    def _rounded(self, feats: torch.Tensor, threads: int) -> torch.Tensor:
        count, channels = feats.shape
        low = torch.empty(count, _rounded_up(channels, 2), dtype=torch.bfloat16)
        self.library.fip_round(_at(feats), count, channels, _at(low), threads)
        return low


class _SortedSites:
    """Sites whose keys ascend row by row, as the voxelizer leaves them: other sites then are found by merging two lists."""

    MARGIN = 4  # empty cells around the box, so that a key plus a kernel offset never lands in a neighbouring column

    def __init__(self, coords: torch.Tensor, library: ctypes.CDLL, low: list[int], size: list[int], keys: torch.Tensor) -> None:
        self.coords, self._library, self._low, self._size, self._keys = coords, library, low, size, keys

    @classmethod
    def of(cls, coords: torch.Tensor, library: ctypes.CDLL) -> "_SortedSites | None":
        """None where the rows do not ascend or the box is too large: the general index then sorts, or says what is wrong."""
        if not len(coords) or not _native_coords(coords):
            return None
        coords = coords.contiguous()
        low, high = (bound.tolist() for bound in coords.aminmax(dim=0))
        size = [int(high[d] - low[d] + 2 * cls.MARGIN + 1) for d in (1, 2, 3)]
        if (high[0] + 1) * size[0] * size[1] * size[2] > 1 << 62 or low[0] < 0:
            return None
        sites = cls(coords, library, [int(low[d]) - cls.MARGIN for d in (1, 2, 3)], size, torch.empty(len(coords), dtype=torch.int64))
        return sites if sites._write_keys(coords, 1, sites._keys) else None

    def _write_keys(self, coords: torch.Tensor, stride: int, keys: torch.Tensor) -> bool:
        low, size = ((INT * 3)(*each) for each in (self._low, self._size))
        return bool(self._library.fip_keys(_at(coords), len(coords), stride, low, size, _at(keys)))

    def kernel_map(self, out_coords: torch.Tensor, kernel_size: int, stride: int) -> KernelMap:
        """At stride 1 the second half of an odd kernel mirrors the first."""
        num_in, num_out = len(self.coords), len(out_coords)
        wanted = self._keys
        if stride > 1:
            wanted = torch.empty(num_out, dtype=torch.int64)
            self._write_keys(out_coords.contiguous(), stride, wanted)
        offsets = kernel_offsets(kernel_size)
        mirrored = stride == 1 and kernel_size % 2 == 1
        centre = len(offsets) // 2 if mirrored else None
        searched = offsets[:centre]
        found = torch.empty(2, len(searched), num_out, dtype=torch.int32)
        sizes = torch.zeros(len(searched), dtype=torch.int64)
        for first in range(0, len(searched), kernel_size):
            column = searched[first : first + kernel_size]
            self._merge(wanted, column, found[:, first : first + len(column)], sizes[first : first + len(column)])
        counts = sizes.tolist()
        ins = [found[0, tap, :count] for tap, count in enumerate(counts)]
        outs = [found[1, tap, :count] for tap, count in enumerate(counts)]
        if centre is not None:
            every_row = torch.arange(num_in, dtype=torch.int32)
            ins, outs = [*ins, every_row, *reversed(outs)], [*outs, every_row, *reversed(ins)]
        return KernelMap(torch.cat(ins), torch.cat(outs), tuple(len(rows) for rows in ins), num_in, num_out, centre)

    def _merge(self, wanted: torch.Tensor, column: list[tuple[int, int, int]], found: torch.Tensor, sizes: torch.Tensor) -> None:
        dx, dy, dz = column[0]
        rows = [(POINTER * len(column))(*(part[tap].data_ptr() for tap in range(len(column)))) for part in found]
        offset = (dx * self._size[1] + dy) * self._size[2] + dz
        self._library.fip_column(
            _at(self._keys), len(self._keys), _at(wanted), len(wanted), offset, len(column), rows[0], rows[1], _at(sizes)
        )


def _native_coords(coords: torch.Tensor) -> bool:
    return coords.device.type == "cpu" and coords.dtype == torch.int32


def _map(kernel_map: KernelMap) -> tuple[_Map, torch.Tensor]:
    """The map for C, and a tensor that has to live as long as it is used."""
    starts = torch.zeros(len(kernel_map.sizes) + 1, dtype=torch.int64)
    torch.cumsum(torch.tensor(kernel_map.sizes), 0, out=starts[1:])
    where = _Map(
        _at(kernel_map.in_rows), _at(kernel_map.out_rows), _at(starts), len(kernel_map.sizes), kernel_map.num_in, kernel_map.num_out
    )
    return where, starts


def _at(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _rounded_up(value: int, step: int) -> int:
    return -(-value // step) * step


def native_engine() -> NativeEngine:
    """With the instruction set that FIP_NATIVE_ISA names, else the best."""
    return NativeEngine(os.environ.get("FIP_NATIVE_ISA"))
