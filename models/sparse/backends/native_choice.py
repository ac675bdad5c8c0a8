"""Which instruction set the native engine takes where the processor has several.

AVX-512 has products of bfloat16 that may be slower than those of float32, as on Intel Xeons without tiles, or faster, as on AMD's.
Sums of float32 products of rounded factors are as exact, so the faster of the two is taken.
"""

import ctypes
import math
import time
from collections.abc import Callable, Sequence

import torch

from models.sparse.backends.native_library import ConvCall, Kernels, address, map_pairs
from models.sparse.kernel_map import KernelMap

BF16 = "avx512bf16"
INSTRUCTION_SETS = ("amx", BF16, "avx512", "avx2", "portable")  # best first, but for what is said above
ROWS, CHANNELS, RUNS = 256, 64, 20
MARGIN = 1.2  # faster than that, so that a processor that has both about as fast always chooses the same


def best_of(found: Sequence[str], low_products_pay: Callable[[], bool]) -> str:
    """Of those that there are, in the order of INSTRUCTION_SETS. low_products_pay: asked only where it decides."""
    return found[1] if found[0] == BF16 and len(found) > 1 and not low_products_pay() else found[0]


def low_products_pay(kernels: Kernels) -> bool:
    """Whether a matrix product in bfloat16 takes clearly less time than in float32: the best runs, taken in turns (2 ms)."""
    rows = torch.arange(ROWS, dtype=torch.int32, device="cpu")
    kernel_map = KernelMap(rows, rows, (ROWS,), ROWS, ROWS, identity_tap=0)
    zeros, sums = (torch.zeros(ROWS, CHANNELS, device="cpu") for _ in range(2))  # zeros are factors of either type
    task = ConvCall(map=map_pairs(kernel_map), cin=CHANNELS, cout=CHANNELS, out_stride=CHANNELS, threads=1)
    task.feats, task.packed, task.out = address(zeros), address(zeros), address(sums)
    seconds = {False: math.inf, True: math.inf}
    for _ in range(RUNS):
        for low, conv in ((False, kernels.conv), (True, kernels.conv_bf16)):
            began = time.perf_counter()
            conv(ctypes.byref(task))
            seconds[low] = min(seconds[low], time.perf_counter() - began)
    return seconds[True] * MARGIN < seconds[False]
