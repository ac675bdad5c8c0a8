"""The matrix product of the torch engine: MKL through torch.mm, or oneDNN where it is right and faster.

On some AMD processors MKL runs fp32 at half the speed of oneDNN, on others and on Intel's it does as well, so a probe decides on
the machine itself, once a process. oneDNN has to be faster by a margin, so that noise does not change the last bits of an answer
from one process to the next; FIP_GEMM=mkl or onednn decides without a measurement. Only float32 on the CPU has the choice.
n rows, C channels.
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
FINE_STEP, FINE_UP_TO, COARSE_STEP = 64, 1024, 256  # rows


@dataclass(frozen=True)
class GemmProbe:
    """What the probe found. Times are medians in milliseconds of one (8192, 128) · (128, 128) product."""

    chosen: str
    reason: str
    mkl_ms: float
    onednn_ms: float | None = None
    max_abs_error: float | None = None


def round_up(rows: int) -> int:
    """A number of rows that few others share.

    oneDNN compiles a kernel for every shape it has not met, which takes longer than many a product; the taps of every new batch
    have new sizes. So products run on rounded sizes, and what is past the end is not read.
    """
    step = FINE_STEP if rows <= FINE_UP_TO else COARSE_STEP
    return -(-rows // step) * step


def always_onednn(like: torch.Tensor) -> bool:
    """Whether torch.mm itself takes tensors of this kind to oneDNN."""
    return like.device.type == "cpu" and like.dtype in (torch.bfloat16, torch.float16)


class Products:
    """x (n, Cin) @ weight_tᵀ for many x of one kind, from one pair of buffers. No autograd.

    like: a tensor of the device and dtype of the factors. rows: the largest n. weight_t is (Cout, Cin).
    """

    def __init__(self, like: torch.Tensor, rows: int, cin: int, cout: int) -> None:
        on_cpu = like.device.type == "cpu"
        self._choice = on_cpu and like.dtype == torch.float32
        self._rounds = always_onednn(like)
        self._gathered = like.new_empty(round_up(rows), cin)
        self._products = like.new_empty(round_up(rows), cout)

    def gathered(self, x: torch.Tensor, rows: torch.Tensor, weight_t: torch.Tensor) -> torch.Tensor:
        """x[rows] @ weight_tᵀ: (n, Cout), valid until the next call."""
        n = rows.shape[0]
        torch.index_select(x, 0, rows, out=self._gathered[:n])
        if self._to_onednn(n, weight_t):
            return _onednn(self._gathered[: round_up(n)], weight_t)[:n]
        size = round_up(n) if self._rounds else n
        torch.mm(self._gathered[:size], weight_t.t(), out=self._products[:size])
        return self._products[:n]

    def gathered_into(self, out: torch.Tensor, x: torch.Tensor, rows: torch.Tensor, weight_t: torch.Tensor) -> None:
        """out (n, Cout) = x[rows] @ weight_tᵀ."""
        gathered = self._gathered[: rows.shape[0]]
        torch.index_select(x, 0, rows, out=gathered)
        torch.mm(gathered, weight_t.t(), out=out)

    def add_plain(self, out: torch.Tensor, x: torch.Tensor, weight_t: torch.Tensor) -> None:
        """out (n, Cout) += x (n, Cin) @ weight_tᵀ."""
        n = x.shape[0]
        if self._to_onednn(n, weight_t):
            out += _onednn(self._padded(x), weight_t)[:n]
        elif out.dtype == x.dtype and not self._rounds:
            out.addmm_(x, weight_t.t())
        else:
            out += (self._padded(x) if self._rounds else x).mm(weight_t.t())[:n]

    def _to_onednn(self, n: int, weight_t: torch.Tensor) -> bool:
        return self._choice and n * weight_t.numel() >= SMALLEST_WORTHWHILE and probe_gemm().chosen == "onednn"

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == round_up(len(x)):
            return x
        self._gathered[: len(x)] = x
        return self._gathered[: round_up(len(x))]


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
