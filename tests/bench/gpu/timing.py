"""Medians on a device: a run counts until the device is done with it."""

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP = 3  # the first compiles and measures ways, and memory is taken


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each: all a few times to warm up, then `rounds` rounds of all in turn."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + WARM_UP):
        for name, run in contenders.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in times.items()}
