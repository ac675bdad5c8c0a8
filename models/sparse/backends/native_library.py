"""The C side of the native engine as Python sees it: its functions, its structures, and how tensors get there."""

import ctypes

import torch

from models.sparse.backends.native_build import load_library
from models.sparse.kernel_map import KernelMap

INT, INT32, POINTER = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
ARGUMENTS = {  # of the functions in native/*.c, in their order
    "fip_kernels_named": (ctypes.c_char_p,),
    "fip_keys": (POINTER, INT, INT, POINTER, POINTER, POINTER),
    "fip_columns": (POINTER, INT, POINTER, INT, POINTER, INT, INT, POINTER, POINTER, POINTER, INT32),
    "fip_tie": (POINTER, POINTER, INT, INT, INT32, POINTER, POINTER, POINTER, POINTER, POINTER),
    "fip_downsample": (POINTER, INT, INT, POINTER, POINTER),
    "fip_pack": (POINTER, INT, INT, INT, INT32, INT32, INT32, POINTER, INT32),
    "fip_sum_lines": (POINTER, INT, POINTER, POINTER, INT, POINTER, INT32),
}


class MapPairs(ctypes.Structure):
    _fields_ = (("in_rows", POINTER), ("out_rows", POINTER), ("starts", POINTER), ("taps", INT), ("num_in", INT), ("num_out", INT))


class ConvCall(ctypes.Structure):
    _fields_ = (
        ("map", MapPairs),
        *((name, POINTER) for name in ("feats", "lines", "packed", "weight", "bias", "residual", "out")),
        *((name, INT) for name in ("cin", "cout", "out_stride")),
        ("transposed", INT32),
        ("relu", INT32),
        ("threads", INT32),
    )


class GradCall(ctypes.Structure):
    _fields_ = (
        ("map", MapPairs),
        *((name, POINTER) for name in ("feats", "lines", "grad", "out")),
        ("cin", INT),
        ("stride", INT),
        ("threads", INT32),
    )


class NormCall(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("x", "scale", "shift", "residual", "out", "positive")),
        *((name, INT) for name in ("rows", "channels")),
        ("relu", INT32),
        ("threads", INT32),
    )


class NormBackCall(ctypes.Structure):
    _fields_ = (
        *((name, POINTER) for name in ("grad", "x", "result", "positive", "mean", "inverse", "scale", "slope", "offset")),
        *((name, POINTER) for name in ("grad_x", "grad_residual", "grad_weight", "grad_bias", "scratch")),
        *((name, INT) for name in ("rows", "channels")),
        ("threads", INT32),
    )


class Kernels(ctypes.Structure):
    _fields_ = (
        ("panel", INT32),
        ("width", INT32),
        ("conv", ctypes.CFUNCTYPE(None, ctypes.POINTER(ConvCall))),
        ("round", ctypes.CFUNCTYPE(None, POINTER, INT, POINTER, INT32)),
        ("conv_bf16", ctypes.CFUNCTYPE(None, ctypes.POINTER(ConvCall))),
        ("packs", ctypes.CFUNCTYPE(INT32, ctypes.POINTER(ConvCall))),
        ("weight_grad", ctypes.CFUNCTYPE(None, ctypes.POINTER(GradCall))),
        ("weight_grad_bf16", ctypes.CFUNCTYPE(None, ctypes.POINTER(GradCall))),
        ("pack_bf16", ctypes.CFUNCTYPE(None, POINTER, INT, INT, INT, INT32, POINTER, INT32)),
        ("round_bf16", ctypes.CFUNCTYPE(None, POINTER, INT, INT, POINTER, INT32)),
        ("sum_lines_bf16", ctypes.CFUNCTYPE(None, POINTER, INT, POINTER, POINTER, INT, POINTER, INT32)),
        ("norm_scratch", ctypes.CFUNCTYPE(INT, INT, INT)),
        ("norm_statistics", ctypes.CFUNCTYPE(None, POINTER, INT, INT, POINTER, POINTER, POINTER, INT32)),
        ("norm_apply", ctypes.CFUNCTYPE(None, ctypes.POINTER(NormCall))),
        ("norm_sums", ctypes.CFUNCTYPE(None, ctypes.POINTER(NormBackCall))),
        ("norm_back", ctypes.CFUNCTYPE(None, ctypes.POINTER(NormBackCall))),
    )


def native_library() -> ctypes.CDLL:
    """The library with the types of its functions. Raises: CannotBuild."""
    library = load_library()
    for function, arguments in ARGUMENTS.items():
        getattr(library, function).argtypes = arguments
    library.fip_kernels_named.restype = ctypes.POINTER(Kernels)
    library.fip_tie.restype = library.fip_downsample.restype = INT
    return library


def map_pairs(kernel_map: KernelMap) -> MapPairs:
    """The map for C, to be used as long as the map itself lives."""
    return MapPairs(
        address(kernel_map.in_rows),
        address(kernel_map.out_rows),
        address(kernel_map.starts),
        len(kernel_map.sizes),
        kernel_map.num_in,
        kernel_map.num_out,
    )


def address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
