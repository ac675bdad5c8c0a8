"""The matrix product of the torch engine: MKL through torch.mm, or oneDNN where it is right and faster.

On AMD processors MKL runs fp32 at half the speed of oneDNN, on Intel it may win, so a probe decides on the machine
itself, once a process. oneDNN has to be faster by a margin, so that noise does not change the last bits of an answer from
one process to the next; FIP_GEMM=mkl or onednn decides without a measurement. Only float32 on the CPU has the choice.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

SMALLEST_WORTHWHILE = 1 << 24  # multiply-adds below which a call into oneDNN costs more than it saves
PROBE_ROWS, PROBE_CHANNELS = 8192, 128
MARGIN = 1.2  # times faster
LARGEST_ERROR = 1e-4


@dataclass(frozen=True)
class GemmProbe:
    """What the probe found. Times are medians in milliseconds of one (8192, 128) · (128, 128) product."""

    chosen: str
    reason: str
    mkl_ms: float
    onednn_ms: float | None = None
    max_abs_error: float | None = None


def matmul_weight(x: torch.Tensor, weight_t: torch.Tensor) -> torch.Tensor:
    """x (P, Cin) @ weight_tᵀ, weight_t (Cout, Cin) contiguous -> (P, Cout). No autograd."""
    big = x.shape[0] * weight_t.numel() >= SMALLEST_WORTHWHILE
    if big and x.dtype == torch.float32 and x.device.type == "cpu" and probe_gemm().chosen == "onednn":
        return _onednn(x, weight_t)
    return x @ weight_t.t()


@functools.cache
def probe_gemm() -> GemmProbe:
    """Measure both products once a process, and check oneDNN's result against a float64 product.

    An order to use oneDNN is not followed where it is absent or wrong.
    """
    wanted = os.environ.get("FIP_GEMM", "")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PROBE_ROWS, PROBE_CHANNELS, generator=generator)
    weight_t = torch.randn(PROBE_CHANNELS, PROBE_CHANNELS, generator=generator)
    mkl_ms = _median_ms(lambda: x @ weight_t.t())
    try:
        found = _onednn(x, weight_t)
        onednn_ms = _median_ms(lambda: _onednn(x, weight_t))
    except (AttributeError, RuntimeError) as error:
        return GemmProbe("mkl", f"oneDNN's product is not available: {type(error).__name__}", mkl_ms)
    error_abs = float((found.double() - x.double() @ weight_t.double().t()).abs().max())
    if error_abs > LARGEST_ERROR:
        return GemmProbe("mkl", f"oneDNN's product is not exact to {LARGEST_ERROR:g}", mkl_ms, onednn_ms, error_abs)
    if wanted in ("mkl", "onednn"):
        return GemmProbe(wanted, "FIP_GEMM says so", mkl_ms, onednn_ms, error_abs)
    speed = mkl_ms / onednn_ms
    chosen = "onednn" if speed >= MARGIN else "mkl"
    return GemmProbe(chosen, f"oneDNN is {speed:.2f}x as fast as torch.mm here, {MARGIN}x is asked for", mkl_ms, onednn_ms, error_abs)


def _onednn(x: torch.Tensor, weight_t: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_t, None, "none", [], "")
    return product


def _median_ms(call: Callable[[], torch.Tensor], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
