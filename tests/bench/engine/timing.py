"""Medians of interleaved runs, and what the machine can do at most."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.bench.report import Row

GEMM_SIDE = 2048
GEMM_GFLOP = 2 * GEMM_SIDE**3 / 1e9
COPIED_FLOATS = 40_000_000


def medians(contenders: dict[str, Callable[[], object]], threads: int, rounds: int) -> dict[str, float]:
    """Seconds of each: all once to warm up, then `rounds` rounds of all in turn."""
    torch.set_num_threads(threads)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def gemms() -> dict[str, Callable[[], object]]:
    """The largest products there are to be had: MKL's, and oneDNN's where it is."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(GEMM_SIDE, GEMM_SIDE, generator=generator) for _ in range(2))
    return {"gemm mkl": lambda: a @ b, "gemm onednn": lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")}


def copies() -> dict[str, Callable[[], object]]:
    """A copy of memory too large for any cache."""
    source, target = torch.ones(COPIED_FLOATS), torch.zeros(COPIED_FLOATS)
    return {"copy": lambda: target.copy_(source)}


@dataclass(frozen=True)
class Machine:
    """gflops: the best fp32 product, 1e9 operations a second. bandwidth: bytes read and written by a copy, 1e9 a second."""

    threads: int
    gflops: float
    bandwidth: float

    @classmethod
    def of(cls, seconds: dict[str, float], threads: int) -> "Machine":
        """From the medians of `gemms` and `copies`."""
        best = min(seconds["gemm mkl"], seconds["gemm onednn"])
        return cls(threads, GEMM_GFLOP / best, 8 * COPIED_FLOATS / 1e9 / seconds["copy"])


def row(name: str, value: float, unit: str, least: float | None = None, most: float | None = None) -> Row:
    """A line of the result, with four digits; without a bar there is nothing that could not hold."""
    bar = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else None
    holds = (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "bar": bar, "holds": holds}


def say(text: str) -> None:
    """Progress, where people look and programs do not."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
